"""A small convolutional network: a patch stem of `width` channels, a strided 3x3 convolution of twice as many, logits.

Made to be fused. A convolution on a CPU gains nothing from fusing, and grouped convolutions round differently from
single ones, so both layers are matrix products: the stem's patches are cut once for the whole split, the 3x3
neighbourhoods are copied side by side. Activations stand `[channels, rows, columns, batch]`, so that every copy and
every product runs along the batch; a fused student is the same to the bit as the student alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.models.family import Family, Layer, Shape

KERNEL = 3


def patch_size(input_shape: Shape) -> int:
    """The side of a stem patch: about seven patches across the image, and at least two pixels."""
    return max(2, min(input_shape[1:]) // 7)


def _grid(input_shape: Shape) -> tuple[int, int]:
    """Rows and columns of patches; the image is padded to whole patches."""
    patch = patch_size(input_shape)
    return -(-input_shape[1] // patch), -(-input_shape[2] // patch)


def _strided(size: int) -> int:
    """What a 3-wide convolution of stride 2 and padding 1 leaves of `size` positions."""
    return (size + 1) // 2


def layers(width: int, input_shape: Shape, num_classes: int) -> dict[str, Layer]:
    """Stem, convolution, logits; weights are matrices `[out, in]`, the convolution's `in` is (place, channel)."""
    patch_values = input_shape[0] * patch_size(input_shape) ** 2
    rows, columns = _grid(input_shape)
    features = 2 * width * _strided(rows) * _strided(columns)
    around = KERNEL * KERNEL * width
    return {
        "stem.weight": Layer((width, patch_values), fan_in=patch_values),
        "stem.bias": Layer((width, 1)),
        "conv.weight": Layer((2 * width, around), fan_in=around),
        "conv.bias": Layer((2 * width, 1)),
        "logits.weight": Layer((num_classes, features), fan_in=features, gain=1.0),
        "logits.bias": Layer((num_classes, 1)),
    }


def prepare(inputs: Tensor) -> Tensor:
    """Images `[examples, channels, height, width]` -> patches `[examples, patch values, rows, columns]`."""
    shape = tuple(inputs.shape[1:])
    patch, (rows, columns) = patch_size(shape), _grid(shape)
    padded = F.pad(inputs, (0, columns * patch - shape[2], 0, rows * patch - shape[1]))
    cut = padded.reshape(len(inputs), shape[0], rows, patch, columns, patch)
    return cut.permute(0, 1, 3, 5, 2, 4).reshape(len(inputs), shape[0] * patch * patch, rows, columns).contiguous()


def apply(params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Prepared inputs `[batch, patch values, rows, columns]` -> logits `[batch, classes]`."""
    batch, patch_values, rows, columns = inputs.shape
    patches = inputs.permute(1, 2, 3, 0).reshape(patch_values, rows * columns * batch)
    hidden = F.relu(params["stem.weight"] @ patches + params["stem.bias"])
    around = neighbourhoods(hidden.view(-1, rows, columns, batch))
    hidden = F.relu(params["conv.weight"] @ around + params["conv.bias"])
    return (params["logits.weight"] @ hidden.view(-1, batch) + params["logits.bias"]).T


class _Neighbourhoods(torch.autograd.Function):
    """The copy that turns the convolution into a matrix product; any leading axes are students.

    Autograd's own backward fills a tensor of zeros for each of the nine places: a third of a narrow student's step.
    """

    @staticmethod
    def forward(maps: Tensor) -> Tensor:
        padded = F.pad(maps, (0, 0, 1, 1, 1, 1))
        places = padded.unfold(-3, KERNEL, 2).unfold(-3, KERNEL, 2)  # [..., channels, rows, columns, batch, 3, 3]
        return places.movedim((-2, -1), (-6, -5)).flatten(-6, -4).flatten(-3, -1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:  # noqa: ARG004 - torch calls it so
        ctx.shape = inputs[0].shape

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        *students, channels, rows, columns, batch = ctx.shape
        height, width = _strided(rows), _strided(columns)
        parts = grads[0].reshape(*students, KERNEL, KERNEL, channels, height, width, batch)
        padded = parts.new_zeros(*students, channels, rows + 2, columns + 2, batch)
        for row in range(KERNEL):
            for column in range(KERNEL):
                place = padded[..., row : row + 2 * height - 1 : 2, column : column + 2 * width - 1 : 2, :]
                place.add_(parts[..., row, column, :, :, :, :])
        return padded[..., 1 : rows + 1, 1 : columns + 1, :]

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], maps: Tensor) -> tuple[Tensor, int]:  # noqa: ARG004
        return neighbourhoods(maps.movedim(in_dims[0], 0)), 0


def neighbourhoods(maps: Tensor) -> Tensor:
    """Every second place's 3x3 neighbourhood as a column: `[channels, rows, columns, batch]` -> `[9 channels, places]`.

    Rows of the result are (place in the kernel, channel), columns (row, column, batch); outside the map is zero.
    """
    found: Tensor = _Neighbourhoods.apply(maps)  # type: ignore[no-untyped-call]
    return found


def macs(width: int, input_shape: Shape, num_classes: int) -> int:
    """Multiply-accumulates of one example."""
    rows, columns = _grid(input_shape)
    places = _strided(rows) * _strided(columns)
    patch_values = input_shape[0] * patch_size(input_shape) ** 2
    stem = rows * columns * patch_values * width
    return stem + places * KERNEL * KERNEL * width * 2 * width + places * 2 * width * num_classes


CNN = Family("cnn", layers, prepare, apply, macs)
