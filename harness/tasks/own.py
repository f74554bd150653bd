"""A user's own data as a task: arrays, a torch `Dataset`, or what a reader of `harness.tasks.readers` gives.

    own_task("mine", train=(inputs, labels), test=(inputs, labels), students=my_student, teacher=module_teacher(...))

Whatever the source, the validation split is taken from the training examples where none is given, by class and by the
examples' SHA-256, so that it is the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from harness.models import Family, module_family
from harness.tasks.arrays import tensor_of, whole
from harness.tasks.stream import Stream
from harness.tasks.task import GivenTeacher, LockedSplit, Split, Task, TeacherRecipe, stratified

Source = Split | tuple[Any, Any] | Dataset[Any]
"""Inputs and labels: a `Split`, a pair of arrays or tensors, or a map-style torch `Dataset` of pairs."""
VAL_SHARE = 20
"""Of the training examples in percent, where no validation split is given."""


def own_task(
    name: str,
    *,
    train: Source,
    test: Source,
    val: Source | None = None,
    students: Mapping[str, Family] | Callable[[int], nn.Module],
    teacher: TeacherRecipe | GivenTeacher,
    num_classes: int = 0,
    source: str = "the user's own",
    workers: int = 0,
) -> Task:
    """A task of one's own. `students` are families by name, or `student(width) -> nn.Module`, the family `"own"`.

    `num_classes` 0 is one more than the highest label of train. A `Dataset` is not read into memory: `workers`
    processes read ahead. A tuple of labels with -1 among those of train has examples without a label. Raises
    `ValueError` in one line for data that does not fit together.
    """
    own = _split(train, "train", workers)
    if len(own.inputs) != len(own.labels):  # of which no val split is to be held out
        raise ValueError(f"train has {len(own.inputs)} inputs and {len(own.labels)} labels")
    if val is None and isinstance(teacher, GivenTeacher) and not teacher.sees_inputs:
        raise ValueError(f"give val too: teacher {teacher.name!r} knows examples by their places, not by their inputs")
    if val is None:
        own, held = _held_out(own)
    else:
        held = _split(val, "val", workers)
    families = students if isinstance(students, Mapping) else {"own": module_family(f"{name}-own", students)}
    classes = num_classes or int(own.labels.max()) + 1
    return Task(name, source, classes, own, held, LockedSplit(_split(test, "test", workers)), families, teacher)


def _split(source: Source, name: str, workers: int) -> Split:
    if isinstance(source, Split):
        return source
    if isinstance(source, tuple):
        if len(source) != 2:
            raise ValueError(f"{name} is a tuple of {len(source)}, not of inputs and labels")
        inputs = tensor_of(source[0], f"{name} inputs")
        if inputs.is_floating_point() and not inputs.isfinite().all():
            raise ValueError(f"{name} inputs have numbers that are not finite")
        return Split(inputs, whole(source[1], name))
    known = hasattr(source, "__len__") and hasattr(source, "__getitem__")
    if not known or isinstance(source, np.ndarray | Tensor | str | Mapping):
        raise ValueError(f"{name} is {type(source).__name__}; give inputs and labels, a Split or a map-style Dataset")
    return Split(Stream(source, workers), _labels(source, name))


def _labels(dataset: Any, name: str) -> Tensor:
    """The labels of a dataset: its `targets`, as torchvision's have, or read from every example once."""
    if (known := getattr(dataset, "targets", None)) is not None:
        return whole(known, name)
    found = []
    for place in range(len(dataset)):
        example = dataset[place]
        if not isinstance(example, tuple | list) or len(example) < 2:
            raise ValueError(
                f"example {place} of {name} is {type(example).__name__}, not a pair of an input and a label"
            )
        found.append(whole(example[1], name))
    return torch.stack(found)


def _held_out(split: Split) -> tuple[Split, Split]:
    """Train and val of the examples, by class; those without a label stay in train."""
    labels = split.labels.flatten(1)[:, 0] if split.labels.ndim > 1 else split.labels
    known = (labels >= 0).nonzero()[:, 0]
    keys = [str(int(place)) for place in known] if isinstance(split.inputs, Stream) else split.inputs[known].numpy()
    first, second, _ = (known[p.tolist()] for p in stratified(keys, labels[known].numpy(), _shares()))
    if not len(second):
        raise ValueError(f"train has {len(known)} examples with a label, too few to hold some out as val; give val")
    rest = (labels < 0).nonzero()[:, 0]
    return _part(split, torch.cat([first, rest]).sort().values), _part(split, second)


def _shares() -> tuple[int, int, int]:
    return 100 - VAL_SHARE, VAL_SHARE, 0


def _part(split: Split, places: Tensor) -> Split:
    if isinstance(split.inputs, Stream):
        part: Dataset[Any] = Subset(split.inputs.dataset, places.tolist())
        return Split(Stream(part, split.inputs.workers), split.labels[places])
    return Split(split.inputs[places], split.labels[places])
