"""The image teachers' network: three 3x3 convolutions with two poolings, a hidden layer, logits.

Wide and compute-bound, so it is trained alone, with the library's convolutions.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from harness.models.family import Family, Layer, Parts, Shape

HIDDEN = 64


def _channels(width: int, input_shape: Shape) -> tuple[tuple[int, int], ...]:
    """Channels into and out of each convolution."""
    return (input_shape[0], width), (width, 2 * width), (2 * width, 2 * width)


def _features(width: int, input_shape: Shape) -> int:
    return 2 * width * (input_shape[1] // 4) * (input_shape[2] // 4)


def layers(width: int, input_shape: Shape, num_classes: int) -> dict[str, Layer]:
    """Three convolutions of width, 2 width, 2 width channels; 64 hidden units; the logits."""
    found = {}
    for index, (inside, outside) in enumerate(_channels(width, input_shape), start=1):
        found[f"conv_{index}.weight"] = Layer((outside, inside, 3, 3), fan_in=inside * 9)
        found[f"conv_{index}.bias"] = Layer((outside,))
    features = _features(width, input_shape)
    return found | {
        "hidden.weight": Layer((HIDDEN, features), fan_in=features),
        "hidden.bias": Layer((HIDDEN,)),
        "logits.weight": Layer((num_classes, HIDDEN), fan_in=HIDDEN, gain=1.0),
        "logits.bias": Layer((num_classes,)),
    }


def prepare(inputs: Tensor) -> Tensor:
    """Images `[examples, channels, height, width]`, as they are."""
    return inputs


def embed(params: Mapping[str, Tensor], inputs: Tensor) -> dict[str, Tensor]:
    """Images `[batch, channels, height, width]` -> the hidden layer `[batch, 64]`, and what it reads."""
    maps = inputs
    for index in (1, 2, 3):
        maps = F.relu(F.conv2d(maps, params[f"conv_{index}.weight"], params[f"conv_{index}.bias"], padding=1))
        if index < 3:
            maps = F.max_pool2d(maps, 2)
    hidden = F.relu(F.linear(maps.flatten(1), params["hidden.weight"], params["hidden.bias"]))
    return {"embedding": hidden, "map": maps}


def head(params: Mapping[str, Tensor], embedding: Tensor) -> Tensor:
    """Embedding `[batch, 64]` -> logits `[batch, classes]`."""
    return F.linear(embedding, params["logits.weight"], params["logits.bias"])


def apply(params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Images `[batch, channels, height, width]` -> logits `[batch, classes]`."""
    return head(params, embed(params, inputs)["embedding"])


def macs(width: int, input_shape: Shape, num_classes: int) -> int:
    """Multiply-accumulates of one example."""
    height, across = input_shape[1:]
    total = 0
    for index, (inside, outside) in enumerate(_channels(width, input_shape)):
        total += (height >> index) * (across >> index) * inside * outside * 9
    return total + _features(width, input_shape) * HIDDEN + HIDDEN * num_classes


CONV = Family("conv", layers, prepare, apply, macs, Parts(embed, head, points=("embedding", "map")))
