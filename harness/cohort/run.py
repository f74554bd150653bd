"""`train`: students in, records out, cohort by cohort; a student's own teacher is trained before it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from harness import targets
from harness.cohort.check import check
from harness.cohort.checkpoint import State
from harness.cohort.company import cohorts, split
from harness.cohort.data import Data, load_data
from harness.cohort.evaluate import answers, confirmed, final_metrics
from harness.cohort.stack import Cohort, stack
from harness.cohort.training import Trained, fit
from harness.costs import TOGETHER, How
from harness.models import num_params
from harness.records import Balance, Cost, Curve, Record
from harness.seeds import derive
from harness.spec import NONE, PLAIN, StudentSpec
from harness.targets import FROM_COHORT, Targets, target_key

log = logging.getLogger(__name__)


Keep = Callable[[Sequence[StudentSpec], Sequence[State]], None]
"""Takes students of a cohort that trains on, and the states that they could go on from."""


def train(specs: Sequence[StudentSpec], *, cache: Path, device: str = "cpu", how: How = TOGETHER) -> list[Record]:
    """Train every student and return their records in the order of `specs`.

    Students that cannot share a cohort (see `StudentSpec.cohort_key`) are trained one cohort after the other. `cache`
    holds what teachers say; all that the students need must be there (`harness.targets.prepare`). Raises `ValueError`
    for a student that cannot be trained. Divergence is a status of the record, not an error; a cohort that is too large
    for the device's memory is halved until it fits. `how` says what is fastest, and changes no record but by rounding.
    """
    return train_part(specs, cache=cache, device=device, until=None, states={}, how=how)[0]


def train_part(
    specs: Sequence[StudentSpec],
    *,
    cache: Path,
    device: str,
    until: int | None,
    states: Mapping[StudentSpec, State],
    how: How = TOGETHER,
) -> tuple[list[Record], list[State]]:
    """What `train_each` gives of all students: their records, and their states where they are not done."""
    found: dict[StudentSpec, Record] = {}
    left: dict[StudentSpec, State] = {}
    for records, after in train_each(specs, cache=cache, device=device, until=until, states=states, how=how):
        found |= {record.spec: record for record in records}
        left |= {record.spec: state for record, state in zip(records, after, strict=False)}
    return [found[spec] for spec in specs], [left[spec] for spec in specs if spec in left]


def train_each(
    specs: Sequence[StudentSpec],
    *,
    cache: Path,
    device: str,
    until: int | None,
    states: Mapping[StudentSpec, State],
    how: How = TOGETHER,
    keep: Keep | None = None,
    stage: str = "search",
) -> Iterator[tuple[list[Record], list[State]]]:
    """Train as `train` does, from where `states` left some of the students up to the end of epoch `until`, their own
    where None; gives the students of each cohort as soon as they are trained.

    They are given by their records as they stand there, and the states to go on from; no states where they are done.
    Trained in parts, a student is to the bit what it is at once in the same company, and in other company as near as
    sharing a cohort leaves it. A teacher that is trained with it is made again for every part, and counted in its cost.
    Students of several epochs are trained one cohort after the other. `until` is later than any state's epoch. A cohort
    that takes long gives its states to `keep` now and then. In the `stage` `"confirm"` the test split is read, and for
    done students there are states after all: their networks, and what they answered on it (see `evaluate.confirmed`).
    """
    for spec in specs:
        check(spec)
    begun = {spec: states[spec].epoch if spec in states else 0 for spec in specs}
    starts = sorted(set(begun.values()))
    whole = [members for at in starts for members in cohorts([spec for spec in specs if begun[spec] == at])]
    waiting = [members for one in whole for members in split(one, how.students)][::-1]
    while waiting:
        members = waiting.pop()
        at = [states[spec] for spec in members] if begun[members[0]] else None
        part = Part(until, at, how.looped, keep, stage)
        reached = _reach(members, cache, device, part)
        if reached is None:  # too large for the memory; the students are the same in two halves
            half = len(members) // 2
            log.warning("%d students do not fit into memory together; they are trained as two cohorts", len(members))
            waiting += [members[half:], members[:half]]
        else:
            yield reached


@dataclass(frozen=True)
class Part:
    """Which part of their training a cohort's students are trained: from `states`, None for the start, to `until`;
    whether they are `looped` over (see `Cohort`), who keeps them meanwhile, and the stage."""

    until: int | None = None
    states: Sequence[State] | None = None
    looped: bool = False
    keep: Keep | None = None
    stage: str = "search"


def _reach(
    specs: Sequence[StudentSpec], cache: Path, device: str, part: Part
) -> tuple[list[Record], list[State]] | None:
    """The records of a cohort's students and the states that they go on from, or None where there are several students
    and the memory does not suffice."""
    started = time.perf_counter()
    try:
        result = _train_cohort(specs, cache, device, part=part)
        metrics = final_metrics(result.cohort, result.data)
        states = result.trained.states
        if result.data.confirms and not states:
            states = confirmed(result.cohort, result.data, result.trained.num_epochs)
    except (MemoryError, RuntimeError) as error:
        if len(specs) == 1 or not _is_out_of_memory(error):
            raise
        return None
    seconds = _seconds_each(started, len(specs), part)
    records = [_record(result, student, own, seconds[student], device) for student, own in enumerate(metrics)]
    return records, _with_costs(states, seconds, result.teacher_flops)


def _seconds_each(started: float, count: int, part: Part) -> list[float]:
    """What each of `count` students has cost so far, this part and those before."""
    own = (time.perf_counter() - started) / count
    return [own + state.seconds for state in part.states] if part.states is not None else [own] * count


def _with_costs(states: Sequence[State], seconds: Sequence[float], teacher_flops: Sequence[float]) -> list[State]:
    return [
        replace(state, seconds=own, teacher_flops=spent)
        for state, own, spent in zip(states, seconds, teacher_flops, strict=False)
    ]


def _is_out_of_memory(error: Exception) -> bool:
    """The library says it by a class of its own on an accelerator, and in words on a CPU."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


@dataclass(frozen=True)
class _Result:
    """A trained cohort; `flops` `[students]` counts each student's training, and that of the teachers made for it,
    which is `teacher_flops` alone."""

    cohort: Cohort
    data: Data
    trained: Trained
    flops: Sequence[float]
    teacher_flops: Sequence[float]


def _train_cohort(
    specs: Sequence[StudentSpec], cache: Path, device: str, *, may_pad: bool = True, part: Part = Part()
) -> _Result:
    started, data = time.perf_counter(), load_data(specs[0], cache, device, part.stage)
    teachers, spent = _teachers(specs, data, cache, device, looped=part.looped)
    if part.states is not None:
        spent = [now + state.teacher_flops for now, state in zip(spent, part.states, strict=True)]
    padded = may_pad and data.family.pads and specs[0].may_be_padded
    cohort = stack(specs, data, teachers, device, padded=padded, looped=part.looped)

    def keep(states: Sequence[State]) -> None:
        assert part.keep is not None
        part.keep(cohort.specs, _with_costs(states, _seconds_each(started, len(specs), part), spent))

    trained = fit(cohort, data, device, part.until, part.states, keep if part.keep else None)
    task, batch_size = data.task, specs[0].batch_size
    macs = [data.family.macs(spec.width, task.input_shape, task.num_classes) for spec in specs]
    seen = len(task.train) // batch_size * batch_size
    own = [6.0 * each * seen * epochs for each, epochs in zip(macs, trained.num_epochs, strict=True)]
    return _Result(cohort, data, trained, [sum(pair) for pair in zip(own, spent, strict=True)], spent)


def _teachers(
    specs: Sequence[StudentSpec], data: Data, cache: Path, device: str, *, looped: bool
) -> tuple[list[Targets | None], list[float]]:
    """What each student is taught, None for plain training, and what its own teacher cost in FLOPs."""
    found: dict[int, tuple[Targets, float]] = {}
    own = {place: _teacher_of(spec) for place, spec in enumerate(specs) if spec.teacher in FROM_COHORT}
    points = any(specs[place].feature != NONE for place in own)
    for members in _by_width(cohorts(list(own.values()))) if points else cohorts(list(own.values())):
        result = _train_cohort(members, cache, device, may_pad=not points, part=Part(looped=looped))
        said = answers(result.cohort, result.data, points=points)
        taught = {spec: (said[i], result.flops[i]) for i, spec in enumerate(members)}
        found |= {place: taught[spec] for place, spec in own.items() if spec in taught}
    shared: dict[object, Targets] = {}
    for place, spec in enumerate(specs):
        if place in own or spec.form == PLAIN:
            continue
        key = (target_key(spec), spec.feature != NONE)
        if key not in shared:
            shared[key] = targets.load(spec, data.task, cache)
        found[place] = shared[key], 0.0
    nothing: tuple[Targets | None, float] = (None, 0.0)
    pairs = [found.get(place, nothing) for place in range(len(specs))]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def _by_width(found: Sequence[Sequence[StudentSpec]]) -> list[list[StudentSpec]]:
    """Cohorts of one width each: the features of a padded network would be padded too."""
    parts = [sorted(members, key=lambda spec: spec.width) for members in found]
    return [list(own) for members in parts for _, own in groupby(members, key=lambda spec: spec.width)]


def _teacher_of(spec: StudentSpec) -> StudentSpec:
    """The student that teaches this one: its plainly trained twin, or the last assistant of its chain."""
    if spec.teacher == "self":
        plain = {"form": PLAIN, "alpha": 1.0, "temperature": None, "knobs": (), "loss_scale": 1.0, "form_file": ""}
        apart = {"feature": NONE, "feature_weight": 0.0, "teacher": "offline", "seed": derive(spec.seed, "twin")}
        return replace(spec, **plain, **apart)  # type: ignore[arg-type]
    *before, last = spec.assistant_widths
    rest = ">".join(map(str, before)) or NONE
    kind = "assistant" if before else "offline"
    return replace(spec, width=last, assistants=rest, teacher=kind, seed=derive(spec.seed, f"assistant {last}"))


def _record(result: _Result, student: int, metrics: Mapping[str, float], seconds: float, device: str) -> Record:
    """The record of one student."""
    spec, task, family = result.cohort.specs[student], result.data.task, result.data.family
    rows = result.trained.rows[student, : result.trained.num_epochs[student]]
    whole = int(rows.isfinite().all(1).long().cumprod(0).sum())
    columns = [tuple(column.tolist()) for column in rows[:whole].T]
    curve = Curve(*columns) if spec.form != PLAIN else Curve(columns[0], columns[1], (), *columns[3:])
    ok = whole == len(rows) and all(math.isfinite(value) for value in metrics.values())
    shape = (spec.width, task.input_shape, task.num_classes)
    return Record(
        spec,
        status="ok" if ok else "diverged",
        curve=curve,
        metrics=metrics
        if ok
        else {name: _uniform_guess(name, value, task.num_classes) for name, value in metrics.items()},
        num_params=num_params(family, *shape),
        macs=family.macs(*shape),
        cost=Cost(seconds, result.flops[student], len(result.cohort.specs), device),
        balance=_balance(spec, result.trained.pulls, student),
    )


def _balance(spec: StudentSpec, pulls: Tensor | None, student: int) -> Balance:
    if spec.form == PLAIN or pulls is None:
        return Balance()
    rows = [[value if math.isfinite(value) else None for value in row] for row in pulls[:, :, student].T.tolist()]
    return Balance(tuple(rows[0]), tuple(rows[1]), tuple(rows[2]) if spec.feature != NONE else ())


def _uniform_guess(metric: str, value: float, num_classes: int) -> float:
    """What a network that guesses uniformly would score: a diverged student has learnt no more than that."""
    if metric == "test_teacher_accuracy":
        return value  # the teacher's, whatever the student has learnt
    if metric.endswith("ece"):
        return 0.0  # it says 1 / classes and is right as often
    if metric.endswith("brier"):
        return 1 - 1 / num_classes
    return math.log(num_classes) if metric.endswith(("loss", "kl")) else 1 / num_classes
