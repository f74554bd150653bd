"""A strided 3-wide convolution along one or two axes as a matrix product: the copy that makes it one.

For students that are trained fused: `weight @ neighbourhoods(maps, axes)` with weights `[out, places x channels]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product
from types import EllipsisType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

KERNEL = 3
STRIDE = 2
Index = tuple[EllipsisType | slice | int, ...]


def strided(size: int) -> int:
    """What a 3-wide convolution of stride 2 and padding 1 leaves of `size` positions."""
    return (size + 1) // STRIDE


def neighbourhoods(maps: Tensor, axes: int) -> Tensor:
    """Every second place's 3-wide neighbourhood as a column: `[channels, *places, batch]` -> `[in, columns]`.

    `axes` is the number of axes of the places. Rows of the result are (place in the kernel, channel), columns (place,
    batch); outside the map is zero.
    """
    found: Tensor = _Neighbourhoods.apply(maps, axes)  # type: ignore[no-untyped-call]
    return found


def spread_back(gradient: Tensor, shape: Sequence[int], axes: int) -> Tensor:
    """The gradient at maps of this shape, of that at their neighbourhoods."""
    students, channels, places, batch = shape[: -2 - axes], shape[-2 - axes], shape[-1 - axes : -1], shape[-1]
    after = (strided(size) for size in places)
    parts = gradient.reshape(*students, *(KERNEL,) * axes, channels, *after, batch)
    padded = parts.new_zeros(*students, channels, *(size + 2 for size in places), batch)
    copies, inside = _indices(tuple(places))
    for there, part in copies:
        padded[there].add_(parts[part])
    return padded[inside]


class _Neighbourhoods(torch.autograd.Function):
    """The copy; any leading axes are students.

    Autograd's own backward fills a tensor of zeros for each of the nine places: a third of a narrow student's step.
    """

    @staticmethod
    def forward(maps: Tensor, axes: int) -> Tensor:
        places = F.pad(maps, (0, 0, *(1, 1) * axes))
        for _ in range(axes):  # the kernel's axes gather at the end: [..., channels, *places, batch, *kernel]
            places = places.unfold(-1 - axes, KERNEL, STRIDE)
        kernel = tuple(range(-axes, 0))
        places = places.movedim(kernel, tuple(axis - 2 - axes for axis in kernel))
        return places.flatten(-2 - 2 * axes, -2 - axes).flatten(-1 - axes, -1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:  # noqa: ARG004 - torch calls it so
        ctx.shape, ctx.axes = inputs[0].shape, inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return spread_back(grads[0], ctx.shape, ctx.axes), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], maps: Tensor, axes: int) -> tuple[Tensor, int]:  # noqa: ARG004
        return neighbourhoods(maps.movedim(in_dims[0], 0), axes), 0


@cache
def _indices(places: tuple[int, ...]) -> tuple[list[tuple[Index, Index]], Index]:
    """For every place in the kernel, where its copy lies in the padded map, and its part; the map without padding."""
    rest = (slice(None),) * (len(places) + 2)  # of a part: channels, places, batch
    copies: list[tuple[Index, Index]] = []
    for at in product(range(KERNEL), repeat=len(places)):
        there = (slice(i, i + STRIDE * strided(size) - 1, STRIDE) for i, size in zip(at, places, strict=True))
        copies.append(((..., *there, slice(None)), (..., *at, *rest)))
    return copies, (..., *(slice(1, size + 1) for size in places), slice(None))
