"""Many networks of a patch stem, strided convolutions and logits, and their backward pass written out.

A convolution's neighbourhoods are several times as large as the map they are of. So students are taken a few at a time,
as many as a processor's cache holds the neighbourhoods of, from the stem to the logits, and in parts of the same size
back again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from harness.models.family import Back
from harness.models.neighbourhoods import neighbourhoods, spread_back, strided
from harness.models.shared import by_group

Params = Mapping[str, Tensor]
CACHE = 5 * 2**19
"""Bytes of neighbourhoods that are taken together: as measured with 1 MiB of second-level cache a core and 32 of the
third's (see docs/performance.md); half and twice as much was slower by some percent."""


@dataclass(frozen=True)
class Part:
    """A few students, neighbours in groups who see the same, on their way through the network."""

    places: slice  # among the students
    params: Params
    patches: Tensor  # [groups, patch values, places x batch]
    maps: Sequence[Tensor]  # of the stem and of each convolution, [students, channels, places x batch]
    around: Sequence[Tensor]  # what each convolution reads, [students, in, places x batch]
    logits: Tensor  # [students, classes, batch]


def logits(params: Params, inputs: Tensor, convolutions: Sequence[str]) -> Tensor:
    """Logits `[students, batch, classes]` of prepared inputs `[groups, batch, patch values, *places]`, for students who
    stand group by group. It has no gradient."""
    return torch.cat([part.logits for part in _parts(params, inputs, convolutions)]).mT


def by_hand(params: Params, inputs: Tensor, convolutions: Sequence[str]) -> tuple[Tensor, Back]:
    """The same, and the way back: autograd's numbers to the bit."""
    parts = list(_parts(params, inputs, convolutions))

    def back(gradient: Tensor) -> list[Tensor]:
        found = {name: torch.empty_like(values) for name, values in params.items()}
        for part in parts:
            own = {name: values[part.places] for name, values in found.items()}
            _back(part, gradient.mT[part.places], own, inputs.shape[1], inputs.shape[3:], convolutions)
        return list(found.values())

    return torch.cat([part.logits for part in parts]).mT, back


def _parts(params: Params, inputs: Tensor, convolutions: Sequence[str]) -> Iterator[Part]:
    """On a CPU as `CACHE` says, elsewhere all students at once."""
    batch, places, patches = inputs.shape[1], inputs.shape[3:], inputs.movedim(1, -1).flatten(2)
    students = len(params["stem.weight"])
    if inputs.device.type != "cpu":
        yield _part(slice(0, students), params, patches, places, batch, convolutions)
        return
    each = students // len(inputs)
    alike = each if each > 1 else students  # who all see the same, or each what is its own
    # Never one of several alone: a product that is no batch's may round otherwise.
    count = max(1, min(-(-alike // _at_once(params, batch, places, convolutions)), alike // 2))
    edges = [alike * turn // count for turn in range(count + 1)]
    for first in range(0, students, alike):
        for start, end in pairwise(edges):
            members = slice(first + start, first + end)
            seen = patches[first // each][None] if each > 1 else patches[members]
            own = {name: values[members] for name, values in params.items()}
            yield _part(members, own, seen, places, batch, convolutions)


def _at_once(params: Params, batch: int, places: Sequence[int], convolutions: Sequence[str]) -> int:
    """How many students' neighbourhoods the cache holds."""
    after, largest = list(places), 0
    for name in convolutions:
        after = [strided(size) for size in after]
        largest = max(largest, params[f"{name}.weight"].shape[-1] * math.prod(after))
    return max(1, CACHE // (largest * batch * params["stem.weight"].element_size()))


def _part(
    members: slice, params: Params, patches: Tensor, places: Sequence[int], batch: int, convolutions: Sequence[str]
) -> Part:
    hidden, after = by_group(params["stem.weight"], patches).add_(params["stem.bias"]).relu_(), tuple(places)
    maps, around = [hidden], list[Tensor]()
    for name in convolutions:
        around.append(neighbourhoods(hidden.view(*hidden.shape[:-1], *after, batch), axes=len(after)))
        hidden = torch.bmm(params[f"{name}.weight"], around[-1]).add_(params[f"{name}.bias"]).relu_()
        after = tuple(strided(size) for size in after)
        maps.append(hidden)
    features = hidden.view(len(hidden), -1, batch)
    found = torch.bmm(params["logits.weight"], features).add_(params["logits.bias"])
    return Part(members, params, patches, maps, around, found)


def _back(
    part: Part, by: Tensor, found: Params, batch: int, places: Sequence[int], convolutions: Sequence[str]
) -> None:
    """Write the gradients at a part's parameters into `found`; `by` is the one at its logits."""
    features = part.maps[-1].view(len(by), -1, batch)
    _of_layer(by, features.mT, "logits", found)
    by = torch.bmm(part.params["logits.weight"].mT, by)
    sizes = [tuple(places)]
    for _ in convolutions:
        sizes.append(tuple(strided(size) for size in sizes[-1]))
    for turn in range(len(convolutions), 0, -1):
        name, hidden, below = convolutions[turn - 1], part.maps[turn], part.maps[turn - 1]
        by = torch.ops.aten.threshold_backward(by.view_as(hidden), hidden, 0)
        _of_layer(by, part.around[turn - 1].mT, name, found)
        around = torch.bmm(part.params[f"{name}.weight"].mT, by)
        shape = (*below.shape[:-1], *sizes[turn - 1], batch)
        by = spread_back(around, shape, axes=len(places)).reshape_as(below)
    by = torch.ops.aten.threshold_backward(by, part.maps[0], 0)
    found["stem.weight"].copy_(by_group(by, part.patches.mT))
    torch.sum(by, -1, keepdim=True, out=found["stem.bias"])


def _of_layer(by: Tensor, read: Tensor, name: str, found: Params) -> None:
    """The gradients at a layer's weight and bias, of the one at what it gives and the transpose of what it reads."""
    torch.bmm(by, read, out=found[f"{name}.weight"])
    torch.sum(by, -1, keepdim=True, out=found[f"{name}.bias"])
