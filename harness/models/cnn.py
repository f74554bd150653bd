"""A small convolutional network: a patch stem of `width` channels, a strided 3x3 convolution of twice as many, logits.

Made to be fused. A convolution on a CPU gains nothing from fusing, and grouped convolutions round differently from
single ones, so both layers are matrix products: the stem's patches are cut once for the whole split, the 3x3
neighbourhoods are copied side by side. Activations stand `[channels, rows, columns, batch]`, so that every copy and
every product runs along the batch; a fused student is the same to the bit as the student alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.models.family import Family, Layer, Parts, Shape
from harness.models.neighbourhoods import KERNEL, neighbourhoods, strided
from harness.models.shared import product
from harness.models.strided import by_hand, logits

CONVOLUTIONS = ("conv",)


def patch_size(input_shape: Shape) -> int:
    """The side of a stem patch: about seven patches across the image, and at least two pixels."""
    return max(2, min(input_shape[1:]) // 7)


def _grid(input_shape: Shape) -> tuple[int, int]:
    """Rows and columns of patches; the image is padded to whole patches."""
    patch = patch_size(input_shape)
    return -(-input_shape[1] // patch), -(-input_shape[2] // patch)


def layers(width: int, input_shape: Shape, num_classes: int) -> dict[str, Layer]:
    """Stem, convolution, logits; weights are matrices `[out, in]`, the convolution's `in` is (place, channel)."""
    patch_values = input_shape[0] * patch_size(input_shape) ** 2
    rows, columns = _grid(input_shape)
    places = strided(rows) * strided(columns)
    around = KERNEL * KERNEL * width
    return {
        "stem.weight": Layer((width, patch_values), fan_in=patch_values),
        "stem.bias": Layer((width, 1)),
        "conv.weight": Layer((2 * width, around), fan_in=around, axes=((2 * width,), (KERNEL * KERNEL, width))),
        "conv.bias": Layer((2 * width, 1)),
        "logits.weight": Layer(
            (num_classes, 2 * width * places),
            fan_in=2 * width * places,
            gain=1.0,
            axes=((num_classes,), (2 * width, places)),
        ),
        "logits.bias": Layer((num_classes, 1)),
    }


def prepare(inputs: Tensor) -> Tensor:
    """Images `[examples, channels, height, width]` -> patches `[examples, patch values, rows, columns]`."""
    shape = tuple(inputs.shape[1:])
    patch, (rows, columns) = patch_size(shape), _grid(shape)
    padded = F.pad(inputs, (0, columns * patch - shape[2], 0, rows * patch - shape[1]))
    cut = padded.reshape(inputs.shape[0], shape[0], rows, patch, columns, patch)
    return cut.permute(0, 1, 3, 5, 2, 4).reshape(inputs.shape[0], shape[0] * patch * patch, rows, columns).contiguous()


def apply(params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Prepared inputs `[batch, patch values, rows, columns]` -> logits `[batch, classes]`."""
    if params["stem.weight"].ndim == 3 and not torch.is_grad_enabled():
        return logits(params, inputs, CONVOLUTIONS)
    maps = _maps(params, inputs)
    return _logits(params, maps.view(*maps.shape[:-2], -1, inputs.shape[-4]))


def embed(params: Mapping[str, Tensor], inputs: Tensor) -> dict[str, Tensor]:
    """Prepared inputs `[batch, patch values, rows, columns]` -> the last convolution's map, flattened and as it is."""
    maps, batch, rows = _maps(params, inputs), inputs.shape[-4], strided(inputs.shape[-2])
    return {
        "embedding": maps.view(*maps.shape[:-2], -1, batch).mT,
        "map": maps.view(*maps.shape[:-1], rows, -1, batch).movedim(-1, -4),
    }


def head(params: Mapping[str, Tensor], embedding: Tensor) -> Tensor:
    """Embedding `[batch, features]` -> logits `[batch, classes]`."""
    return _logits(params, embedding.mT)


def _maps(params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """The last convolution's map, `[channels, places x batch]`."""
    batch, _, rows, columns = inputs.shape[-4:]
    patches = inputs.movedim(-4, -1).flatten(-3)
    hidden = F.relu(product(params["stem.weight"], patches) + params["stem.bias"])
    around = neighbourhoods(hidden.view(*hidden.shape[:-1], rows, columns, batch), axes=2)
    return F.relu(params["conv.weight"] @ around + params["conv.bias"])


def _logits(params: Mapping[str, Tensor], features: Tensor) -> Tensor:
    return (params["logits.weight"] @ features + params["logits.bias"]).mT


def macs(width: int, input_shape: Shape, num_classes: int) -> int:
    """Multiply-accumulates of one example."""
    rows, columns = _grid(input_shape)
    places = strided(rows) * strided(columns)
    patch_values = input_shape[0] * patch_size(input_shape) ** 2
    stem = rows * columns * patch_values * width
    return stem + places * KERNEL * KERNEL * width * 2 * width + places * 2 * width * num_classes


PARTS = Parts(embed, head, points=("embedding", "map"))
BY_HAND = partial(by_hand, convolutions=CONVOLUTIONS)
CNN = Family("cnn", layers, prepare, apply, macs, PARTS, stacks=True, pads=True, by_hand=BY_HAND)
