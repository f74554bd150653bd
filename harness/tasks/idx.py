"""Files in the IDX format of MNIST, plain or gzipped: a magic number, big-endian sizes, and bytes."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from pathlib import Path

import numpy as np

UNSIGNED_BYTES = 0x08
GZIP = b"\x1f\x8b"


def read(path: Path, shape: tuple[int, ...], sha256: str) -> np.ndarray:
    """The unsigned bytes of a file, of the given shape.

    `sha256` is that of the decompressed file: an archive may be packed again. No more is decompressed than a file of
    this shape has. Raises `ValueError` in one line for a file that is unreadable or another one.
    """
    header = bytes((0, 0, UNSIGNED_BYTES, len(shape))) + np.array(shape, ">u4").tobytes()
    size = len(header) + math.prod(shape)
    found = _bytes(path, size + 1)
    if found[:4] != header[:4]:
        begins = found[:4].hex() or "nothing"
        raise ValueError(f"{path} is no IDX file of unsigned bytes in {len(shape)} axes: it begins with {begins}")
    if found[: len(header)] != header:
        sizes = np.frombuffer(found[4 : len(header)].ljust(len(header) - 4, b"\0"), ">u4").tolist()
        raise ValueError(f"{path} says that its sizes are {sizes}, not {list(shape)}")
    if len(found) != size:
        missing = f"is cut short: {len(found):,} bytes of" if len(found) < size else "has more than its"
        raise ValueError(f"{path} {missing} {size:,}")
    if hashlib.sha256(found).hexdigest() != sha256:
        raise ValueError(f"{path} is not the file that this task was made with; get it again")
    return np.frombuffer(found, np.uint8, offset=len(header)).reshape(shape)


def _bytes(path: Path, most: int) -> bytes:
    """Up to so many bytes of a file, decompressed where it is gzipped."""
    try:
        with path.open("rb") as file:
            packed = file.read(len(GZIP)) == GZIP
            file.seek(0)
            if not packed:
                return file.read(most)
            with gzip.open(file) as unpacked:
                return unpacked.read(most)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"cannot read {path} ({error}); get it again") from None
