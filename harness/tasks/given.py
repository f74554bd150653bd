"""Teachers that a user brings: any module with its checkpoint, or only what a teacher said."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from harness.models.modules import logits_of, seeded
from harness.tasks.stream import in_parts
from harness.tasks.task import GivenTeacher

BATCH = 250


def module_teacher(
    make: Callable[[], nn.Module], checkpoint: Path | str, *, name: str = "", device: str = "cpu", batch: int = BATCH
) -> GivenTeacher:
    """A module with the weights of `checkpoint`: a `.safetensors` file, or a state dict that `torch.save` wrote.

    The latter is read with `weights_only=True`, so that nothing in it is run. The module takes a batch of a split's
    inputs and returns logits, or something with `.logits`. Raises `ValueError` in one line, as soon as the teacher is
    asked, for a file that cannot be read, or is of another module.
    """
    path = Path(checkpoint)

    @cache
    def key() -> str:
        return _hash(path)

    @cache
    def module() -> nn.Module:
        with seeded(0):
            made = make()
        _put(read_checkpoint(path), made, path)
        return made.eval().to(device)

    @torch.no_grad()
    def answer(_: str, inputs: Any) -> Tensor:
        parts = (part.float() if part.is_floating_point() else part for part in in_parts(inputs, batch))
        return torch.cat([logits_of(module()(part.to(device))).float().cpu() for part in parts])

    with seeded(0):
        num_params = sum(values.numel() for values in make().parameters())
    return GivenTeacher(name or path.stem, key, answer, num_params, sees_inputs=True)


def read_checkpoint(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a checkpoint by name. Raises `ValueError` in one line for one that cannot be read safely."""
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes its readers raise anything
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"cannot read the checkpoint {path} ({said}); give a .safetensors or a state dict") from None
    if isinstance(found, Mapping) and "state_dict" in found:
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not all(
        isinstance(name, str) and isinstance(values, Tensor) for name, values in found.items()
    ):
        raise ValueError(f"the checkpoint {path} holds no state dict; give a .safetensors or a state dict")
    return found


def _put(weights: Mapping[str, Tensor], module: nn.Module, path: Path) -> None:
    """Load weights into a module. A tensor that it has under several names may be there under one of them, as in a
    `.safetensors` file. Raises `ValueError` in one line for weights of another module.
    """
    try:
        missing, unexpected = module.load_state_dict(dict(weights), strict=False)
    except RuntimeError as error:
        raise ValueError(f"{path} is not of this teacher: {' '.join(str(error).split())[:400]}") from None
    own = module.state_dict(keep_vars=True)
    there = {id(own[name]) for name in own.keys() & weights.keys()}
    for kind, names in (("lacks", [name for name in missing if id(own[name]) not in there]), ("has", unexpected)):
        if names:
            raise ValueError(f"{path} is not of this teacher: it {kind} {', '.join(names)[:400]}")


def logits_teacher(
    *, train: Path | str, val: Path | str, test: Path | str, ids: Mapping[str, Any] | None = None, name: str = "logits"
) -> GivenTeacher:
    """Only what a teacher said of each split, where it is too large to run: a `.safetensors` or `.npy` file each.

    A `.safetensors` file has `logits` `[examples, ..., classes]` and may have `ids` `[examples]`; a `.npy` file is the
    logits, and `<name>.ids.npy` beside it, if there, their ids. `ids[split]` are those of the split's own examples, by
    default their places 0, 1, 2, ...; rows are matched by id, and where there are no ids at all there must be one row
    an example. Raises `ValueError` in one line, as soon as the teacher is asked, for files that cannot be read, and
    examples of which nothing was said.
    """
    paths = {"train": Path(train), "val": Path(val), "test": Path(test)}

    def own_ids(split: str) -> np.ndarray | None:
        if ids is None:
            return None
        own = np.asarray(ids.get(split, ()))
        if own.dtype.kind not in "iu" or own.ndim != 1:
            raise ValueError(f"the ids of {split} are not one whole number an example")
        return own

    @cache
    def key() -> str:
        files = [_hash(file) for split in ("train", "val") for file in _files(paths[split])]
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


def _hash(path: Path) -> str:
    """SHA-256 of a file. Raises `ValueError` in one line where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"cannot read the teacher's file {path} ({error.strerror})") from None
