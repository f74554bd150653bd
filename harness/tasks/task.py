"""What a task is: three splits, the last one locked, families of students, and how its teacher is made."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from harness.models import Family
from harness.spec import check_range
from harness.tasks.stream import Inputs, Stream
from harness.tasks.transforms import Transform, noisy, shifted
from harness.values import Range

LOOKED_AT = 256
"""Examples of a stream that its hash is made of."""
UNLABELLED = -1
"""The label of a training example that has none."""


@dataclass(frozen=True, eq=False)
class Split:
    """Inputs `[examples, ...]` of any shape, float or integer, and labels `[examples, ...]`, int64, from 0.

    Inputs are a tensor, or a `Stream` where they are too many for memory.

    A train split may have examples labelled `UNLABELLED`, -1: they teach by what the teacher says of them alone.
    `classes`, where they are known, are what the labels 0, 1, 2, ... are called; they are no part of the hash.
    """

    inputs: Inputs
    labels: Tensor
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.inputs)

    @cached_property
    def labelled(self) -> Tensor | None:
        """Which examples have a label, `[labelled]`; None where all have one."""
        has = self.labels.flatten(1).amin(1) != UNLABELLED if self.labels.ndim > 1 else self.labels != UNLABELLED
        return None if has.all() else has.nonzero()[:, 0]

    @cached_property
    def hash(self) -> str:
        """SHA-256 of shapes, dtypes and bytes; of a stream's inputs only of some, spread over it."""
        found = hashlib.sha256()
        inputs = self.inputs
        if isinstance(inputs, Stream):
            found.update(f"{list(inputs.shape)}".encode())
            inputs = inputs[torch.linspace(0, len(inputs) - 1, min(LOOKED_AT, len(inputs))).round().long()]
        for tensor in (inputs, self.labels):
            array = np.ascontiguousarray(tensor.numpy())
            found.update(f"{array.dtype.str}{array.shape}".encode() + array.tobytes())
        return found.hexdigest()


@dataclass(frozen=True, eq=False)
class LockedSplit:
    """The test split. Only the `confirm` stage may read it, so that nothing is selected on it."""

    _split: Split

    def read(self, stage: str) -> Split:
        """The split, for `stage="confirm"`. Raises `PermissionError` for any other stage."""
        if stage != "confirm":
            raise PermissionError(f"the test split may be read in stage 'confirm' only, not in {stage!r}")
        return self._split

    def __len__(self) -> int:
        return len(self._split)

    @property
    def hash(self) -> str:
        """SHA-256 of the split; it tells nothing about accuracy."""
        return self._split.hash


SHIFT = Range(0, whole=True)
"""Pixels by which a teacher's images may be shifted."""


@dataclass(frozen=True)
class TeacherRecipe:
    """How a task's teacher is trained: AdamW with a cosine schedule, images shifted by up to `shift` pixels.

    `label_smoothing` is the share of every label that is spread over all classes (Szegedy 2016, arXiv:1512.00567).
    Raises `ValueError` in one line for a number that cannot be.
    """

    family: Family
    width: int
    epochs: int
    batch_size: int = 64
    lr: float = 3e-3
    weight_decay: float = 1e-2
    shift: int = 0
    seed: int = 0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.family, Family):
            raise ValueError(f"the teacher's family is {self.family!r}; give one such as harness.models.MLP")
        for name in ("width", "epochs", "batch_size", "lr", "weight_decay", "seed", "label_smoothing"):
            check_range(name, getattr(self, name), "the teacher's ")
        if not SHIFT.admits(self.shift):
            raise ValueError(f"the teacher's shift {self.shift!r} is out of range; it must be {SHIFT}")


@dataclass(frozen=True, eq=False)
class GivenTeacher:
    """A teacher that is not trained by a recipe: a network that the user has, or only what it said.

    `answer(split, inputs)` gives its logits, float32 `[examples, ..., classes]`, of the split called `"train"`, `"val"`
    or `"test"`; the last is asked for in the confirm stage alone. `key()` stands for its weights, or its answers:
    another key is another teacher. `sees_inputs` says that it answers by the inputs, so that it may be shown other
    views of them. `num_params` and `macs` are 0 where they are not known. Ready ones are in
    `harness.tasks.given` and `harness.tasks.answers`.
    """

    name: str
    key: Callable[[], str]
    answer: Callable[[str, Inputs], Tensor]
    num_params: int = 0
    macs: int = 0
    sees_inputs: bool = False


@dataclass(frozen=True)
class Scale:
    """How a task's inputs were made from raw values: less `mean`, over `sd`."""

    mean: float
    sd: float


@dataclass(frozen=True, eq=False)
class Task:
    """Data, student families by name, and a teacher's recipe; `source` says where the data comes from.

    `transforms` are random changes of inputs that keep the label, by name: see `harness.tasks.transforms`. `scale`,
    where the task knows it, is what is done to raw values first; it is handed out with an exported student.
    `characters_a_label`, of a language model, is how many characters a label of test stands for on average: losses are
    then told in bits a character too; `vocabulary` says what each label is, for texts that it writes. `words`, of
    tasks on texts, are what the numbers of the inputs stand for. Raises `ValueError` for splits that do not fit
    together (unequal lengths or shapes, labels out of range), and for names that are no words.
    """

    name: str
    source: str
    num_classes: int
    train: Split
    val: Split
    test: LockedSplit
    families: Mapping[str, Family]
    teacher: TeacherRecipe | GivenTeacher
    transforms: Mapping[str, Transform] = field(default_factory=dict)
    scale: Scale | None = None
    characters_a_label: float = 0.0
    vocabulary: Sequence[str] = ()
    words: Sequence[str] = ()

    def __post_init__(self) -> None:
        families = [family.name for family in self.families.values()]
        for name in (self.name, *self.families, *families, *self.transforms):
            if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]{0,99}", name, re.A):
                raise ValueError(f"task {self.name!r}: the name {name!r} must be a word: files are called by it")
        splits = {"train": self.train, "val": self.val, "test": self.test._split}
        for name, split in splits.items():
            if not len(split) or len(split.inputs) != len(split.labels):
                raise ValueError(f"task {self.name}: {name} has {len(split.inputs)} inputs, {len(split.labels)} labels")
            if split.inputs.shape[1:] != self.train.inputs.shape[1:]:
                raise ValueError(
                    f"task {self.name}: {name} inputs are {list(split.inputs.shape[1:])} each, not as train"
                )
            if split.labels.dtype != torch.int64:
                raise ValueError(f"task {self.name}: {name} labels are {split.labels.dtype}, not int64")
            if split.labels.shape[1:] != self.train.labels.shape[1:]:
                raise ValueError(
                    f"task {self.name}: {name} labels are {list(split.labels.shape[1:])} each, not as train"
                )
            low, high = int(split.labels.min()), int(split.labels.max())
            if low == UNLABELLED and name == "train" and split.labels.ndim == 1 and high >= 0:
                low = 0
            if low < 0 or high >= self.num_classes:
                raise ValueError(f"task {self.name}: {name} labels span {low}..{high}, classes {self.num_classes}")
        if not Range(0).admits(self.characters_a_label):
            raise ValueError(f"task {self.name}: characters_a_label {self.characters_a_label!r} must be {Range(0)}")
        if isinstance(self.teacher, TeacherRecipe) and self.teacher.shift and self.train.inputs.ndim != 4:
            shape = list(self.train.inputs.shape[1:])
            raise ValueError(f"task {self.name}: the teacher's shift is of images, and inputs are {shape} each")

    @property
    def recipe(self) -> TeacherRecipe:
        """How its teacher is trained. Raises `ValueError` for a teacher that was given."""
        if isinstance(self.teacher, GivenTeacher):
            raise ValueError(f"the teacher {self.teacher.name!r} of {self.name} is given; there is no recipe of it")
        return self.teacher

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return tuple(self.train.inputs.shape[1:])


def stratified(
    inputs: np.ndarray | Sequence[str], labels: np.ndarray, shares: tuple[int, int, int]
) -> tuple[np.ndarray, ...]:
    """Indices of train, val and test, every class split by `shares` (which sum to 100).

    The order within a class is that of the examples' SHA-256, so the split needs no random numbers, is the same on
    every machine and under every library version, and does not depend on the file's order. Exact duplicates are kept
    once, so none can stand on two sides.
    """
    assert sum(shares) == 100
    parts: tuple[list[int], ...] = ([], [], [])
    for members in by_class(digests(inputs), labels).values():
        first = round(len(members) * shares[0] / 100)
        second = first + round(len(members) * shares[1] / 100)
        for part, chosen in zip(parts, (members[:first], members[first:second], members[second:]), strict=True):
            part.extend(chosen)
    return tuple(np.sort(np.array(part, dtype=np.int64)) for part in parts)


def by_class(examples: Sequence[bytes], labels: np.ndarray, apart_from: Collection[bytes] = ()) -> dict[int, list[int]]:
    """Indices of each class in the order of the examples' SHA-256, those that are in `apart_from` left out.

    Exact duplicates are kept once, under the least of their labels.
    """
    unique = {examples[index]: int(index) for index in np.argsort(-labels.astype(np.int64), kind="stable")}
    found: dict[int, list[int]] = {int(label): [] for label in np.unique(labels)}
    for digest in sorted(unique.keys() - set(apart_from)):
        found[int(labels[unique[digest]])].append(unique[digest])
    return found


def digests(inputs: np.ndarray | Sequence[str]) -> list[bytes]:
    """Each example's SHA-256; of a text, that of its UTF-8."""
    raw = (one.encode() if isinstance(one, str) else np.ascontiguousarray(one).tobytes() for one in inputs)
    return [hashlib.sha256(example).digest() for example in raw]


def image_task(
    *,
    name: str,
    source: str,
    images: np.ndarray,
    labels: np.ndarray,
    families: Mapping[str, Family],
    teacher: TeacherRecipe,
) -> Task:
    """A task on grey images `[examples, height, width]`: 60/20/20, pixels scaled by the train split's mean and SD."""
    parts = stratified(images, labels, (60, 20, 20))
    scale, targets = scale_of(images, parts[0]), torch.from_numpy(labels.astype(np.int64))
    inputs = standardised(images[:, None], scale)
    train, val, test = (Split(inputs[index].contiguous(), targets[index].contiguous()) for index in parts)
    most = max(1, images.shape[1] // 14)  # 2 pixels of 28, 1 of 8
    transforms = {"shift": lambda images, noise: shifted(images, most, noise), "noise": noisy}
    num_classes = int(labels.max()) + 1
    return Task(name, source, num_classes, train, val, LockedSplit(test), families, teacher, transforms, scale)


def scale_of(values: np.ndarray, train: np.ndarray) -> Scale:
    """The mean and SD of the examples `train` of values `[examples, ...]`, over everything in them."""
    precise = values[train].astype(np.float64)
    return Scale(float(precise.mean()), float(precise.std()))


def standardised(values: np.ndarray, scale: Scale) -> Tensor:
    """Values `[examples, ...]` less the mean and over the SD of the scale, float32."""
    return torch.from_numpy(((values.astype(np.float64) - scale.mean) / scale.sd).astype(np.float32))
