"""What a family of networks is: parameters by width, a forward function, and exact sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Shape = tuple[int, ...]
Back = Callable[[Tensor], list[Tensor]]
"""From the gradient at a network's logits to those at its parameters."""


@dataclass(frozen=True)
class Layer:
    """One parameter tensor: its shape, and the fan-in and gain of its start. A bias has no fan-in, and starts at 0.

    `axes`, where given, says what each axis of `shape` is made of: `((8,), (9, 4))` is a matrix `[8, 36]` whose columns
    are (place, channel). A network is padded to a wider one along these. A `buffer` belongs to the
    network and is not learned: it moves as the network is trained, as batch norm's averages do. A `frozen` layer is a
    parameter that stays as it is.
    """

    shape: Shape
    fan_in: int = 0
    gain: float = 2.0
    axes: tuple[Shape, ...] = ()
    buffer: bool = False
    frozen: bool = False


@dataclass(frozen=True)
class Parts:
    """A family's forward pass cut before its last layer: for dropout and feature forms.

    `embed(params, inputs)` gives "embedding" `[batch, ..., features]`, what the last layer reads, and, where the
    network has one, "map" `[batch, channels, *places]`, its last feature map. `head(params, embedding)` gives the
    logits `[batch, ..., classes]`. `points` names what `embed` gives.
    """

    embed: Callable[[Mapping[str, Tensor], Tensor], Mapping[str, Tensor]]
    head: Callable[[Mapping[str, Tensor], Tensor], Tensor]
    points: tuple[str, ...] = ("embedding",)


GRAIN = 4
"""Padded networks have a multiple of so many units."""


@dataclass(frozen=True)
class Family:
    """Networks of one design and any width.

    `layers(width, input_shape, num_classes)` names the parameters; `input_shape` is one example's.
    `prepare(inputs)` lays out a whole split once, `[examples, ...]` -> `[examples, ...]`.
    `apply(params, inputs)` gives logits: prepared inputs `[batch, ...]` -> `[batch, ..., classes]`.
    `macs(width, input_shape, num_classes)` counts the multiply-accumulates of one example's forward pass.
    `parts`, where a family has them, are `apply` in two: `head(params, embed(params, inputs)["embedding"])`.

    `stacks` says that the functions also take many networks at once: parameters with a leading axis of students, inputs
    with one of groups of neighbours who see the same (`harness.models.shared.product`). Without it the cohort maps
    them over the students. `pads` says that a network is the same inside a wider one whose further numbers are zero,
    and stays so: every activation function has f(0) = 0, and nothing is normalised over units. Such a one has `least`
    units at the least.

    `by_hand`, which a family that stacks may have, is `apply` with its backward pass written out: for small networks
    autograd's own work is as much as theirs. The gradients are in the order of `layers`.

    Of a user's own modules only (see `harness.models.modules`): `first(width, generator)` draws a network where layers
    do not say how; `learn` is `apply` as it is in training, and puts the buffers as they are then among the params; and
    `alone(width, inputs)` says why networks must be trained one at a time, nothing where they need not.
    """

    name: str
    layers: Callable[[int, Shape, int], Mapping[str, Layer]]
    prepare: Callable[[Tensor], Tensor]
    apply: Callable[[Mapping[str, Tensor], Tensor], Tensor]
    macs: Callable[[int, Shape, int], int]
    parts: Parts | None = None
    stacks: bool = False
    pads: bool = False
    by_hand: Callable[[Mapping[str, Tensor], Tensor], tuple[Tensor, Back]] | None = None
    first: Callable[[int, torch.Generator], Mapping[str, Tensor]] | None = None
    learn: Callable[[dict[str, Tensor], Tensor], Tensor] | None = None
    alone: Callable[[int, Tensor], str] | None = None
    least: int = 0

    def stands_in(self, width: int) -> int:
        """The width of the padded network in which students of a width stand, even alone.

        Products with few rows or columns round otherwise than wider ones on a CPU: so a student's bits do not depend on
        the widths that share its cohort.
        """
        return max(self.least, -(-width // GRAIN) * GRAIN) if self.pads else width


def num_params(family: Family, width: int, input_shape: Shape, num_classes: int) -> int:
    """How many numbers a network of the family has, buffers left out."""
    own = family.layers(width, input_shape, num_classes).values()
    return sum(math.prod(layer.shape) for layer in own if not layer.buffer)


def init(
    family: Family, width: int, input_shape: Shape, num_classes: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """A network's first parameters, float64, as `start` draws them, or as the family does."""
    if family.first is not None:
        return dict(family.first(width, generator))
    return start(family.layers(width, input_shape, num_classes), generator)


def pad(params: Mapping[str, Tensor], own: Mapping[str, Layer], wider: Mapping[str, Layer]) -> dict[str, Tensor]:
    """A network's parameters inside those of a wider one, zero elsewhere."""
    padded = {}
    for name, values in params.items():
        inner, outer = (layers[name].axes or tuple((size,) for size in layers[name].shape) for layers in (own, wider))
        flat_inner, flat_outer = ([size for axis in axes for size in axis] for axes in (inner, outer))
        room = values.new_zeros(flat_outer)
        room[tuple(slice(size) for size in flat_inner)] = values.view(flat_inner)
        padded[name] = room.view(wider[name].shape)
    return padded


def start(layers: Mapping[str, Layer], generator: torch.Generator) -> dict[str, Tensor]:
    """The layers' first values, float64: normal with variance gain / fan-in (He 2015, arXiv:1502.01852).

    Drawn in float64 whatever the student's dtype, so that a float32 student starts where its float64 twin does.
    """
    params = {}
    for name, layer in layers.items():
        if layer.fan_in:
            noise = torch.randn(layer.shape, generator=generator, dtype=torch.float64)
            params[name] = noise * math.sqrt(layer.gain / layer.fan_in)
        else:
            params[name] = torch.zeros(layer.shape, dtype=torch.float64)
    return params
