"""A teacher that a user brings as a module with its checkpoint. What only said something is in `answers`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from harness.models.modules import logits_of, seeded
from harness.tasks.stream import in_parts
from harness.tasks.task import GivenTeacher

BATCH = 250
WRAPPED = ("state_dict", "model", "model_state_dict")
"""What a state dict is called beside an optimiser's and other things in one file."""


def module_teacher(
    make: Callable[[], nn.Module], checkpoint: Path | str, *, name: str = "", device: str = "cpu", batch: int = BATCH
) -> GivenTeacher:
    """A module with the weights of `checkpoint`: a `.safetensors` file, or a state dict that `torch.save` wrote.

    The latter is read with `weights_only=True`, so that nothing in it is run. The module takes a batch of a split's
    inputs and returns logits, or something with `.logits`. Its answers are kept under its file, its `name`, and its
    layers as it prints them: a `forward` that was changed over the same layers needs another `name`. Raises
    `ValueError` in one line, as soon as the teacher is asked, for a file that cannot be read, or is of another module.
    """
    path = Path(checkpoint)
    called = name or path.stem

    @cache
    def key() -> str:
        return hashlib.sha256("\n".join([file_hash(path), called, layers]).encode()).hexdigest()

    @cache
    def module() -> nn.Module:
        with seeded(0):
            made = make()
        _put(read_checkpoint(path), made, path)
        return made.eval().to(device)

    @torch.no_grad()
    def answer(_: str, inputs: Any) -> Tensor:
        said = []
        for part in in_parts(inputs, batch):
            dtype = torch.float32 if part.is_floating_point() else part.dtype
            own = part.to(device, dtype, copy=True)  # a module may work in place, and the part is the task's data
            said.append(logits_of(module()(own)).float().cpu())
        return torch.cat(said)

    with seeded(0):
        made = make()
    num_params, layers = sum(values.numel() for values in made.parameters()), _layers(made)
    return GivenTeacher(called, key, answer, num_params, sees_inputs=True)


def _layers(module: nn.Module) -> str:
    """A module as it prints itself, without addresses in memory, and the shapes of its tensors."""
    shapes = (f"{name} {list(values.shape)}" for name, values in module.state_dict().items())
    return "\n".join([re.sub(r" at 0x[0-9a-fA-F]+", "", repr(module)), *shapes])


def read_checkpoint(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a checkpoint by name. Raises `ValueError` in one line for one that cannot be read safely."""
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(f"cannot read the checkpoint {path} ({error.strerror or 'it is cut short'})") from None
    except Exception as error:  # a damaged file makes its readers raise anything
        if type(error).__name__ != "UnpicklingError":
            raise ValueError(f"cannot read the checkpoint {path} (it is damaged, or of another format)") from None
        # Its own words are to read it with weights_only=False, which runs what is in it.
        raise ValueError(
            f"cannot read the checkpoint {path} (it holds more than tensors, or is damaged); save model.state_dict()"
        ) from None
    return _state_dict(found, path)


def _state_dict(found: Any, path: Path) -> Mapping[str, Tensor]:
    """The state dict that was saved, or the only one in a mapping of other things."""
    inner = [name for name in WRAPPED if isinstance(found, Mapping) and isinstance(found.get(name), Mapping)]
    own = found[inner[0]] if len(inner) == 1 else found
    if isinstance(own, Mapping) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in own.items()):
        return own
    what = f"keys {', '.join(map(str, found))[:200]}" if isinstance(found, Mapping) else f"a {type(found).__name__}"
    raise ValueError(f"the checkpoint {path} holds no state dict, but {what}; save model.state_dict()")


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


def file_hash(path: Path) -> str:
    """SHA-256 of a file. Raises `ValueError` in one line where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"cannot read the teacher's file {path} ({error.strerror})") from None
