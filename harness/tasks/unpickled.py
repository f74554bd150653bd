"""Pickles of arrays of bytes, numbers, text and their containers, read without running anything else.

The one place of the harness that unpickles: CIFAR's python version, once a file's checksum is the published one. What a
pickle may name is a closed list, and stands here for what is below, not for numpy's own: these crash on a wrong state.
Anything else that it names is refused, not imported.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


class _Said:
    """What a pickle says of an array or of a data type: `code` of the latter, and the state that it is to have."""

    __slots__ = ("code", "state")

    def __init__(self, code: object = None) -> None:
        self.code, self.state = code, None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _array(*_: object) -> _Said:
    """Stands for numpy's `_reconstruct`: an empty array, whose state follows."""
    return _Said()


def _dtype(code: object, *_: object) -> _Said:
    """Stands for numpy's `dtype`."""
    return _Said(code)


def _latin1(text: str, codec: str) -> bytes:
    """How an old protocol keeps the bytes of Python 3. Raises `ValueError` for any other codec."""
    if codec != "latin1":
        raise ValueError(f"it names the codec {codec!r}")
    return text.encode(codec)


ALLOWED: dict[tuple[str, str], Callable[..., Any] | str] = {
    ("numpy.core.multiarray", "_reconstruct"): _array,
    ("numpy._core.multiarray", "_reconstruct"): _array,
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _latin1,
}
BROKEN = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError, OverflowError, MemoryError,
)  # fmt: skip
"""What reading a damaged pickle raises."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """What stands for the name, of the closed list."""
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {f'{module}.{name}'!r}")
        return ALLOWED[module, name]


def load(data: bytes, path: Path) -> Any:
    """What a pickle of `path` holds; its old strings are bytes. Raises `ValueError` in one line for any other."""
    try:
        return _Reader(io.BytesIO(data), encoding="bytes").load()
    except BROKEN as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is refused, as no pickle of mere arrays: {said}") from None


def array(found: Any) -> np.ndarray | None:
    """The array of unsigned bytes that something in a pickle is; None for anything else."""
    state = found.state if isinstance(found, _Said) else None
    if not isinstance(state, tuple) or len(state) != 5:
        return None
    _, shape, dtype, by_column, raw = state
    if not isinstance(dtype, _Said) or dtype.code not in ("u1", b"u1") or by_column or not isinstance(raw, bytes):
        return None
    if not isinstance(shape, tuple) or any(type(size) is not int or size < 0 for size in shape):
        return None
    return np.frombuffer(raw, np.uint8).reshape(shape) if math.prod(shape) == len(raw) else None
