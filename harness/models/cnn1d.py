"""A small convolutional network of signals: a patch stem of `width` channels, two strided convolutions, logits.

Made to be fused, as the images' is (see `harness.models.cnn`): the stem's overlapping patches are cut once for the
whole split, every layer is a matrix product, and activations stand `[channels, positions, batch]`.
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

CONVOLUTIONS = ("conv_1", "conv_2")
PATCH = 5
"""Samples of a stem patch; patches start at every second sample."""


def _positions(input_shape: Shape) -> tuple[int, int, int]:
    """Positions after the stem and after each convolution."""
    stem = strided(input_shape[1])
    return stem, strided(stem), strided(strided(stem))


def layers(width: int, input_shape: Shape, num_classes: int) -> dict[str, Layer]:
    """Stem, two convolutions, logits; weights are matrices `[out, in]`, a convolution's `in` is (place, channel)."""
    patch_values, places = input_shape[0] * PATCH, _positions(input_shape)[-1]

    def convolution(inside: int) -> Layer:
        return Layer((2 * width, KERNEL * inside), fan_in=KERNEL * inside, axes=((2 * width,), (KERNEL, inside)))

    return {
        "stem.weight": Layer((width, patch_values), fan_in=patch_values),
        "stem.bias": Layer((width, 1)),
        "conv_1.weight": convolution(width),
        "conv_1.bias": Layer((2 * width, 1)),
        "conv_2.weight": convolution(2 * width),
        "conv_2.bias": Layer((2 * width, 1)),
        "logits.weight": Layer(
            (num_classes, 2 * width * places),
            fan_in=2 * width * places,
            gain=1.0,
            axes=((num_classes,), (2 * width, places)),
        ),
        "logits.bias": Layer((num_classes, 1)),
    }


def prepare(inputs: Tensor) -> Tensor:
    """Signals `[examples, channels, length]` -> patches `[examples, patch values, positions]`; zero outside."""
    cut = F.pad(inputs, (PATCH // 2, PATCH // 2)).unfold(-1, PATCH, 2)  # [examples, channels, positions, PATCH]
    return cut.movedim(-1, -2).flatten(1, 2).contiguous()


def apply(params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Prepared inputs `[batch, patch values, positions]` -> logits `[batch, classes]`."""
    if params["stem.weight"].ndim == 3 and not torch.is_grad_enabled():
        return logits(params, inputs, CONVOLUTIONS)
    maps = _maps(params, inputs)
    return _logits(params, maps.view(*maps.shape[:-2], -1, inputs.shape[-3]))


def embed(params: Mapping[str, Tensor], inputs: Tensor) -> dict[str, Tensor]:
    """Prepared inputs `[batch, patch values, positions]` -> the last convolution's map, flattened and as it is."""
    maps, batch = _maps(params, inputs), inputs.shape[-3]
    return {
        "embedding": maps.view(*maps.shape[:-2], -1, batch).mT,
        "map": maps.view(*maps.shape[:-1], -1, batch).movedim(-1, -3),
    }


def head(params: Mapping[str, Tensor], embedding: Tensor) -> Tensor:
    """Embedding `[batch, features]` -> logits `[batch, classes]`."""
    return _logits(params, embedding.mT)


def _maps(params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """The last convolution's map, `[channels, places x batch]`."""
    batch = inputs.shape[-3]
    hidden = F.relu(product(params["stem.weight"], inputs.movedim(-3, -1).flatten(-2)) + params["stem.bias"])
    for name in CONVOLUTIONS:
        around = neighbourhoods(hidden.view(*hidden.shape[:-1], -1, batch), axes=1)
        hidden = F.relu(params[f"{name}.weight"] @ around + params[f"{name}.bias"])
    return hidden


def _logits(params: Mapping[str, Tensor], features: Tensor) -> Tensor:
    return (params["logits.weight"] @ features + params["logits.bias"]).mT


def macs(width: int, input_shape: Shape, num_classes: int) -> int:
    """Multiply-accumulates of one example."""
    stem, first, second = _positions(input_shape)
    convolutions = KERNEL * 2 * width * width * (first + 2 * second)
    return stem * input_shape[0] * PATCH * width + convolutions + second * 2 * width * num_classes


PARTS = Parts(embed, head, points=("embedding", "map"))
BY_HAND = partial(by_hand, convolutions=CONVOLUTIONS)
CNN1D = Family("cnn1d", layers, prepare, apply, macs, PARTS, stacks=True, pads=True, by_hand=BY_HAND)
