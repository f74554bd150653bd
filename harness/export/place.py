"""A folder that is put in place whole, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.files import read_sealed


@contextmanager
def whole_folder(folder: Path, own: Collection[str], said_by: str, kind: str) -> Iterator[Path]:
    """An empty folder to write to, which takes the place of `folder` once it is written, and goes when that fails.

    What is there already is replaced where it is empty, or holds nothing but files named in `own` and a sealed JSON
    file `said_by` whose "format" is `kind`. Raises `ValueError` in one line for anything else, before anything is
    written. A kill leaves what was being written beside its place, as `.<name>.*.tmp`, and between the last two renames
    the old folder too, as `.<name>.*.old`.
    """
    folder = folder.resolve()
    refuse(folder, own, said_by, kind)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    except OSError as error:
        raise ValueError(f"cannot write to {folder.parent} ({error.strerror}); give another folder") from None
    try:
        yield fresh
        _to_disk(fresh)
        fresh.chmod(0o777 & ~_umask())  # mkdtemp's is the user's alone
        _swap(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def refuse(folder: Path, own: Collection[str], said_by: str, kind: str) -> None:
    """Raise `ValueError` in one line where a folder may not be replaced, as `whole_folder` says."""
    if not os.path.lexists(folder):
        return
    if folder in (Path.cwd(), *Path.cwd().parents):
        raise ValueError(f"{folder} is where this runs, and would be replaced; give another folder")
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give another one")
    inside = {path.name for path in folder.iterdir()}
    if not inside:
        return
    said = read_sealed(folder / said_by)
    if said is None or said.get("format") != kind:
        raise ValueError(f"{folder} is not empty and not an exported student; give another folder")
    if others := inside - set(own):
        raise ValueError(f"{folder} holds {min(others)!r} beside an exported student; give another folder")


def _swap(fresh: Path, folder: Path) -> None:
    """Rename `fresh` to `folder`; the old one comes back when that fails."""
    if not folder.exists():
        fresh.rename(folder)
        return
    old = fresh.with_suffix(".old")
    folder.rename(old)
    try:
        fresh.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old)


def _to_disk(folder: Path) -> None:
    if os.name != "posix":
        return
    for path in (*folder.iterdir(), folder):
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
