"""The teachers: networks of the task's recipe, trained once, kept as safetensors, their logits beside them.

    <cache>/<task>-<key>/   weights.safetensors, logits.safetensors, teacher.json

The folder's key stands for the recipe and the data; the logits carry a second one, of the weights themselves, the
data, the transform and the dtype; and a checksum of what is in the file. What does not fit is put aside and made
anew, never used. A folder that is whole is only read, so a cache may be shared read-only. What students are given of a
teacher beside its plain logits is in `harness.targets`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from filelock import FileLock
from safetensors.torch import load_file
from torch import Tensor

from harness import keyed, teaching
from harness.files import read_sealed, write_sealed
from harness.models import num_params
from harness.models.modules import are_probabilities, of_other_kind
from harness.tasks import GivenTeacher, Inputs, Task, TeacherRecipe, in_parts
from harness.tasks.fits import misfit, of_labels
from harness.teaching import Progress
from harness.values import digest, is_number

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A network of the task's recipe: of another `width`, or stopped after so many of its `epochs`; 0 is as it says."""

    width: int = 0
    epochs: int = 0


FACTS = ("width", "num_params", "macs", "val_accuracy", "val_loss", "train_accuracy", "train_flops", "seconds")
"""The numbers in `teacher.json`."""
LOGITS_COST = ("logits_seconds", "logits_flops")
"""What its logits cost, also in `teacher.json`: not in one of an earlier version, no FLOPs where MACs are not known."""
OWN = Source()
"""The task's own teacher, as its recipe says."""


@dataclass(frozen=True)
class TeacherLogits:
    """A teacher's logits by sample index: `[examples, ..., classes]`, float32."""

    train: Tensor
    val: Tensor


def recipe_of(task: Task, source: Source) -> TeacherRecipe:
    """The task's recipe at the source's width. Raises `ValueError` for a teacher that was given."""
    return dataclasses.replace(task.recipe, width=source.width or task.recipe.width)


def ensure(
    task: Task, cache: Path, device: str = "cpu", progress: Progress | None = None, source: Source = OWN
) -> dict[str, Any]:
    """Train a teacher of the task unless the cache has it, and return what `teacher.json` says of it."""
    place = folder(task, cache, source)
    try:
        facts = _whole(task, cache, source)
    except ValueError:
        facts = None
    if facts is None:
        place.mkdir(parents=True, exist_ok=True)
        with FileLock(place / "lock"):
            facts = _kept(task, cache, source)
            if facts is None:
                facts = _make(task, place, device, progress or (lambda *_: None), source)
                write_sealed(place / "teacher.json", facts)
        load_logits(task, cache, source)
    return facts


def _whole(task: Task, cache: Path, source: Source) -> dict[str, Any] | None:
    """What `teacher.json` says, its logits checked; None where there is none. Raises `ValueError` for damaged ones."""
    path = folder(task, cache, source) / "teacher.json"
    facts = read_sealed(path)
    if facts is None:
        return None
    numbers = (*FACTS, *(name for name in LOGITS_COST if name in facts))
    if not isinstance(facts.get("name"), str) or not all(is_number(facts.get(name)) for name in numbers):
        raise ValueError(f"{path} is not what is said of a teacher")
    load_logits(task, cache, source)
    return facts


def _kept(task: Task, cache: Path, source: Source) -> dict[str, Any] | None:
    """As `_whole`, but what is damaged is put aside; the folder's lock is held."""
    try:
        return _whole(task, cache, source)
    except ValueError as error:
        place = folder(task, cache, source)
        aside = place / f"aside-{time.time_ns()}"
        aside.mkdir()
        for name in ("teacher.json", "logits.safetensors", "weights.safetensors"):
            if os.path.lexists(place / name):
                (place / name).rename(aside / name)
        log.warning("%s; the teacher is made again, what was there is kept in %s", error, aside)
        return None


@lru_cache(maxsize=8)
def load_logits(task: Task, cache: Path, source: Source = OWN) -> TeacherLogits:
    """The cached logits. Raises `ValueError` when they are missing, damaged, or of other weights or data."""
    place = folder(task, cache, source)
    found = keyed.read(place / "logits.safetensors", lambda: weights_key(task, place, "none"))
    if missing := {"train", "val"} - set(found):
        raise ValueError(f"cannot read the teacher's logits in {place} (no {sorted(missing)[0]})")
    if len(found["train"]) != len(task.train) or len(found["val"]) != len(task.val):
        raise ValueError(f"the teacher's logits in {place} are not one row an example")
    return TeacherLogits(found["train"], found["val"])


@lru_cache(maxsize=4)
def test_logits(task: Task, cache: Path, stage: str) -> Tensor:
    """What the task's own teacher says of the test split, `[examples, ..., classes]`; it is never kept on disk.

    Raises `PermissionError` in any other stage than `"confirm"`.
    """
    inputs = task.test.read(stage).inputs
    if isinstance(task.teacher, GivenTeacher):
        return _answer(task, task.teacher, "test", inputs)
    return teaching.forward(task.teacher, load_weights(task, cache), inputs)


def load_weights(task: Task, cache: Path, source: Source = OWN) -> dict[str, Tensor]:
    """A teacher's parameters by name."""
    return dict(load_file(folder(task, cache, source) / "weights.safetensors"))


def key(task: Task, source: Source = OWN) -> str:
    """Stands for a teacher: its recipe and its data."""
    if isinstance(task.teacher, GivenTeacher):
        return f"{task.name}-{digest([task.teacher.name, task.teacher.key(), task.train.hash, task.val.hash])}"
    recipe = {f.name: getattr(recipe_of(task, source), f.name) for f in dataclasses.fields(TeacherRecipe)}
    recipe["family"] = task.teacher.family.name
    if not recipe["label_smoothing"]:
        del recipe["label_smoothing"]  # a teacher of before there was the field is still the same one
    stopped = [source.epochs] if source.epochs else []
    return f"{task.name}-{digest([recipe, task.train.hash, task.val.hash, *stopped])}"


def folder(task: Task, cache: Path, source: Source = OWN) -> Path:
    """Where a teacher is kept."""
    return cache / key(task, source)


def weights_key(task: Task, place: Path, kind: str) -> str:
    """Stands for what was computed from a folder's weights and the data, in a way called `kind`."""
    if isinstance(task.teacher, GivenTeacher):
        weights = task.teacher.key()
    else:
        weights = hashlib.sha256((place / "weights.safetensors").read_bytes()).hexdigest()
    return digest([weights, task.train.hash, task.val.hash, kind, "float32"])


def spent_on_logits(facts: Mapping[str, Any]) -> keyed.Spent:
    """What was spent on the logits of train and val, by what `teacher.json` says.

    In that of an earlier version only the seconds of a given teacher's logits are known: it has no others.
    """
    seconds, flops = (facts.get(name) for name in LOGITS_COST)
    return keyed.Spent(facts["seconds"] if seconds is None and not facts["width"] else seconds, flops)


def forward_flops(macs: int, examples: int) -> float | None:
    """FLOPs of so many answers of a network, two per multiply-accumulate; None where its MACs are not known."""
    return 2.0 * macs * examples if macs else None


def _make(task: Task, place: Path, device: str, progress: Progress, source: Source) -> dict[str, Any]:
    """Train, write weights and logits, return the facts. What is written last makes the folder valid."""
    if isinstance(task.teacher, GivenTeacher):
        return _ask(task, task.teacher, place)
    recipe, started = recipe_of(task, source), time.perf_counter()
    epochs = source.epochs or recipe.epochs
    params = teaching.train(task, recipe, epochs, device, progress)
    seconds = time.perf_counter() - started
    keyed.save({name: param.cpu() for name, param in params.items()}, place / "weights.safetensors", "")
    asked = time.perf_counter()
    splits = {"train": task.train, "val": task.val}
    logits = {name: teaching.forward(recipe, params, split.inputs) for name, split in splits.items()}
    logits_seconds = time.perf_counter() - asked
    keyed.save(logits, place / "logits.safetensors", weights_key(task, place, "none"))
    shape = (recipe.width, task.input_shape, task.num_classes)
    macs = recipe.family.macs(*shape)
    examples = len(teaching.taught(task.train)) // recipe.batch_size * recipe.batch_size
    return {
        "name": recipe.family.name,
        "width": recipe.width,
        "num_params": num_params(recipe.family, *shape),
        "macs": macs,
        **_measured(task, logits),
        "train_flops": 6.0 * macs * epochs * examples,
        "seconds": seconds,
        **_logits_cost(task, macs, logits_seconds),
        "key": place.name,
    }


def _logits_cost(task: Task, macs: int, seconds: float) -> dict[str, float]:
    """The logits of train and val, as `LOGITS_COST`."""
    found = zip(LOGITS_COST, (seconds, forward_flops(macs, len(task.train) + len(task.val))), strict=True)
    return {name: value for name, value in found if value is not None}


def _ask(task: Task, given: GivenTeacher, place: Path) -> dict[str, Any]:
    """Write the logits of a teacher that was given, return the facts; nothing is known of its own training."""
    started = time.perf_counter()
    logits = {n: _answer(task, given, n, split.inputs) for n, split in (("train", task.train), ("val", task.val))}
    seconds = time.perf_counter() - started
    keyed.save(logits, place / "logits.safetensors", weights_key(task, place, "none"))
    return {
        "name": given.name,
        "width": 0,
        "num_params": given.num_params,
        "macs": given.macs,
        **_measured(task, logits),
        "train_flops": 0.0,
        "seconds": 0.0,
        **_logits_cost(task, given.macs, seconds),
        "key": place.name,
    }


def _answer(task: Task, given: GivenTeacher, split: str, inputs: Inputs) -> Tensor:
    """What a given teacher says, checked. Raises `ValueError` for answers of another shape, or that are no numbers."""
    labels = {"train": task.train.labels, "val": task.val.labels}.get(split)
    found = given.answer(split, inputs)
    wanted = [len(inputs), *(labels.shape[1:] if labels is not None else found.shape[1:-1]), task.num_classes]
    if list(found.shape) != wanted:
        told = f"teacher {given.name!r} of {task.name} gives {list(found.shape)} for {split}, not {wanted}"
        raise ValueError(told + of_labels(task.train.labels))
    if not found.isfinite().all():
        raise ValueError(f"teacher {given.name!r} of {task.name} gives logits for {split} that are no finite numbers")
    return found.detach().float().cpu()


def try_out(task: Task) -> None:
    """Ask a teacher about a few inputs, so that one that cannot answer, or be trained, is found before anything is
    begun.

    Raises `ValueError` in one line, and warns of answers that look like probabilities. Nothing is asked of a given one
    that answers by the split alone.
    """
    given = task.teacher
    if isinstance(given, TeacherRecipe):
        teaching.check_batch(task, given, len(teaching.taught(task.train)))
        if wrong := misfit(f"the teacher's family {given.family.name!r}", given.family, given.width, task):
            raise ValueError(wrong)
    elif given.sees_inputs and are_probabilities(_first_answer(task, given)):
        log.warning("teacher %r gives what look like probabilities: leave its softmax out, or give its log", given.name)


def _first_answer(task: Task, given: GivenTeacher) -> Tensor:
    """What a given teacher says of two inputs, with what to do where it takes those of another kind."""
    inputs = task.train.inputs[:2]
    try:
        return _answer(task, given, "train", inputs)
    except ValueError:
        raise
    except Exception as error:  # it is the user's own
        mend = of_other_kind(inputs, lambda others: given.answer("train", others), error)
        if not mend:
            raise
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ValueError(f"teacher {given.name!r} does not take inputs {inputs.dtype} ({said}){mend}") from error


def said(task: Task, cache: Path, source: Source, inputs: Inputs) -> Tensor:
    """A teacher's logits of views of the train split."""
    if isinstance(task.teacher, GivenTeacher):
        rounds = in_parts(inputs, len(task.train))
        return torch.cat([_answer(task, task.teacher, "train", part) for part in rounds])
    return teaching.forward(recipe_of(task, source), load_weights(task, cache, source), inputs)


def _measured(task: Task, logits: Mapping[str, Tensor]) -> dict[str, float]:
    return {
        "val_accuracy": teaching.accuracy(logits["val"], task.val),
        "val_loss": F.cross_entropy(logits["val"].flatten(0, -2), task.val.labels.flatten()).item(),
        "train_accuracy": teaching.accuracy(logits["train"], task.train),
    }
