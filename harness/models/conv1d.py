"""The signal teachers' network: three 5-wide convolutions with two poolings, their mean, a hidden layer, logits.

Wide and compute-bound, so it is trained alone, with the library's convolutions.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from harness.models.family import Family, Layer, Parts, Shape

KERNEL = 5
HIDDEN = 64


def _channels(width: int, input_shape: Shape) -> tuple[tuple[int, int], ...]:
    """Channels into and out of each convolution."""
    return (input_shape[0], width), (width, 2 * width), (2 * width, 2 * width)


def layers(width: int, input_shape: Shape, num_classes: int) -> dict[str, Layer]:
    """Three convolutions of width, 2 width, 2 width channels; 64 hidden units; the logits."""
    found = {}
    for index, (inside, outside) in enumerate(_channels(width, input_shape), start=1):
        found[f"conv_{index}.weight"] = Layer((outside, inside, KERNEL), fan_in=inside * KERNEL)
        found[f"conv_{index}.bias"] = Layer((outside,))
    return found | {
        "hidden.weight": Layer((HIDDEN, 2 * width), fan_in=2 * width),
        "hidden.bias": Layer((HIDDEN,)),
        "logits.weight": Layer((num_classes, HIDDEN), fan_in=HIDDEN, gain=1.0),
        "logits.bias": Layer((num_classes,)),
    }


def prepare(inputs: Tensor) -> Tensor:
    """Signals `[examples, channels, length]`, as they are."""
    return inputs


def embed(params: Mapping[str, Tensor], inputs: Tensor) -> dict[str, Tensor]:
    """Signals `[batch, channels, length]` -> the hidden layer `[batch, 64]`, and the map whose mean it reads."""
    maps = inputs
    for index in (1, 2, 3):
        weight, bias = params[f"conv_{index}.weight"], params[f"conv_{index}.bias"]
        maps = F.relu(F.conv1d(maps, weight, bias, padding=KERNEL // 2))
        if index < 3:
            maps = F.max_pool1d(maps, 2)
    hidden = F.relu(F.linear(maps.mean(-1), params["hidden.weight"], params["hidden.bias"]))
    return {"embedding": hidden, "map": maps}


def head(params: Mapping[str, Tensor], embedding: Tensor) -> Tensor:
    """Embedding `[batch, 64]` -> logits `[batch, classes]`."""
    return F.linear(embedding, params["logits.weight"], params["logits.bias"])


def apply(params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Signals `[batch, channels, length]` -> logits `[batch, classes]`."""
    return head(params, embed(params, inputs)["embedding"])


def macs(width: int, input_shape: Shape, num_classes: int) -> int:
    """Multiply-accumulates of one example."""
    total = 0
    for index, (inside, outside) in enumerate(_channels(width, input_shape)):
        total += (input_shape[1] >> index) * inside * outside * KERNEL
    return total + 2 * width * HIDDEN + HIDDEN * num_classes


CONV1D = Family("conv1d", layers, prepare, apply, macs, Parts(embed, head, points=("embedding", "map")))
