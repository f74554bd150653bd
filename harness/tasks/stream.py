"""Inputs that are not held in memory: a torch `Dataset` read by index, and in order through a `DataLoader`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Stream:
    """The inputs of a dataset, `[examples, ...]`, of which parts are read as they are needed.

    `dataset[i]` gives an example's input, or a tuple that begins with it: a tensor, an array or a number, always the
    same for the same `i`, for what a teacher said of it is kept. One with numbers that are not finite is refused in one
    line as it is read. `workers` are processes that read ahead. `changes` are
    applied to whole batches, one after the other.
    """

    dataset: Any
    workers: int = 0
    changes: tuple[Change, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.dataset)

    @cached_property
    def _first(self) -> Tensor:
        return self[torch.tensor([0])]

    @property
    def shape(self) -> torch.Size:
        """`[examples, ...]`."""
        return torch.Size((len(self), *self._first.shape[1:]))

    @property
    def device(self) -> torch.device:
        """Where its batches come to."""
        return self._first.device

    def is_floating_point(self) -> bool:
        """Whether the inputs are real numbers."""
        return self._first.is_floating_point()

    def changed(self, change: Change) -> Stream:
        """The same with one more change of its batches."""
        return replace(self, changes=(*self.changes, change))

    def __getitem__(self, places: Tensor | slice) -> Tensor:
        """The inputs at these places, read here and now."""
        index = range(len(self))[places] if isinstance(places, slice) else places.tolist()
        return self._changed(torch.stack([_input(self.dataset[place]) for place in index]), index)

    def batches(self, places: Sequence[list[int]]) -> Iterator[Tensor]:
        """The inputs at these places, batch by batch, read ahead by the workers."""
        reader: DataLoader[Any] = DataLoader(
            _Inputs(self.dataset),  # type: ignore[arg-type]
            batch_sampler=places,
            num_workers=self.workers,
            collate_fn=torch.stack,
            generator=torch.Generator(),  # a reader draws a seed for its workers, and not from the global numbers
        )
        for found, own in zip(reader, places, strict=True):
            yield self._changed(found, own)

    def _changed(self, batch: Tensor, places: Sequence[int]) -> Tensor:
        """A batch that was read from these places, after the changes. Raises `ValueError` for numbers not finite."""
        if batch.is_floating_point() and not (finite := batch.isfinite().reshape(len(batch), -1).all(1)).all():
            first, dataset = places[int(finite.int().argmin())], self.dataset
            while isinstance(dataset, Subset):
                first, dataset = int(dataset.indices[first]), dataset.dataset
            raise ValueError(f"example {first} of the {type(dataset).__name__} has numbers that are not finite")
        for change in self.changes:
            batch = change(batch)
        return batch


Inputs: TypeAlias = Any
"""A `Tensor` or a `Stream`, which answers to as much of a tensor as is needed; most code takes either as it comes."""


@dataclass(frozen=True, eq=False)
class _Inputs:
    """A dataset of inputs alone."""

    dataset: Any

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: int) -> Tensor:
        return _input(self.dataset[place])


def in_parts(inputs: Inputs, size: int) -> Iterator[Tensor]:
    """All inputs in order, at most so many at a time."""
    if isinstance(inputs, Tensor):
        yield from torch.split(inputs, size)
    else:
        yield from inputs.batches([list(range(at, min(at + size, len(inputs)))) for at in range(0, len(inputs), size)])


def _input(item: Any) -> Tensor:
    """An example's input; arrays and tensors of real numbers become float32, of whole numbers int64."""
    found = item[0] if isinstance(item, tuple | list) else item
    tensor = found if isinstance(found, Tensor) else torch.from_numpy(np.asarray(found))
    return tensor.float() if tensor.is_floating_point() else tensor.long()
