"""Files inside a wheel, or any other zip archive, read without unpacking it."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

DAMAGED = (OSError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What reading a damaged zip archive raises: that a method is not known, or a file encrypted, is a `RuntimeError`."""


def zipped(path: Path, names: Sequence[str], *, what: str, get: str) -> list[bytes]:
    """The files of these names in the archive at `path`.

    Raises `ValueError` in one line, which calls them `what` and says how to `get` them, where they cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return [archive.read(name) for name in names]
    except DAMAGED as error:
        said = " ".join(str(error).split()) or "it ends too soon"
        raise ValueError(f"cannot read {what} in {path} ({said}); download it again: {get}") from None
