"""Pickles of numpy arrays, numbers, text and their containers, read without running anything else.

The one place of the harness that unpickles: CIFAR's python version, once a file's checksum is the published one. What a
pickle may name is a closed list of numpy's functions and our own; anything else is refused, not imported.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def _latin1(text: str, codec: str) -> bytes:
    """How an old protocol keeps the bytes of Python 3. Raises `ValueError` for any other codec."""
    if codec != "latin1":
        raise ValueError(f"it names the codec {codec!r}")
    return text.encode(codec)


_reconstruct: Any = np.empty(0).__reduce__()[0]
ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
}
BROKEN = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError, OverflowError, MemoryError,
    ImportError,
)  # fmt: skip
"""What reading a damaged pickle raises."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """What the pickle names, of the closed list."""
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
