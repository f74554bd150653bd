"""Readers of a user's own files: a folder of images, parquet, a CSV of texts. Add another format as a function here."""

from __future__ import annotations

import csv
import io
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.tasks.arrays import tensor_of
from harness.tasks.task import Split

log = logging.getLogger(__name__)
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
LONGEST = 2**31 - 1
"""Characters of a text in a CSV file; the csv module's own limit is 131,072."""
SAID = 12
"""Columns of inputs that are named in the log, at most."""


def image_folder(path: Path | str, size: tuple[int, int], *, grey: bool = False, classes: Sequence[str] = ()) -> Split:
    """The images below `path`, a subfolder a class in the order of their names, resized to `size` (height, width).

    Pixels from 0 to 1, `[examples, 3 or 1, height, width]` float32, and labels `[examples]` with the names of their
    classes. `classes` are the names of the subfolders in the order of their labels, where a folder may lack some.
    Raises `ValueError` in one line for a folder without classes or images, and for a file that is no image.
    """
    _check_size(size, str(path))
    folder = Path(path)
    entries = folder.iterdir() if folder.is_dir() else ()
    there = sorted(entry for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    numbers, names = _numbered([entry.name for entry in there], str(folder), classes)
    by_name = numbers.tolist()
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
    return Split(images, torch.tensor([label for _, label in files]), names)


def _check_size(size: Any, where: str) -> None:
    whole = isinstance(size, tuple | list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)
    if not whole:
        raise ValueError(f"size of the images in {where} is {size!r}, not (height, width) in pixels")


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
) -> Split:
    """A parquet file's inputs and labels: `columns` of numbers, all but `label` by default, or the column `image`.

    What pandas wrote as the index of a table is no input unless it is named: of rows that were sorted by class their
    places give the label away. Which columns are inputs, where none is named, is logged.
    An image is its file's bytes, or a mapping that has them as `bytes`, as Hugging Face writes it. Labels that are no
    numbers are numbered in the order of their names, which the split keeps, or in that of `classes`, where a file may
    lack some. Raises `ValueError` in one line for a file that cannot be read and a column that is not there.
    """
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            table = file.read()
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise ValueError(f"cannot read {path} ({' '.join(str(error).split())})") from None
    if image:
        _check_size(size, str(path))
    names = table.column_names
    index = _index_of(table)
    wanted = [image] if image else list(columns or [name for name in names if name != label and name not in index])
    for name in (label, *wanted):
        if name not in names:
            raise ValueError(f"{path} has no column {name!r}; it has {', '.join(names)}")
    if not wanted:
        but = " and the index " * bool(index - {label}) + ", ".join(sorted(index - {label}))
        raise ValueError(f"{path} has no column but {label!r}{but}, and so no inputs")
    said = table[label].to_pylist()
    if not said or any(one is None or one != one for one in said):  # NaN is not itself
        raise ValueError(f"{path} has no rows, or one without a {label!r}")
    labels, known = _numbered(said, str(path), classes)
    if not image:
        numbers = np.stack([table[name].to_numpy() for name in wanted], axis=1)
        if not columns:
            _say_inputs(path, wanted, [name for name in names if name in index - {label}])
        return Split(tensor_of(numbers, f"columns {', '.join(wanted)} of {path}"), labels, known)
    images = []
    for row, entry in enumerate(table[image].to_pylist()):
        raw = entry.get("bytes") if isinstance(entry, Mapping) else entry
        if not isinstance(raw, bytes):
            raise ValueError(f"row {row} of {path} has no image in {image!r}, but {type(raw).__name__}")
        images.append(_image(raw, f"row {row} of {path}", size, False))
    return Split(torch.stack(images), labels, known)


def _index_of(table: Any) -> set[str]:
    """The columns that pandas wrote as a table's index, as a table that was shuffled has it."""
    try:
        said = json.loads((table.schema.metadata or {}).get(b"pandas", b"{}")).get("index_columns", [])
    except (ValueError, AttributeError):  # another program's
        said = []
    told = {name for name in said if isinstance(name, str)} if isinstance(said, list) else set()
    return {name for name in table.column_names if name in told or re.fullmatch(r"__index_level_\d+__", name)}


def _say_inputs(path: Path | str, inputs: Sequence[str], left_out: Sequence[str]) -> None:
    told = ", ".join(inputs[:SAID]) + f" and {len(inputs) - SAID} more" * (len(inputs) > SAID)
    without = f"; {', '.join(left_out)} is pandas' index, and left out" if left_out else ""
    log.warning("%s: the inputs are its columns %s%s", path, told, without)


def _numbered(labels: Sequence[Any], where: str, classes: Sequence[str] = ()) -> tuple[Tensor, tuple[str, ...]]:
    """Labels as numbers from 0, and the names of their classes: their places in `classes`, or in the order of names.

    Without `classes`, whole numbers are as they are and have no names. Raises `ValueError` for other real numbers, and
    for a label that is not among `classes`.
    """
    labels = [int(label) if isinstance(label, float) and label.is_integer() else label for label in labels]
    if real := [label for label in labels if isinstance(label, float)]:
        raise ValueError(f"{where} has the label {real[0]}, a real number, not a class")
    if not classes and labels and all(isinstance(label, int) for label in labels):
        return torch.tensor(labels, dtype=torch.int64), ()
    names = {name: place for place, name in enumerate(classes or sorted(set(map(str, labels))))}
    if unknown := set(map(str, labels)) - set(names):
        raise ValueError(f"{where} has the class {min(unknown)!r}; classes are {', '.join(names)}")
    return torch.tensor([names[str(label)] for label in labels], dtype=torch.int64), tuple(names)


def csv_texts(path: Path | str, *, text: str = "text", label: str = "label") -> list[tuple[str, str]]:
    """The label and text of every row of a CSV file with a header, for `Texts`.

    Raises `ValueError` in one line for a file that cannot be read, a column that is not there, and a row without one.
    """
    before = csv.field_size_limit(LONGEST)
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:  # spreadsheets begin theirs with a mark
            reader = csv.DictReader(file)
            rows = list(reader)
            names = reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"cannot read {path} ({' '.join(str(error).split())})") from None
    finally:
        csv.field_size_limit(before)  # it is the whole process's
    for name in (text, label):
        if name not in names:
            raise ValueError(f"{path} has no column {name!r}; it has {', '.join(names)}")
    for number, row in enumerate(rows, start=2):
        if row[text] is None or row[label] is None:
            raise ValueError(f"row {number} of {path} has fewer columns than its header")
        if not row[label].strip():
            raise ValueError(f"row {number} of {path} has no {label!r}")
    return [(row[label], row[text]) for row in rows]
