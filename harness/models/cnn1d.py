"""A small convolutional network of signals: a patch stem of `width` channels, two strided convolutions, logits.

Made to be fused, as the images' is (see `harness.models.cnn`): the stem's overlapping patches are cut once for the
whole split, every layer is a matrix product, and activations stand `[channels, positions, batch]`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from harness.models.family import Family, Layer, Parts, Shape
from harness.models.neighbourhoods import KERNEL, neighbourhoods, strided

PATCH = 5
"""Samples of a stem patch; patches start at every second sample."""


def _positions(input_shape: Shape) -> tuple[int, int, int]:
    """Positions after the stem and after each convolution."""
    stem = strided(input_shape[1])
    return stem, strided(stem), strided(strided(stem))


def layers(width: int, input_shape: Shape, num_classes: int) -> dict[str, Layer]:
    """Stem, two convolutions, logits; weights are matrices `[out, in]`, a convolution's `in` is (place, channel)."""
    patch_values, features = input_shape[0] * PATCH, 2 * width * _positions(input_shape)[-1]
    return {
        "stem.weight": Layer((width, patch_values), fan_in=patch_values),
        "stem.bias": Layer((width, 1)),
        "conv_1.weight": Layer((2 * width, KERNEL * width), fan_in=KERNEL * width),
        "conv_1.bias": Layer((2 * width, 1)),
        "conv_2.weight": Layer((2 * width, KERNEL * 2 * width), fan_in=KERNEL * 2 * width),
        "conv_2.bias": Layer((2 * width, 1)),
        "logits.weight": Layer((num_classes, features), fan_in=features, gain=1.0),
        "logits.bias": Layer((num_classes, 1)),
    }


def prepare(inputs: Tensor) -> Tensor:
    """Signals `[examples, channels, length]` -> patches `[examples, patch values, positions]`; zero outside."""
    cut = F.pad(inputs, (PATCH // 2, PATCH // 2)).unfold(-1, PATCH, 2)  # [examples, channels, positions, PATCH]
    return cut.movedim(-1, -2).flatten(1, 2).contiguous()


def apply(params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Prepared inputs `[batch, patch values, positions]` -> logits `[batch, classes]`."""
    return _logits(params, _maps(params, inputs).view(-1, len(inputs)))


def embed(params: Mapping[str, Tensor], inputs: Tensor) -> dict[str, Tensor]:
    """Prepared inputs `[batch, patch values, positions]` -> the last convolution's map, flattened and as it is."""
    maps, batch = _maps(params, inputs), len(inputs)
    return {"embedding": maps.view(-1, batch).T, "map": maps.view(len(maps), -1, batch).movedim(-1, 0)}


def head(params: Mapping[str, Tensor], embedding: Tensor) -> Tensor:
    """Embedding `[batch, features]` -> logits `[batch, classes]`."""
    return _logits(params, embedding.T)


def _maps(params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """The last convolution's map, `[channels, places x batch]`."""
    batch, patch_values, positions = inputs.shape
    patches = inputs.permute(1, 2, 0).reshape(patch_values, positions * batch)
    hidden = F.relu(params["stem.weight"] @ patches + params["stem.bias"])
    for name in ("conv_1", "conv_2"):
        around = neighbourhoods(hidden.view(len(hidden), -1, batch), axes=1)
        hidden = F.relu(params[f"{name}.weight"] @ around + params[f"{name}.bias"])
    return hidden


def _logits(params: Mapping[str, Tensor], features: Tensor) -> Tensor:
    return (params["logits.weight"] @ features + params["logits.bias"]).T


def macs(width: int, input_shape: Shape, num_classes: int) -> int:
    """Multiply-accumulates of one example."""
    stem, first, second = _positions(input_shape)
    convolutions = KERNEL * 2 * width * width * (first + 2 * second)
    return stem * input_shape[0] * PATCH * width + convolutions + second * 2 * width * num_classes


CNN1D = Family("cnn1d", layers, prepare, apply, macs, Parts(embed, head, points=("embedding", "map")))
