"""Which rows a student sees, and in what order: from its seed alone, so that whoever shares that seed sees the same.

A row is a view of an example: row `view * examples + example` of the views laid end to end, the first view the
examples as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from harness.seeds import generator
from harness.spec import NONE
from harness.tasks import UNLABELLED, Inputs, Split, Task

LABELLED_SHARE = 4
"""Where some training examples have no label, one in so many of a batch has one."""


def labelled_in_batch(train: Split, batch_size: int) -> int | None:
    """How many examples of each batch, its first ones, have a label; None where every training example has one."""
    return None if train.labelled is None else max(1, batch_size // LABELLED_SHARE)


def epochs_of(train: Split, seed: int, num_views: int, batch_size: int, num_epochs: int) -> Iterator[Tensor]:
    """`epochs` of a train split. Where some examples have no label, as many batches as if all had one, each begun by
    labelled examples, of which there may be few: they come again when all have been seen."""
    num_labelled = labelled_in_batch(train, batch_size)
    if num_labelled is None or train.labelled is None:
        yield from epochs(seed, len(train), num_views, batch_size, num_epochs)
        return
    order, views = generator(seed, "order"), generator(seed, "views")
    without = (train.labels != UNLABELLED).logical_not().nonzero()[:, 0]
    batches = len(train) // batch_size
    for _ in range(num_epochs):
        parts = [
            _drawn(own, batches * count, order).view(batches, count)
            for own, count in ((train.labelled, num_labelled), (without, batch_size - num_labelled))
        ]
        rows = torch.cat(parts, dim=1).flatten()
        if num_views > 1:
            rows = rows + len(train) * torch.randint(num_views, rows.shape, generator=views)
        yield rows


def _drawn(examples: Tensor, count: int, order: torch.Generator) -> Tensor:
    """So many of the examples in random order, each again only when all have come."""
    rounds = -(-count // len(examples))
    return torch.cat([examples[torch.randperm(len(examples), generator=order)] for _ in range(rounds)])[:count]


def epochs(seed: int, num_examples: int, num_views: int, batch_size: int, num_epochs: int) -> Iterator[Tensor]:
    """For each epoch, the rows of whole batches in the order they are seen: `[batches * batch_size]`.

    Every example comes at most once an epoch, as one of its views.
    """
    order, views = generator(seed, "order"), generator(seed, "views")
    used = num_examples // batch_size * batch_size
    for _ in range(num_epochs):
        rows = torch.randperm(num_examples, generator=order)[:used]
        if num_views > 1:
            rows = rows + num_examples * torch.randint(num_views, (used,), generator=views)
        yield rows


@cache
def transform_hash(task: Task, transform: str) -> str:
    """Stands for what a transform does, by what it makes of a few examples: an edited one is another."""
    if transform == NONE:
        return NONE
    made = task.transforms[transform](task.train.inputs[:16], generator(1, transform))
    return hashlib.sha256(made.double().numpy().tobytes()).hexdigest()[:16]


def view_inputs(task: Task, transform: str, num_views: int) -> Inputs:
    """The train split's inputs in all their views, `[views * examples, ...]`, the same at every call."""
    inputs = task.train.inputs
    if transform == NONE:
        return inputs
    assert isinstance(inputs, Tensor)  # `cohort.check` refuses transforms of streamed inputs
    change = task.transforms[transform]
    return torch.cat([inputs, *(change(inputs, generator(view, transform)) for view in range(1, num_views))])
