"""The teacher: trained once, kept as safetensors, its logits kept by sample index under a key.

    <cache>/<task>-<key>/   weights.safetensors, logits.safetensors, teacher.json

The folder's key stands for the recipe and the data; the logits carry a second one, of the weights themselves, the
data, the transform and the dtype. Logits whose key does not fit are refused, never used.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.ledger import read_json, write_json
from harness.models import init, num_params
from harness.seeds import generator
from harness.spec import digest
from harness.tasks import Split, Task, TeacherRecipe

Progress = Callable[[int, int, float], None]
"""Called after each epoch with its number, the number of epochs, and the val accuracy."""

TRANSFORM = "none"
"""What was done to the inputs before the cached logits were computed."""


@dataclass(frozen=True)
class TeacherLogits:
    """The teacher's logits by sample index: `[examples, ..., classes]`, float32."""

    train: Tensor
    val: Tensor


def ensure(task: Task, cache: Path, device: str = "cpu", progress: Progress | None = None) -> dict[str, Any]:
    """Train the task's teacher unless the cache has it, and return what `teacher.json` says of it."""
    folder = _folder(task, cache)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        try:
            facts = read_json(folder / "teacher.json")
        except ValueError as error:
            raise ValueError(f"{error}; delete {folder} and run again") from None
        if facts is None:
            facts = _make(task, folder, device, progress or (lambda *_: None))
            write_json(folder / "teacher.json", facts)
    load_logits(task, cache)
    return dict(facts)


@lru_cache(maxsize=4)
def load_logits(task: Task, cache: Path) -> TeacherLogits:
    """The cached logits. Raises `ValueError` when they are missing, damaged, or of other weights or data."""
    folder = _folder(task, cache)
    remedy = f"delete {folder} and run again"
    try:
        with safe_open(folder / "logits.safetensors", framework="pt") as file:
            key = (file.metadata() or {}).get("key")
            found = TeacherLogits(file.get_tensor("train"), file.get_tensor("val"))
        expected = _logits_key(task, folder)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"cannot read the teacher's logits ({error}); {remedy}") from None
    if key != expected:
        raise ValueError(f"the teacher's logits belong to other weights or data; {remedy}")
    if len(found.train) != len(task.train) or len(found.val) != len(task.val):
        raise ValueError(f"the teacher's logits are not one row an example; {remedy}")
    return found


def _make(task: Task, folder: Path, device: str, progress: Progress) -> dict[str, Any]:
    """Train, write weights and logits, return the facts. What is written last makes the folder valid."""
    recipe, started = task.teacher, time.perf_counter()
    params = _train(task, device, progress)
    seconds = time.perf_counter() - started
    _save({name: param.cpu() for name, param in params.items()}, folder / "weights.safetensors", {})
    logits = {name: _forward(recipe, params, split) for name, split in (("train", task.train), ("val", task.val))}
    _save(logits, folder / "logits.safetensors", {"key": _logits_key(task, folder)})
    shape = (recipe.width, task.input_shape, task.num_classes)
    macs = recipe.family.macs(*shape)
    return {
        "name": recipe.family.name,
        "width": recipe.width,
        "num_params": num_params(recipe.family, *shape),
        "macs": macs,
        "val_accuracy": _accuracy(logits["val"], task.val),
        "val_loss": F.cross_entropy(logits["val"].flatten(0, -2), task.val.labels.flatten()).item(),
        "train_accuracy": _accuracy(logits["train"], task.train),
        "train_flops": 6.0 * macs * recipe.epochs * (len(task.train) // recipe.batch_size) * recipe.batch_size,
        "seconds": seconds,
        "key": folder.name,
    }


def _train(task: Task, device: str, progress: Progress) -> dict[str, Tensor]:
    """The teacher's parameters after the last epoch, float32."""
    recipe = task.teacher
    start = init(recipe.family, recipe.width, task.input_shape, task.num_classes, generator(recipe.seed, "init"))
    params = {name: param.to(device, torch.float32).requires_grad_() for name, param in start.items()}
    optimiser = torch.optim.AdamW(params.values(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    num_steps = recipe.epochs * (len(task.train) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: 0.5 + 0.5 * math.cos(math.pi * step / num_steps)
    )
    noise = generator(recipe.seed, "order")
    for epoch in range(1, recipe.epochs + 1):
        for inputs, labels in _batches(task.train, recipe, noise):
            logits = recipe.family.apply(params, recipe.family.prepare(inputs.to(device)))
            loss = F.cross_entropy(logits.flatten(0, -2), labels.to(device).flatten())
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        progress(epoch, recipe.epochs, _accuracy(_forward(recipe, params, task.val), task.val))
    return {name: param.detach() for name, param in params.items()}


def _batches(split: Split, recipe: TeacherRecipe, noise: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of whole batches in random order, each image shifted at random."""
    order = torch.randperm(len(split), generator=noise)
    for index in torch.split(order[: len(split) // recipe.batch_size * recipe.batch_size], recipe.batch_size):
        inputs = split.inputs[index]
        yield (shifted(inputs, recipe.shift, noise) if recipe.shift else inputs), split.labels[index]


def shifted(images: Tensor, most: int, noise: torch.Generator) -> Tensor:
    """Images `[batch, channels, height, width]`, each moved by up to `most` pixels either way; the edge repeats."""
    batch, _, height, width = images.shape
    padded = F.pad(images, (most,) * 4, mode="replicate")
    offsets = torch.randint(0, 2 * most + 1, (2, batch, 1), generator=noise)
    rows = (offsets[0] + torch.arange(height))[:, None, :, None]
    columns = (offsets[1] + torch.arange(width))[:, None, None, :]
    examples, channels = torch.arange(batch)[:, None, None, None], torch.arange(images.shape[1])[:, None, None]
    return padded[examples, channels, rows, columns]


@torch.no_grad()
def _forward(recipe: TeacherRecipe, params: dict[str, Tensor], split: Split) -> Tensor:
    """Logits of a whole split, on the CPU."""
    device = next(iter(params.values())).device
    parts = torch.split(split.inputs, 500)
    return torch.cat([recipe.family.apply(params, recipe.family.prepare(part.to(device))).cpu() for part in parts])


def _accuracy(logits: Tensor, split: Split) -> float:
    return (logits.argmax(-1) == split.labels).float().mean().item()


def key(task: Task) -> str:
    """Stands for the task's teacher: its recipe and its data."""
    recipe = {f.name: getattr(task.teacher, f.name) for f in dataclasses.fields(TeacherRecipe)}
    recipe["family"] = task.teacher.family.name
    return f"{task.name}-{digest([recipe, task.train.hash, task.val.hash])}"


def _folder(task: Task, cache: Path) -> Path:
    return cache / key(task)


def _logits_key(task: Task, folder: Path) -> str:
    weights = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    return digest([weights, task.train.hash, task.val.hash, TRANSFORM, "float32"])


def _save(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata=metadata)
    temporary.replace(path)


def load_weights(task: Task, cache: Path) -> dict[str, Tensor]:
    """The teacher's parameters by name."""
    return dict(load_file(_folder(task, cache) / "weights.safetensors"))
