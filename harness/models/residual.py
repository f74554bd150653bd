"""Residual networks for images and signals (He 2015, arXiv:1512.03385): three stages of `blocks` blocks, by width.

No batch norm: it mixes the examples of a batch, and does not map over students. Each block's branch is multiplied by a
number of its own that starts at 0, so that a network of any depth starts as a shallow one (SkipInit: De and Smith 2020,
arXiv:2002.10444). Convolutions are the library's, so students are mapped, not stacked. Add a depth at the end, and to
`harness.models`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from harness.models.family import Family, Layer, Parts, Shape

STAGES, SIDE = 3, 3


@dataclass(frozen=True)
class _Block:
    """One block: channels in and out, and the stride of its first convolution."""

    name: str
    inside: int
    outside: int
    stride: int


def _blocks(blocks: int, width: int) -> Iterator[_Block]:
    """All blocks in order: stages of width, 2 width, 4 width channels, each but the first halving the places."""
    inside = width
    for stage in range(STAGES):
        for place in range(blocks):
            outside = width << stage
            yield _Block(f"block_{stage + 1}_{place + 1}", inside, outside, 2 if stage and not place else 1)
            inside = outside


def residual(blocks: int, axes: int = 2) -> Family:
    """The family with so many blocks in each of its three stages; it is called by its number of layers.

    `axes` is 2 for images `[examples, channels, height, width]`, 1 for signals `[examples, channels, length]`.
    """
    kernel = (SIDE,) * axes
    around = math.prod(kernel)

    def layers(width: int, input_shape: Shape, num_classes: int) -> dict[str, Layer]:
        """A stem 3 wide, blocks of two such convolutions, 1-wide ones past those that change the shape, the logits."""
        found = {
            "stem.weight": Layer((width, input_shape[0], *kernel), fan_in=input_shape[0] * around),
            "stem.bias": Layer((width,)),
        }
        for block in _blocks(blocks, width):
            found |= _layers(block, kernel)
        features = width << (STAGES - 1)
        return found | {
            "logits.weight": Layer((num_classes, features), fan_in=features, gain=1.0),
            "logits.bias": Layer((num_classes,)),
        }

    def embed(params: Mapping[str, Tensor], inputs: Tensor) -> dict[str, Tensor]:
        """Inputs `[batch, channels, *places]` -> the last map, and its mean `[batch, 4 width]`."""
        maps = F.relu(_conv(inputs, params["stem.weight"], params["stem.bias"], 1, 1))
        for block in _blocks(blocks, params["stem.bias"].shape[0]):
            maps = _through(block, params, maps)
        return {"embedding": maps.flatten(2).mean(-1), "map": maps}

    def apply(params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Inputs `[batch, channels, *places]` -> logits `[batch, classes]`."""
        return head(params, embed(params, inputs)["embedding"])

    def macs(width: int, input_shape: Shape, num_classes: int) -> int:
        """Multiply-accumulates of one example."""
        places = input_shape[1:]
        total = math.prod(places) * input_shape[0] * width * around
        for block in _blocks(blocks, width):
            places = tuple(-(-side // block.stride) for side in places)
            past = block.inside * block.outside if block.inside != block.outside else 0
            total += math.prod(places) * (around * (block.inside + block.outside) * block.outside + past)
        return total + (width << (STAGES - 1)) * num_classes

    parts = Parts(embed, head, points=("embedding", "map"))
    name = f"resnet{2 * STAGES * blocks + 2}{'' if axes == 2 else '_1d'}"
    return Family(name, layers, prepare, apply, macs, parts, pads=True)


def prepare(inputs: Tensor) -> Tensor:
    """Inputs `[examples, channels, *places]`, as they are."""
    return inputs


def head(params: Mapping[str, Tensor], embedding: Tensor) -> Tensor:
    """Embedding `[batch, 4 width]` -> logits `[batch, classes]`."""
    return F.linear(embedding, params["logits.weight"], params["logits.bias"])


def _layers(block: _Block, kernel: Shape) -> dict[str, Layer]:
    inside, outside, around = block.inside, block.outside, math.prod(kernel)
    found = {
        f"{block.name}.conv_1.weight": Layer((outside, inside, *kernel), fan_in=inside * around),
        f"{block.name}.conv_1.bias": Layer((outside,)),
        f"{block.name}.conv_2.weight": Layer((outside, outside, *kernel), fan_in=outside * around),
        f"{block.name}.conv_2.bias": Layer((outside,)),
        f"{block.name}.scale": Layer((1,)),
    }
    if inside != outside:
        found[f"{block.name}.past.weight"] = Layer((outside, inside, *[1] * len(kernel)), fan_in=inside, gain=1.0)
    return found


def _through(block: _Block, params: Mapping[str, Tensor], maps: Tensor) -> Tensor:
    """What a block makes of its maps `[batch, channels, *places]`."""

    def conv(name: str, maps: Tensor, stride: int, padding: int) -> Tensor:
        weight, bias = params[f"{block.name}.{name}.weight"], params.get(f"{block.name}.{name}.bias")
        return _conv(maps, weight, bias, stride, padding)

    branch = conv("conv_2", F.relu(conv("conv_1", maps, block.stride, 1)), 1, 1)
    past = maps if block.inside == block.outside else conv("past", maps, block.stride, 0)
    return F.relu(past + params[f"{block.name}.scale"] * branch)


def _conv(maps: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    function = F.conv1d if weight.ndim == 3 else F.conv2d
    return function(maps, weight, bias, stride, padding)


RESNET8, RESNET14, RESNET20 = residual(1), residual(2), residual(3)
RESIDUAL = {family.name: family for family in (RESNET8, RESNET14, RESNET20)}
"""Those for images by name, as a task lists them."""
RESIDUAL_1D = {name: residual(blocks, axes=1) for name, blocks in (("resnet8", 1), ("resnet14", 2))}
"""Those for signals."""
