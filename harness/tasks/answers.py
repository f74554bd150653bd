"""A teacher of which a user has only what it said, in files of logits."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from harness.models.modules import are_probabilities
from harness.tasks.given import file_hash
from harness.tasks.task import GivenTeacher

log = logging.getLogger(__name__)
LOOKED_AT = 256
"""Rows of a file that tell logits from probabilities."""


def logits_teacher(
    *, train: Path | str, val: Path | str, test: Path | str, ids: Mapping[str, Any] | None = None, name: str = "logits"
) -> GivenTeacher:
    """Only what a teacher said of each split, where it is too large to run: a `.safetensors` or `.npy` file each.

    A `.safetensors` file has `logits` `[examples, ..., classes]` and may have `ids` `[examples]`; a `.npy` file is the
    logits, and `<name>.ids.npy` beside it, if there, their ids. `ids[split]` are those of the split's own examples, by
    default their places 0, 1, 2, ...; rows are matched by id, and where there are no ids at all there must be one row
    an example. Raises `ValueError` in one line for files that are not there, cannot be read or differ in their classes,
    of which only the shapes and a few rows are looked at; and, once it is asked, for examples of which nothing is said.
    """
    paths = {"train": Path(train), "val": Path(val), "test": Path(test)}
    classes = {path: _shape(path)[-1] for path in paths.values()}
    if are_probabilities(_first(paths["train"])):
        log.warning("the rows of %s look like probabilities: give their logarithm (np.log(p))", paths["train"])
    for path, own_classes in classes.items():
        if own_classes != (known := classes[paths["train"]]):
            raise ValueError(f"{path} has logits of {own_classes} classes, and {paths['train']} of {known}")

    def own_ids(split: str) -> np.ndarray | None:
        if ids is None:
            return None
        own = np.asarray(ids.get(split, ()))
        if own.dtype.kind not in "iu" or own.ndim != 1:
            raise ValueError(f"the ids of {split} are not one whole number an example")
        return own

    @cache
    def key() -> str:
        files = [file_hash(file) for split in ("train", "val") for file in _files(paths[split])]
        own = [hashlib.sha256(ids.astype(np.int64).tobytes()).hexdigest() for split in ("train", "val")
               if (ids := own_ids(split)) is not None]  # fmt: skip
        return hashlib.sha256("".join([*files, *own]).encode()).hexdigest()

    def answer(split: str, inputs: Any) -> Tensor:
        said, rows = _read_logits(paths[split])
        own = own_ids(split)
        if own is None and rows is None and len(said) != len(inputs):
            raise ValueError(f"{paths[split]} has {len(said)} rows and no ids, and {split} {len(inputs)} examples")
        own = np.arange(len(inputs)) if own is None else own
        rows = np.arange(len(said)) if rows is None else rows
        if len(own) != len(inputs):
            raise ValueError(f"{split} has {len(inputs)} examples and {len(own)} ids")
        place = {int(row): index for index, row in enumerate(rows)}
        if len(place) != len(rows):
            raise ValueError(f"{paths[split]} says several things of one example")
        if missing := [int(one) for one in own if int(one) not in place]:
            raise ValueError(
                f"{paths[split]} says nothing of {len(missing)} of {len(own)} examples, first {missing[0]}"
            )
        return torch.from_numpy(said[[place[int(one)] for one in own]].astype(np.float32))

    return GivenTeacher(name, key, answer)


def _files(path: Path) -> list[Path]:
    """A file of logits, and that of its ids where it has one."""
    beside = path.with_suffix(".ids.npy")
    return [path, beside] if path.suffix != ".safetensors" and beside.exists() else [path]


def _array(path: Path) -> np.ndarray:
    """The array of a `.npy` file. Raises `ValueError` for another file, and for one that holds pickled objects."""
    with path.open("rb") as file:
        found: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    return found


def _shape(path: Path) -> tuple[int, ...]:
    """The shape of a file's logits, `[rows, ..., classes]`; they themselves are not read."""
    if not path.exists():
        raise ValueError(f"cannot read the teacher's file {path} (No such file or directory)")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                shape = tuple(file.get_slice("logits").get_shape())
        else:
            shape = np.lib.format.open_memmap(path, mode="r").shape
    except (OSError, SafetensorError, ValueError, EOFError) as error:
        raise ValueError(f"cannot read the teacher's logits in {path} ({' '.join(str(error).split())[:200]})") from None
    if len(shape) < 2:
        raise ValueError(f"{path} does not hold one row of logits an example")
    return shape


def _first(path: Path) -> Tensor:
    """The first rows of a file's logits, float32, none where they are no numbers; the rest is not read."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            found: Tensor = file.get_slice("logits")[:LOOKED_AT].float()
            return found
    rows = np.lib.format.open_memmap(path, mode="r")[:LOOKED_AT]
    return torch.from_numpy(rows.astype(np.float32)) if rows.dtype.kind in "fiu" else torch.empty(0)


def _read_logits(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Logits `[rows, ..., classes]` and the ids of their rows, None where there are none."""
    try:
        if path.suffix == ".safetensors":
            found = {name: values for name, values in load_file(path).items() if name in ("logits", "ids")}
            said = found["logits"].float().numpy()
            ids = found["ids"].numpy() if "ids" in found else None
        else:
            said, *others = map(_array, _files(path))
            ids = others[0] if others else None
    except KeyError:
        raise ValueError(f"{path} has no tensor called 'logits'") from None
    except (OSError, SafetensorError, ValueError, EOFError) as error:
        raise ValueError(f"cannot read the teacher's logits in {path} ({' '.join(str(error).split())[:200]})") from None
    if said.ndim < 2 or said.dtype.kind not in "fiu":
        raise ValueError(f"{path} does not hold one row of logits an example")
    if ids is not None and (ids.shape != said.shape[:1] or ids.dtype.kind not in "iu"):
        raise ValueError(f"{path} has {len(said)} rows of logits, and ids that are not one whole number a row")
    return said, ids
