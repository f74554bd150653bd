"""Tasks on images with an official test part: what was read of the files, and how it is split.

Whatever the format and the order of the files, the same images make the same splits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch

from harness.models import Family
from harness.tasks.task import LockedSplit, Scale, Split, Task, TeacherRecipe, by_class, digests, standardised
from harness.tasks.transforms import Transform

LEVELS = 256
CHUNK = 1000
"""So many images are made into wider numbers at once: all of them would take gigabytes."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """Images `[examples, channels, height, width]`, uint8, and labels `[examples]`, int64."""

    images: np.ndarray
    labels: np.ndarray


def labelled(images: np.ndarray, labels: np.ndarray, num_classes: int, path: Path) -> Labelled:
    """Images with their labels. Raises `ValueError` in one line that names `path` where they do not belong together.

    Official parts have equally many of every class, by which labels that are not theirs are found out.
    """
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(f"{path} is mislabelled: its labels span {low}..{high}, classes {num_classes}")
    counts = np.bincount(labels, minlength=num_classes)
    if len(images) != len(labels) or len(set(counts.tolist())) != 1:
        most = f"{counts.min()} to {counts.max()} labels of a class"
        raise ValueError(f"{path} is mislabelled: {len(images)} images and {most}, where all have equally many")
    return Labelled(images, labels.astype(np.int64))


def official_task(
    *,
    name: str,
    source: str,
    own: Labelled,
    test: Labelled,
    each: tuple[int, int],
    families: Mapping[str, Family],
    teacher: TeacherRecipe,
    transforms: Mapping[str, Transform],
) -> Task:
    """A task whose test split is the official one, `own` being the images that train and val are made of.

    Of every class val has `each[1]` examples, the first by SHA-256, and train up to `each[0]`, counted from the last: a
    smaller task's splits are inside those of a larger one. Exact duplicates, and what is in the test part too, are
    left out. Pixels are scaled by the train split's mean and SD.
    """
    known, locked = digests(own.images), digests(test.images)
    members = by_class(known, own.labels, apart_from=set(locked)).values()
    val = _in_turns([some[: each[1]] for some in members])
    train = _in_turns([some[each[1] :][-each[0] :] for some in members])
    whole = sorted(range(len(locked)), key=lambda index: (locked[index], test.labels[index]))
    scale = _scale_of(own.images[train])
    parts = [_split(part, index, scale) for part, index in ((own, train), (own, val), (test, whole))]
    num_classes = int(test.labels.max()) + 1
    return Task(
        name, source, num_classes, parts[0], parts[1], LockedSplit(parts[2]), families, teacher, transforms, scale
    )


def _in_turns(members: Sequence[Sequence[int]]) -> list[int]:
    """One of every class after the other, so that the first examples are of all classes."""
    return [index for row in zip_longest(*members) for index in row if index is not None]


def _split(part: Labelled, index: list[int], scale: Scale) -> Split:
    """The examples `index`, standardised, float32."""
    images, labels = part.images[index], torch.from_numpy(part.labels[index])
    inputs = torch.empty(images.shape)
    for chunk in _chunks(len(images)):
        inputs[chunk] = standardised(images[chunk], scale)
    return Split(inputs, labels)


def _scale_of(images: np.ndarray) -> Scale:
    """The mean and SD of all pixels, from how often each of the 256 levels is there: exact, and small in memory."""
    counts = sum(np.bincount(images[chunk].ravel(), minlength=LEVELS) for chunk in _chunks(len(images)))
    levels, shares = np.arange(LEVELS, dtype=np.float64), counts / np.sum(counts)
    mean = float((levels * shares).sum())
    return Scale(mean, float(np.sqrt((np.square(levels - mean) * shares).sum())))


def _chunks(count: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, count, CHUNK))
