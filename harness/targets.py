"""What a student learns from: its teacher's logits, and features, by row (see `harness.batches`).

They are computed once and kept in the teacher's folder under a key:

    views-<transform>-<n>.safetensors              logits of every view of the train split
    features-<transform>-<n>.safetensors           what the teacher's feature points give for them
    online-<seed>-<epochs>-<batch>-<transform>-<n>.safetensors
                                                   logits of a teacher that learns beside the student, epoch by epoch

An online teacher does not depend on its students: its path follows from its seed, its batches and its recipe. So it is
trained once for all students that share them, and what it said to each example in each epoch is kept. Teachers that
depend on the student's own knobs (`self`, `assistant`) are trained with the cohort, in `harness.cohort`, and are in its
students' cost. Every file says what was spent on it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from harness import keyed, tasks, teacher, teaching
from harness.batches import epochs, transform_hash, view_inputs
from harness.files import put_aside
from harness.keyed import Spent
from harness.seeds import generator
from harness.spec import NONE, StudentSpec, by_lesson
from harness.tasks import Task, in_parts
from harness.teacher import OWN, Source
from harness.teaching import Progress
from harness.values import digest

FROM_COHORT = ("self", "assistant")
"""The kinds of teacher that are trained with the cohort."""


@dataclass(frozen=True)
class Targets:
    """A teacher's answers: `logits` `[rows, ..., classes]`, or `[epochs, examples, ..., classes]` when `online`.

    `points` are its feature points by name, `[rows, ...]`; empty unless they were asked for.
    """

    logits: Tensor
    points: Mapping[str, Tensor]
    online: bool = False


def source_of(spec: StudentSpec) -> Source:
    """The network of the task's recipe at the root of what teaches the student."""
    return Source(spec.teacher_width, spec.teacher_epochs)


def target_key(spec: StudentSpec) -> tuple[str | int, ...]:
    """Students with equal keys are given the same answers, unless their teacher is trained with them."""
    online = (spec.seed, spec.epochs, spec.batch_size) if spec.teacher == "online" else ()
    return (spec.teacher, spec.teacher_width, spec.teacher_epochs, spec.transform, spec.views, *online)


def prepare(specs: Sequence[StudentSpec], cache: Path, device: str, progress: Progress) -> dict[str, Any]:
    """Make all that the students need of teachers, unless the cache has it; facts of the task's own teacher.

    Their `spent` is what was spent on other teachers and on logits and features, here or whenever they were made.
    """
    task = tasks.load(specs[0].task)
    facts = {OWN: teacher.ensure(task, cache, device, progress)}
    online: dict[Path, Spent] = {}
    said: dict[Path, Spent] = {}
    for spec in by_lesson(specs).values():
        if spec.teacher == "online":
            path, key = _online_file(spec, task, cache)
            steps = _online_flops(spec, task)
            online[path] = _ensure(path, key, lambda spec=spec: _online(spec, task, device, progress), steps)  # type: ignore[misc]
            continue
        source = source_of(spec)
        if source not in facts:
            facts[source] = teacher.ensure(task, cache, device, progress, source)
        flops = teacher.forward_flops(facts[source]["macs"], spec.views * len(task.train))
        if spec.transform != NONE:
            path, key = _views_file(spec, task, cache)
            said[path] = _ensure(path, key, lambda s=spec: _views(s, task, cache), flops)  # type: ignore[misc]
        if spec.feature != NONE:
            path, key = _features_file(spec, task, cache)
            said[path] = _ensure(path, key, lambda s=spec: _features(s, task, cache), flops)  # type: ignore[misc]
    others = [Spent(found["seconds"], found["train_flops"]) for source, found in facts.items() if source != OWN]
    logits = [teacher.spent_on_logits(found) for found in facts.values()]
    spent = {"others": _total([*others, *online.values()]), "logits": _total([*logits, *said.values()])}
    return {**facts[OWN], "spent": spent}


def _total(parts: Sequence[Spent]) -> dict[str, float | None]:
    """What was spent on all of these, None where of one of them it is not known, and their `count`."""
    seconds, flops = [part.seconds for part in parts], [part.flops for part in parts]
    return {
        "count": len(parts),
        "seconds": None if None in seconds else sum(value for value in seconds if value is not None),
        "flops": None if None in flops else sum(value for value in flops if value is not None),
    }


def load(spec: StudentSpec, task: Task, cache: Path) -> Targets:
    """What the student's teacher says. Raises `ValueError` when the cache lacks it, or has that of other data."""
    if spec.teacher == "uniform":
        own = teacher.load_logits(task, cache).train
        return Targets(torch.zeros_like(own).repeat(spec.views, *[1] * (own.ndim - 1)), {})
    if spec.teacher == "online":
        path, key = _online_file(spec, task, cache)
        return Targets(_read(path, key)["logits"], {}, online=True)
    source = source_of(spec)
    if spec.transform == NONE:
        logits = teacher.load_logits(task, cache, source).train
    else:
        path, key = _views_file(spec, task, cache)
        logits = _read(path, key)["logits"]
    points: dict[str, Tensor] = {}
    if spec.feature != NONE:
        path, key = _features_file(spec, task, cache)
        points = _read(path, key)
    if spec.teacher.startswith("shuffled"):
        moved = _shuffled(task.train.labels, spec.views, within_class=spec.teacher == "shuffled_in_class")
        return Targets(logits[moved], {name: point[moved] for name, point in points.items()})
    return Targets(logits, points)


def _shuffled(labels: Tensor, num_views: int, *, within_class: bool) -> Tensor:
    """For each row the row of another example, in the same view; of the same class when `within_class`."""
    noise = generator(0, "shuffle")
    count = len(labels)
    # A cycle through a random order: no example keeps its own teacher, unless it is alone in its class.
    order = torch.randperm(count, generator=noise)
    if within_class:
        first = labels.reshape(count, -1)[:, 0]
        order = order[torch.argsort(first[order], stable=True)]
        groups = torch.split(order, torch.bincount(first).tolist())
    else:
        groups = (order,)
    moved = torch.empty(count, dtype=torch.int64)
    for group in groups:
        moved[group] = group.roll(1)
    return torch.cat([moved + view * count for view in range(num_views)])


def _views_file(spec: StudentSpec, task: Task, cache: Path) -> tuple[Path, Callable[[], str]]:
    place, kind = teacher.folder(task, cache, source_of(spec)), f"views/{_views_key(spec, task)}"
    return place / f"views-{spec.transform}-{spec.views}.safetensors", lambda: teacher.weights_key(task, place, kind)


def _features_file(spec: StudentSpec, task: Task, cache: Path) -> tuple[Path, Callable[[], str]]:
    place, kind = teacher.folder(task, cache, source_of(spec)), f"features/{_views_key(spec, task)}"
    return place / f"features-{spec.transform}-{spec.views}.safetensors", lambda: teacher.weights_key(task, place, kind)


def _online_file(spec: StudentSpec, task: Task, cache: Path) -> tuple[Path, Callable[[], str]]:
    source = source_of(spec)
    facts = [spec.seed, spec.epochs, spec.batch_size, spec.transform, spec.views]
    path = teacher.folder(task, cache, source) / f"{'-'.join(['online', *map(str, facts)])}.safetensors"
    return path, lambda: digest([teacher.key(task, source), *facts, _views_key(spec, task)])


def _views_key(spec: StudentSpec, task: Task) -> str:
    return f"{spec.transform}/{spec.views}/{transform_hash(task, spec.transform)}"


def _ensure(path: Path, key: Callable[[], str], make: Callable[[], dict[str, Tensor]], flops: float | None) -> Spent:
    """Make a file of the cache unless it is there, and say what was spent on it; one that does not fit is put aside."""
    if path.exists() and _fits(path, key) is None:
        return keyed.spent_on(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        problem = _fits(path, key)
        if problem is not None and os.path.lexists(path):
            put_aside(path, problem)
        if problem is not None:
            started = time.perf_counter()
            made = make()
            keyed.save(made, path, key(), Spent(time.perf_counter() - started, flops))
    _read(path, key)
    return keyed.spent_on(path)


def _fits(path: Path, key: Callable[[], str]) -> str | None:
    """Why a file cannot be used, or None where it can."""
    try:
        _read(path, key)
    except ValueError as error:
        return str(error)
    return None


@lru_cache(maxsize=16)
def _read_once(path: Path, key: str) -> dict[str, Tensor]:
    return keyed.read(path, lambda: key)


def _read(path: Path, key: Callable[[], str]) -> dict[str, Tensor]:
    try:
        expected = key()
    except OSError as error:
        raise ValueError(f"cannot read the teacher's weights beside {path} ({error})") from None
    return _read_once(path, expected)


def _views(spec: StudentSpec, task: Task, cache: Path) -> dict[str, Tensor]:
    return {"logits": teacher.said(task, cache, source_of(spec), view_inputs(task, spec.transform, spec.views))}


@torch.no_grad()
def _features(spec: StudentSpec, task: Task, cache: Path) -> dict[str, Tensor]:
    family, params = teacher.recipe_of(task, source_of(spec)).family, teacher.load_weights(task, cache, source_of(spec))
    assert family.parts is not None
    parts = [
        family.parts.embed(params, family.prepare(part))
        for part in in_parts(view_inputs(task, spec.transform, spec.views), 500)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in family.parts.points}


def _online(spec: StudentSpec, task: Task, device: str, progress: Progress) -> dict[str, Tensor]:
    """Train a teacher on the student's own batches; what it said to each example, before the step, in each epoch."""
    recipe, count = teacher.recipe_of(task, source_of(spec)), len(task.train)
    num_steps = spec.epochs * (count // spec.batch_size)
    training = teaching.Training(task, recipe, generator(spec.seed, "online teacher"), num_steps, device)
    inputs, labels = view_inputs(task, spec.transform, spec.views), task.train.labels
    said = torch.zeros(spec.epochs, count, *labels.shape[1:], task.num_classes)
    for epoch, rows in enumerate(epochs(spec.seed, count, spec.views, spec.batch_size, spec.epochs)):
        for batch in torch.split(rows, spec.batch_size):
            said[epoch, batch % count] = training.step(inputs[batch], labels[batch % count]).cpu()
        right = teaching.forward(recipe, training.params, task.val.inputs).argmax(-1) == task.val.labels
        progress(epoch + 1, spec.epochs, right.float().mean().item())
    return {"logits": said}


def _online_flops(spec: StudentSpec, task: Task) -> float:
    recipe = teacher.recipe_of(task, source_of(spec))
    macs = recipe.family.macs(recipe.width, task.input_shape, task.num_classes)
    return 6.0 * macs * spec.epochs * (len(task.train) // spec.batch_size * spec.batch_size)
