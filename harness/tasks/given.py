"""Teachers that a user brings: any module with its checkpoint, or only what a teacher said."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
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
        weights = read_checkpoint(path)
        try:
            made.load_state_dict(dict(weights))
        except RuntimeError as error:
            raise ValueError(f"{path} is not of this teacher: {' '.join(str(error).split())[:400]}") from None
        return made.eval().to(device)

    @torch.no_grad()
    def answer(_: str, inputs: Any) -> Tensor:
        return torch.cat([logits_of(module()(part.to(device))).float().cpu() for part in in_parts(inputs, batch)])

    with seeded(0):
        num_params = sum(values.numel() for values in make().parameters())
    return GivenTeacher(name or path.stem, key, answer, num_params, sees_inputs=True)


def read_checkpoint(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a checkpoint by name. Raises `ValueError` in one line for one that cannot be read safely."""
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"cannot read the checkpoint {path} ({said}); give a .safetensors or a state dict") from None
    if isinstance(found, Mapping) and "state_dict" in found:
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not all(isinstance(values, Tensor) for values in found.values()):
        raise ValueError(f"the checkpoint {path} holds no state dict; give a .safetensors or a state dict")
    return found


def logits_teacher(
    *, train: Path | str, val: Path | str, test: Path | str, ids: Mapping[str, Any] | None = None, name: str = "logits"
) -> GivenTeacher:
    """Only what a teacher said of each split, where it is too large to run: a `.safetensors` or `.npy` file each.

    A `.safetensors` file has `logits` `[examples, ..., classes]` and may have `ids` `[examples]`; a `.npy` file is the
    logits, and `<name>.ids.npy` beside it, if there, their ids. `ids[split]` are those of the split's own examples, by
    default their places 0, 1, 2, ...; rows are matched by id, never by place. Raises `ValueError` in one line, as soon
    as the teacher is asked, for files that cannot be read, and examples of which nothing was said.
    """
    paths = {"train": Path(train), "val": Path(val), "test": Path(test)}

    @cache
    def key() -> str:
        return hashlib.sha256("".join(_hash(paths[split]) for split in ("train", "val")).encode()).hexdigest()

    def answer(split: str, inputs: Any) -> Tensor:
        said, rows = _read_logits(paths[split])
        own = np.arange(len(inputs)) if ids is None else np.asarray(ids[split])
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


def _read_logits(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Logits `[rows, ..., classes]` and the ids of their rows."""
    try:
        if path.suffix == ".safetensors":
            found = {name: values.float().numpy() for name, values in load_file(path).items() if name == "logits"}
            rows = {name: values.numpy() for name, values in load_file(path).items() if name == "ids"}
            said, ids = found["logits"], rows.get("ids")
        else:
            said = np.load(path, allow_pickle=False)
            beside = path.with_suffix(".ids.npy")
            ids = np.load(beside, allow_pickle=False) if beside.exists() else None
    except KeyError:
        raise ValueError(f"{path} has no tensor called 'logits'") from None
    except (OSError, SafetensorError, ValueError, EOFError) as error:
        raise ValueError(f"cannot read the teacher's logits in {path} ({' '.join(str(error).split())[:200]})") from None
    own = np.arange(len(said)) if ids is None else ids
    if len(own) != len(said) or own.ndim != 1 or own.dtype.kind not in "iu":
        raise ValueError(f"{path} has {len(said)} rows of logits, and ids that are not one whole number a row")
    return said, own


def _hash(path: Path) -> str:
    """SHA-256 of a file. Raises `ValueError` in one line where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"cannot read the teacher's file {path} ({error.strerror})") from None
