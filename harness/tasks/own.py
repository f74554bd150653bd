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
from harness.tasks.sides import check_apart, held_out, renumbered
from harness.tasks.stream import Stream
from harness.tasks.task import UNLABELLED, GivenTeacher, LockedSplit, Split, Task, TeacherRecipe

Source = Split | tuple[Any, Any] | Dataset[Any]
"""Inputs and labels: a `Split`, a pair of arrays or tensors, or a map-style torch `Dataset` of pairs."""
COMPARED = 64
"""Examples of a dataset whose labels are compared with its `targets`."""


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

    `num_classes` 0 is one more than the highest label of train, of whose classes each must then have an example. A
    `Dataset` is not read into memory: `workers` processes read ahead. A tuple of labels with -1 among those of train
    has examples without a label. Where train and another split say what their classes are called, the labels of the
    other become train's by name. Raises `ValueError` in one line for data that does not fit together, and for a test
    split most of which is in train or val.
    """
    _check_asked(students, teacher, num_classes)
    own, tested = _split(train, "train", workers), _split(test, "test", workers)
    if own.labels.ndim == 2 and own.labels.shape[1] == 1:
        raise ValueError(
            f"train labels are {list(own.labels.shape)}; for one label an example give labels[:, 0], in all splits"
        )
    if not len(own.inputs) or len(own.inputs) != len(own.labels):  # of which no val split is to be held out
        raise ValueError(f"train has {len(own.inputs)} inputs and {len(own.labels)} labels")
    if val is None and isinstance(teacher, GivenTeacher) and not teacher.sees_inputs:
        raise ValueError(f"give val too: teacher {teacher.name!r} knows examples by their places, not by their inputs")
    classes = int(num_classes) or _num_classes(own)
    if val is None:
        own, held = held_out(own)
    else:
        held = renumbered(_split(val, "val", workers), "val", own.classes)
    tested = renumbered(tested, "test", own.classes)
    for what, split in (("val", held), ("test", tested)):
        if len(split) == 1:
            raise ValueError(f"{what} has one example, over which an accuracy says nothing")
    families = students if isinstance(students, Mapping) else {"own": module_family(f"{name}-own", students)}
    task = Task(name, source, classes, own, held, LockedSplit(tested), families, teacher)
    check_apart(name, own, held, tested)
    return task


def _check_asked(students: Any, teacher: Any, num_classes: Any) -> None:
    """Raise `ValueError` in one line for arguments of another kind."""
    if isinstance(num_classes, bool) or not isinstance(num_classes, int | np.integer) or num_classes < 0:
        raise ValueError(f"num_classes is {num_classes!r}, not a whole number; 0 is one more than the highest label")
    if not isinstance(teacher, TeacherRecipe | GivenTeacher):
        raise ValueError(
            f"teacher is {type(teacher).__name__}; give a TeacherRecipe, module_teacher(...) or logits_teacher(...)"
        )
    named = isinstance(students, Mapping) and students and all(isinstance(one, Family) for one in students.values())
    if not named and (not callable(students) or isinstance(students, nn.Module)):
        said = "{}" if students == {} else type(students).__name__
        raise ValueError(f"students is {said}; give a function student(width) -> nn.Module, or families by name")


def _num_classes(train: Split) -> int:
    """As many as its names, or one more than its highest label.

    Raises `ValueError` where there is no example of a class below it and the classes have no names: that is a numbering
    from 1, or one with gaps. Of labels at each position, as a vocabulary's, some may well be absent.
    """
    high = int(train.labels.max())
    if high >= max(train.labels.numel(), len(train.classes)):
        count = train.labels.numel()
        raise ValueError(f"train has the label {high} among {count}; number the classes from 0, or give num_classes")
    if train.labels.ndim == 1 and not train.classes:
        there = set(train.labels.tolist()) - {UNLABELLED}
        if there and (bare := sorted(set(range(high)) - there)):
            more = f" nor of {len(bare) - 1} more" * (len(bare) > 1)
            raise ValueError(
                f"train has labels {min(there)} to {high} and none of class {bare[0]}{more}; "
                "number classes from 0, or give num_classes"
            )
    return max(high + 1, len(train.classes))


def _split(source: Source, name: str, workers: int) -> Split:
    if isinstance(source, Split):
        return source
    if isinstance(source, tuple):
        if len(source) != 2:
            raise ValueError(f"{name} is a tuple of {len(source)}, not of inputs and labels")
        inputs, labels = tensor_of(source[0], f"{name} inputs"), whole(source[1], name)
        for what, values in (("inputs", inputs), ("labels", labels)):
            if not values.ndim:
                raise ValueError(f"{name} {what} are a single number, not one an example")
        if not len(inputs):
            raise ValueError(f"{name} has no examples")
        if inputs.is_floating_point() and not inputs.isfinite().all():
            raise ValueError(f"{name} inputs have numbers that are not finite")
        return Split(inputs, labels)
    dataset: Any = source
    known = hasattr(source, "__len__") and hasattr(source, "__getitem__")
    if not known or isinstance(source, np.ndarray | Tensor | str | Mapping):
        raise ValueError(f"{name} is {type(source).__name__}; give inputs and labels, a Split or a map-style Dataset")
    if not len(dataset):
        raise ValueError(f"{name} has no examples")
    labels = _labels(dataset, name)
    return Split(Stream(dataset, workers), labels, _classes(dataset, labels))


def _labels(dataset: Any, name: str) -> Tensor:
    """The labels of a dataset: its `targets`, as torchvision's have, or read from every example once.

    Raises `ValueError` in one line for `targets` that are not what the examples give, as of a `target_transform`.
    """
    if (targets := getattr(dataset, "targets", None)) is not None:
        known = whole(targets, name)
        if known.shape[:1] != (len(dataset),):
            raise ValueError(f"{name} has {len(dataset)} examples and targets of {list(known.shape)}")
        for place in torch.linspace(0, len(dataset) - 1, min(COMPARED, len(dataset))).round().long().tolist():
            example = dataset[place]
            given = whole(example[1], name) if isinstance(example, tuple | list) and len(example) > 1 else known[place]
            if not torch.equal(given, known[place]):
                raise ValueError(
                    f"{name}[{place}] gives the label {given.tolist()} and its targets {known[place].tolist()}; "
                    "let them agree, or hide targets in a Dataset of your own"
                )
        return known
    found = []
    for place in range(len(dataset)):
        example = dataset[place]
        if not isinstance(example, tuple | list) or len(example) < 2:
            raise ValueError(
                f"example {place} of {name} is {type(example).__name__}, not a pair of an input and a label"
            )
        found.append(whole(example[1], name))
    return torch.stack(found)


def _classes(dataset: Any, labels: Tensor) -> tuple[str, ...]:
    """The names of a dataset's classes, where it says them for all its labels, as torchvision's do."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    said = getattr(dataset, "classes", ())
    fits = isinstance(said, list | tuple) and int(labels.max()) < len(said)
    return tuple(said) if fits and all(isinstance(one, str) for one in said) and len(set(said)) == len(said) else ()
