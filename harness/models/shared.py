"""The first layer of many students: those who see the same inputs multiply the same matrix, which is gathered once.

On a CPU a batched product reads a repeated matrix where it lies, and each of its products is the same to the bit as
that product alone. One large product for all of a group would be faster by some microseconds a student, but rounds
otherwise for layers of fewer than four rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def product(weight: Tensor, inputs: Tensor) -> Tensor:
    """`weight @ inputs` for inputs that need no gradient.

    Of one network: `[out, in] @ [in, columns]`. Of many, in groups of neighbours who share inputs, all of one size:
    `[students, out, in]` and `[groups, in, columns]` -> `[students, out, columns]`.
    """
    if weight.ndim == 2:
        return weight @ inputs
    found: Tensor = _Product.apply(weight, inputs)  # type: ignore[no-untyped-call]
    return found


class _Product(torch.autograd.Function):
    """Its backward goes to the weights alone."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, inputs: Tensor) -> Tensor:
        ctx.save_for_backward(inputs)
        return by_group(weight, inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (inputs,) = ctx.saved_tensors
        return by_group(grads[0], inputs.mT), None


def by_group(left: Tensor, right: Tensor) -> Tensor:
    """Products of students with what their groups have: `[students, ., .]` and `[groups, ., .]`. It has no gradient."""
    if len(left) == len(right):
        return torch.bmm(left, right)
    found = left.new_empty(*left.shape[:2], right.shape[2])
    size = len(left) // len(right)
    for own, rows, out in zip(right, torch.split(left, size), torch.split(found, size), strict=True):
        torch.bmm(rows, own.expand(size, *own.shape), out=out)
    return found
