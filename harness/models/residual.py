"""Residual networks for images (He 2015, arXiv:1512.03385): three stages of `blocks` blocks each, by width and depth.

No batch norm: it mixes the examples of a batch, and does not map over students. Each block's branch is multiplied by a
number of its own that starts at 0, so that a network of any depth starts as a shallow one (SkipInit: De and Smith 2020,
arXiv:2002.10444). Convolutions are the library's, so students are mapped, not stacked. Add a depth at the end, and to
`harness.models`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from harness.models.family import Family, Layer, Parts, Shape

STAGES = 3


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


def residual(blocks: int) -> Family:
    """The family with so many blocks in each of its three stages; it is called by its number of layers."""

    def layers(width: int, input_shape: Shape, num_classes: int) -> dict[str, Layer]:
        """A 3x3 stem, blocks of two 3x3 convolutions, 1x1 ones past those that change the shape, the logits."""
        found = {
            "stem.weight": Layer((width, input_shape[0], 3, 3), fan_in=input_shape[0] * 9),
            "stem.bias": Layer((width,)),
        }
        for block in _blocks(blocks, width):
            found |= _layers(block)
        features = width << (STAGES - 1)
        return found | {
            "logits.weight": Layer((num_classes, features), fan_in=features, gain=1.0),
            "logits.bias": Layer((num_classes,)),
        }

    def embed(params: Mapping[str, Tensor], inputs: Tensor) -> dict[str, Tensor]:
        """Images `[batch, channels, height, width]` -> the last map, and its mean `[batch, 4 width]`."""
        maps = F.relu(F.conv2d(inputs, params["stem.weight"], params["stem.bias"], padding=1))
        for block in _blocks(blocks, params["stem.bias"].shape[0]):
            maps = _through(block, params, maps)
        return {"embedding": maps.mean((-2, -1)), "map": maps}

    def apply(params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Images `[batch, channels, height, width]` -> logits `[batch, classes]`."""
        return head(params, embed(params, inputs)["embedding"])

    def macs(width: int, input_shape: Shape, num_classes: int) -> int:
        """Multiply-accumulates of one example."""
        rows, columns = input_shape[1:]
        total = rows * columns * input_shape[0] * width * 9
        for block in _blocks(blocks, width):
            rows, columns = -(-rows // block.stride), -(-columns // block.stride)
            past = block.inside * block.outside if block.inside != block.outside else 0
            total += rows * columns * (9 * (block.inside + block.outside) * block.outside + past)
        return total + (width << (STAGES - 1)) * num_classes

    parts = Parts(embed, head, points=("embedding", "map"))
    return Family(f"resnet{2 * STAGES * blocks + 2}", layers, prepare, apply, macs, parts, pads=True)


def prepare(inputs: Tensor) -> Tensor:
    """Images `[examples, channels, height, width]`, as they are."""
    return inputs


def head(params: Mapping[str, Tensor], embedding: Tensor) -> Tensor:
    """Embedding `[batch, 4 width]` -> logits `[batch, classes]`."""
    return F.linear(embedding, params["logits.weight"], params["logits.bias"])


def _layers(block: _Block) -> dict[str, Layer]:
    inside, outside = block.inside, block.outside
    found = {
        f"{block.name}.conv_1.weight": Layer((outside, inside, 3, 3), fan_in=inside * 9),
        f"{block.name}.conv_1.bias": Layer((outside,)),
        f"{block.name}.conv_2.weight": Layer((outside, outside, 3, 3), fan_in=outside * 9),
        f"{block.name}.conv_2.bias": Layer((outside,)),
        f"{block.name}.scale": Layer((1,)),
    }
    if inside != outside:
        found[f"{block.name}.past.weight"] = Layer((outside, inside, 1, 1), fan_in=inside, gain=1.0)
    return found


def _through(block: _Block, params: Mapping[str, Tensor], maps: Tensor) -> Tensor:
    """What a block makes of its maps `[batch, channels, height, width]`."""

    def conv(name: str, maps: Tensor, stride: int, padding: int) -> Tensor:
        weight, bias = params[f"{block.name}.{name}.weight"], params.get(f"{block.name}.{name}.bias")
        return F.conv2d(maps, weight, bias, stride, padding)

    branch = conv("conv_2", F.relu(conv("conv_1", maps, block.stride, 1)), 1, 1)
    past = maps if block.inside == block.outside else conv("past", maps, block.stride, 0)
    return F.relu(past + params[f"{block.name}.scale"] * branch)


RESNET8, RESNET14, RESNET20 = residual(1), residual(2), residual(3)
RESIDUAL = {family.name: family for family in (RESNET8, RESNET14, RESNET20)}
"""All of them by name, as a task lists them."""
