"""A user's own data as a task: arrays, a torch `Dataset`, a folder of images, parquet, a CSV of texts.

    own_task("mine", train=(inputs, labels), test=(inputs, labels), students=my_student, teacher=module_teacher(...))

Whatever the source, the validation split is taken from the training examples where none is given, by class and by the
examples' SHA-256, so that it is the same on every machine.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from harness.models import Family, module_family
from harness.tasks.stream import Stream
from harness.tasks.task import GivenTeacher, LockedSplit, Split, Task, TeacherRecipe, stratified
from harness.tasks.text import Texts

Source = Split | tuple[Any, Any] | Dataset[Any]
"""Inputs and labels: a `Split`, a pair of arrays or tensors, or a map-style torch `Dataset` of pairs."""
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
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
        inputs = _tensor(source[0], f"{name} inputs")
        if inputs.is_floating_point() and not inputs.isfinite().all():
            raise ValueError(f"{name} inputs have numbers that are not finite")
        return Split(inputs, _whole(source[1], name))
    known = hasattr(source, "__len__") and hasattr(source, "__getitem__")
    if not known or isinstance(source, np.ndarray | Tensor | str | Mapping):
        raise ValueError(f"{name} is {type(source).__name__}; give inputs and labels, a Split or a map-style Dataset")
    return Split(Stream(source, workers), _labels(source, name))


def _tensor(values: Any, what: str) -> Tensor:
    """An array or tensor as a tensor on the CPU: real numbers as float32, whole ones as int64."""
    if not isinstance(values, Tensor):
        array = np.asarray(values)
        if array.dtype.kind not in "fiub":
            raise ValueError(f"{what} are an array of {array.dtype}, not of numbers")
        array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)  # a copy, in this machine's order
        values = torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))
    found: Tensor = values.detach().cpu()
    return found.float() if found.is_floating_point() else found.long()


def _whole(values: Any, name: str) -> Tensor:
    """Labels as int64; real numbers must be whole."""
    found = _tensor(values, f"{name} labels")
    if not torch.equal(found, found.long().to(found.dtype)):
        raise ValueError(f"{name} labels are real numbers, not classes from 0")
    return found.long()


def _labels(dataset: Any, name: str) -> Tensor:
    """The labels of a dataset: its `targets`, as torchvision's have, or read from every example once."""
    if (known := getattr(dataset, "targets", None)) is not None:
        return _whole(known, name)
    found = []
    for place in range(len(dataset)):
        example = dataset[place]
        if not isinstance(example, tuple | list) or len(example) < 2:
            raise ValueError(
                f"example {place} of {name} is {type(example).__name__}, not a pair of an input and a label"
            )
        found.append(_whole(example[1], name))
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


def image_folder(
    path: Path | str, size: tuple[int, int], *, grey: bool = False, classes: Sequence[str] = ()
) -> tuple[Tensor, Tensor]:
    """The images below `path`, a subfolder a class in the order of their names, resized to `size` (height, width).

    Pixels from 0 to 1, `[examples, 3 or 1, height, width]` float32, and labels `[examples]`. `classes` are the names of
    the subfolders in the order of their labels, where a folder may lack some that another has. Raises `ValueError` in
    one line for a folder without classes or images, and for a file that is no image.
    """
    folder = Path(path)
    entries = folder.iterdir() if folder.is_dir() else ()
    there = sorted(entry for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    by_name = _numbered([entry.name for entry in there], str(folder), classes).tolist()
    files = [
        (file, label)
        for label, entry in zip(by_name, there, strict=True)
        for file in sorted(entry.rglob("*"))
        if file.suffix.lower() in IMAGES
    ]
    if not files:
        raise ValueError(f"{folder} holds no images in subfolders; it should be {folder}/<class>/<image>.png")
    if bare := set(by_name) - {label for _, label in files}:
        raise ValueError(f"{there[by_name.index(min(bare))]} holds no images; every subfolder of {folder} is a class")
    images = torch.stack([_image(file.read_bytes(), str(file), size, grey) for file, _ in files])
    return images, torch.tensor([label for _, label in files])


def _image(raw: bytes, where: str, size: tuple[int, int], grey: bool) -> Tensor:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(raw)) as image:
            pixels = np.asarray(image.convert("L" if grey else "RGB").resize((size[1], size[0])), dtype=np.float32)
    except Exception as error:  # a damaged image makes its reader raise anything
        raise ValueError(f"{where} is no image that can be read ({' '.join(str(error).split())})") from None
    return torch.from_numpy(pixels / 255).reshape(*size, -1).permute(2, 0, 1).contiguous()


def parquet(
    path: Path | str,
    *,
    label: str,
    columns: Sequence[str] = (),
    image: str = "",
    size: tuple[int, int] = (0, 0),
    classes: Sequence[str] = (),
) -> tuple[Tensor, Tensor]:
    """A parquet file's inputs and labels: `columns` of numbers, all but `label` by default, or the column `image`.

    An image is its file's bytes, or a mapping that has them as `bytes`, as Hugging Face writes it. Labels that are no
    numbers are numbered in their order in this file, or in that of `classes`, where another file may lack some. Raises
    `ValueError` in one line for a file that cannot be read and a column that is not there.
    """
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            table = file.read()
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise ValueError(f"cannot read {path} ({' '.join(str(error).split())})") from None
    if image and min(size) < 1:
        raise ValueError(f"give the size of the images in {path}, (height, width)")
    names = table.column_names
    wanted = [image] if image else list(columns or [name for name in names if name != label])
    for name in (label, *wanted):
        if name not in names:
            raise ValueError(f"{path} has no column {name!r}; it has {', '.join(names)}")
    said = table[label].to_pylist()
    if not said or any(one is None or one != one for one in said):  # NaN is not itself
        raise ValueError(f"{path} has no rows, or one without a {label!r}")
    labels = _numbered(said, str(path), classes)
    if not image:
        numbers = np.stack([table[name].to_numpy() for name in wanted], axis=1)
        return _tensor(numbers, f"columns {', '.join(wanted)} of {path}"), labels
    images = []
    for row, entry in enumerate(table[image].to_pylist()):
        raw = entry.get("bytes") if isinstance(entry, Mapping) else entry
        if not isinstance(raw, bytes):
            raise ValueError(f"row {row} of {path} has no image in {image!r}, but {type(raw).__name__}")
        images.append(_image(raw, f"row {row} of {path}", size, False))
    return torch.stack(images), labels


def _numbered(labels: Sequence[Any], where: str, classes: Sequence[str] = ()) -> Tensor:
    """Labels as numbers from 0: their places in `classes`; without those whole numbers as they are, others in order."""
    if not classes and labels and all(isinstance(label, int) for label in labels):
        return torch.tensor(labels, dtype=torch.int64)
    names = {name: place for place, name in enumerate(classes or sorted(set(map(str, labels))))}
    if unknown := set(map(str, labels)) - set(names):
        raise ValueError(f"{where} has the class {min(unknown)!r}; classes are {', '.join(names)}")
    return torch.tensor([names[str(label)] for label in labels], dtype=torch.int64)


def csv_texts(path: Path | str, *, text: str = "text", label: str = "label") -> list[tuple[str, str]]:
    """The label and text of every row of a CSV file with a header, for `Texts`.

    Raises `ValueError` in one line for a file that cannot be read, a column that is not there, and a row without one.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:  # spreadsheets begin theirs with a mark
            reader = csv.DictReader(file)
            rows = list(reader)
            names = reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"cannot read {path} ({' '.join(str(error).split())})") from None
    for name in (text, label):
        if name not in names:
            raise ValueError(f"{path} has no column {name!r}; it has {', '.join(names)}")
    for number, row in enumerate(rows, start=2):
        if row[text] is None or row[label] is None:
            raise ValueError(f"row {number} of {path} has fewer columns than its header")
    return [(row[label], row[text]) for row in rows]


__all__ = ["Source", "Texts", "csv_texts", "image_folder", "own_task", "parquet"]
