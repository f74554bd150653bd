"""Arrays and tensors that a user gives, as tensors of two kinds: float32 and int64."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

NUMBER_THEM = "; number them alike in all splits, as np.unique(labels, return_inverse=True) does"


def tensor_of(values: Any, what: str) -> Tensor:
    """An array or tensor as a tensor on the CPU: real numbers as float32, whole ones as int64."""
    if not isinstance(values, Tensor):
        array = np.asarray(values)
        if array.dtype.kind not in "fiub":
            raise ValueError(
                f"{what} are an array of {array.dtype}, not of numbers{NUMBER_THEM * what.endswith('labels')}"
            )
        array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)  # a copy, in this machine's order
        values = torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))
    if values.is_complex():
        raise ValueError(f"{what} are a tensor of {values.dtype}, not of numbers")
    found: Tensor = values.detach().cpu()
    return found.float() if found.is_floating_point() else found.long()


def whole(values: Any, name: str) -> Tensor:
    """Labels as int64; real numbers must be whole."""
    found = tensor_of(values, f"{name} labels")
    if not torch.equal(found, found.long().to(found.dtype)):
        raise ValueError(f"{name} labels are real numbers, not classes from 0")
    return found.long()
