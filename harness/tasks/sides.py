"""The splits of a user's own data beside one another: val out of train, one numbering of classes, test apart."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from harness.tasks.stream import Stream
from harness.tasks.task import UNLABELLED, Split, digests

log = logging.getLogger(__name__)
VAL_SHARE = 20
"""Of the training examples in percent, where no validation split is given."""


def held_out(split: Split) -> tuple[Split, Split]:
    """Train and val of the examples, by class; those without a label stay in train, and equal inputs on one side.

    Equal inputs go by the label that most of them have, the least of several. A class is gone through in the order of
    its inputs' SHA-256, whatever the order of the examples; of a stream, whose inputs are not read, in that of places.
    """
    labels = split.labels.flatten(1)[:, 0] if split.labels.ndim > 1 else split.labels
    known = (labels != UNLABELLED).nonzero()[:, 0]
    streamed = isinstance(split.inputs, Stream)
    keys = digests([str(int(place)) for place in known] if streamed else split.inputs[known].numpy())
    groups: dict[bytes, list[int]] = {}
    for key, place in zip(keys, known.tolist(), strict=True):
        groups.setdefault(key, []).append(place)
    classes: dict[int, list[list[int]]] = {}
    for key in sorted(groups):
        counts = Counter(labels[groups[key]].tolist())
        classes.setdefault(min(counts, key=lambda label: (-counts[label], label)), []).append(groups[key])
    val: list[int] = []
    for own in classes.values():
        whole, passed = sum(map(len, own)), 0
        wanted = whole - round(whole * VAL_SHARE / 100)
        for group in own:
            if passed + len(group) / 2 > wanted:  # most of it lies behind the share of train
                val.extend(group)
            passed += len(group)
    if not val:
        differ = f", of which {len(groups)} differ" * (len(groups) < len(known))
        raise ValueError(
            f"train has {len(known)} examples with a label{differ}, too few to hold some out as val; give val"
        )
    held = torch.zeros(len(labels), dtype=torch.bool)
    held[val] = True
    return _part(split, (~held).nonzero()[:, 0]), _part(split, held.nonzero()[:, 0])


def _part(split: Split, places: Tensor) -> Split:
    if isinstance(split.inputs, Stream):
        part: Dataset[Any] = Subset(split.inputs.dataset, places.tolist())
        return Split(Stream(part, split.inputs.workers), split.labels[places], split.classes)
    return Split(split.inputs[places], split.labels[places], split.classes)


def renumbered(split: Split, name: str, classes: tuple[str, ...]) -> Split:
    """The split with the labels that train gives classes of these names, where both say what theirs are called."""
    if not classes or not split.classes or split.classes == classes:
        return split
    used = sorted(set(split.labels.flatten().tolist()))
    if used[0] < 0 or used[-1] >= len(split.classes):
        raise ValueError(f"{name} labels span {used[0]}..{used[-1]}, and the names of its classes are {split.classes}")
    if new := [split.classes[label] for label in used if split.classes[label] not in classes]:
        raise ValueError(f"{name} has the class {new[0]!r}, and train none of it; train's are {', '.join(classes)}")
    places = [classes.index(one) if one in classes else UNLABELLED for one in split.classes]
    return Split(split.inputs, torch.tensor(places)[split.labels], classes)


def check_apart(name: str, train: Split, val: Split, test: Split) -> None:
    """Raise `ValueError` where most of test is in train or val too, or most of val in train, and log how much where it
    is less.

    Inputs that repeat, as rows of a few columns of categories do, are on both sides by rights: those are logged only.
    Streams are not read for it.
    """
    if any(isinstance(split.inputs, Stream) for split in (train, val, test)):
        return
    own, held, tested = (digests(split.inputs.numpy()) for split in (train, val, test))
    for what, split, seen, where, todo in (
        ("val", held, own, "train", "choose by others"),
        ("test", tested, [*own, *held], "train or val", "test on others"),
    ):
        taken = set(seen)
        if not (shared := sum(digest in taken for digest in split)):
            continue
        said = f"task {name}: {shared} of {len(split)} examples of {what} are in {where}"
        if 2 * shared > len(split) and 2 * len(taken) > len(seen):
            raise ValueError(f"{said}; {todo}")
        log.warning("%s", said)
