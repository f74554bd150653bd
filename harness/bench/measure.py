"""Runs both sides of the benchmark in turn, and counts: trials an hour, and microseconds a student-step.

A trial's clock starts when it is asked for and stops when it is told; start-up and the teacher are outside on both
sides. The loop trains only some trials, so its rate is extrapolated: each arm's mean seconds, in the harness's shares.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import optuna
import torch

from harness import __version__, ledger, session, teacher
from harness.bench.plain import Loop, PlainTrial, one_thread
from harness.cohort.calibration import where
from harness.commits import values_of
from harness.ledger import TrialSpec
from harness.machine import cores
from harness.options import Options
from harness.records import Record
from harness.space import Study
from harness.tasks import Task

AT_LEAST = 3
WORKER_PARTS = ("data", "teacher", "step", "validate")
"""What of the loop's time a harness worker does too; the rest is the driver's."""


@dataclass(frozen=True)
class Question:
    """What is measured: a study, the harness's budget, and how the loop's time is rationed."""

    name: str
    file: Path
    study: Study
    task: Task
    trials: int
    jobs: int
    seconds: float
    device: str = "cpu"


@dataclass(frozen=True)
class Side:
    """One side of one repeat.

    `us_step` is training and validating one student for one step, per process; `us_all` is the whole time between the
    first ask and the last tell over the student-steps done. `seconds` is that time, `wall` that of the whole program.
    `per_hour_cached` is the loop's rate had its teacher cost nothing; `parts` are seconds of its mean trial.
    """

    per_hour: float
    us_step: float
    us_all: float
    trials: int
    student_steps: int
    seconds: float
    wall: float
    best_val_accuracy: float
    per_hour_cached: float = math.nan
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Repeat:
    """Both sides, measured one after the other."""

    plain: Side
    harness: Side


def make_teacher(question: Question, folder: Path) -> Path:
    """Train the task's teacher, and give the folder that holds it."""
    cache = folder / "teachers"
    with one_thread():  # on shared cores more threads are slower by far
        teacher.ensure(question.task, cache)
    return cache


def compare(question: Question, repeats: int, folder: Path, cache: Path, tell: Callable[[str], None]) -> list[Repeat]:
    """Measure both sides `repeats` times in alternation, in `folder`; `tell` hears what is under way."""
    found = []
    for number in range(1, repeats + 1):
        tell(f"harness, {number} of {repeats}")
        harness, share = run_harness(question, folder / f"harness-{number}", cache)
        tell(f"plain loop, {number} of {repeats}")
        found.append(Repeat(run_plain(question, folder / f"plain-{number}", cache, share), harness))
    return found


@dataclass(frozen=True)
class Ran:
    """A sweep of the harness that is over: its trials with their records, when Optuna's were asked and told, when the
    program was started, and its seconds."""

    trials: Sequence[tuple[TrialSpec, Sequence[Record]]]
    told: Sequence[optuna.trial.FrozenTrial]
    started: datetime
    wall: float

    @property
    def first_ask(self) -> datetime:
        """When the first trial was asked for."""
        return min(trial.datetime_start for trial in self.told if trial.datetime_start)


def as_the_loop(question: Question) -> Study:
    """The study without what the plain loop has not."""
    return replace(question.study, other_controls=(), confirm=0)


def run_sweep(question: Question, out: Path, cache: Path, study: Study) -> Ran:
    """A whole sweep of a study in `out`, which is made. Raises `ValueError` where it fails."""
    out.mkdir(parents=True)
    (out / "teachers").symlink_to(cache, target_is_directory=True)
    options = Options(
        name=question.name,
        file=question.file,
        study=study,
        trials=question.trials,
        jobs=question.jobs,
        out=out,
        storage=None,
        tracking_uri=None,
        deterministic=False,
        device=question.device,
        timeout=None,
        quiet=True,
    )
    began, started = datetime.now(), time.perf_counter()
    if session.sweep(options) != 0:
        raise ValueError("the harness's own sweep failed; run python -m harness.sweep to see why")
    wall = time.perf_counter() - started
    told = optuna.load_study(study_name=question.name, storage=options.storage_url).get_trials(deepcopy=False)
    folders = [ledger.trial_dir(options.study_dir, number) for number in ledger.numbers(options.study_dir)]
    pairs = [(spec, ledger.read_result(f, spec) or ()) for f in folders if (spec := ledger.read_spec(f)) is not None]
    return Ran(pairs, told, began, wall)


def run_harness(question: Question, out: Path, cache: Path) -> tuple[Side, float]:
    """A whole sweep in `out`, and the controls' share of its trials."""
    ran = run_sweep(question, out, cache, as_the_loop(question))
    pairs = ran.trials
    last = max(trial.datetime_complete for trial in ran.told if trial.datetime_complete)
    seconds = (last - ran.first_ask).total_seconds()
    records = [record for _, own in pairs for record in own]
    steps = sum(r.spec.epochs * (len(question.task.train) // r.spec.batch_size) for r in records)
    side = Side(
        per_hour=3600 * len(pairs) / seconds,
        us_step=1e6 * sum(record.cost.seconds for record in records) / steps,
        us_all=1e6 * seconds / steps,
        trials=len(pairs),
        student_steps=steps,
        seconds=seconds,
        wall=ran.wall,
        best_val_accuracy=max(values_of(own, "val_accuracy") for _, own in pairs if own),
    )
    return side, sum(trial.arm == "control" for trial, _ in pairs) / len(pairs)


def run_plain(question: Question, folder: Path, cache: Path, control_share: float) -> Side:
    """Some trials of the loop in `folder`, extrapolated to the harness's mix of arms."""
    folder.mkdir(parents=True)
    started = time.perf_counter()
    trials = Loop(question.study, question.task, cache, folder, question.device).run(question.seconds, AT_LEAST)
    return summarise(trials, control_share, time.perf_counter() - started)


def summarise(trials: Sequence[PlainTrial], control_share: float, wall: float) -> Side:
    """The loop's trials as one side, each arm's means weighed by its share of the harness's trials."""
    arms = [(share, [t for t in trials if t.control is kind]) for kind, share in _shares(control_share)]

    def weighed(value: Callable[[PlainTrial], float]) -> float:
        return sum(share * sum(value(trial) for trial in arm) / len(arm) for share, arm in arms if arm)

    names = sorted({name for trial in trials for name in trial.parts})
    parts = {name: weighed(lambda trial, name=name: trial.parts.get(name, 0.0)) for name in names}  # type: ignore[misc]
    seconds, steps = weighed(lambda trial: trial.seconds), weighed(lambda trial: trial.student_steps)
    return Side(
        per_hour=3600 / seconds,
        us_step=1e6 * sum(parts.get(name, 0.0) for name in WORKER_PARTS) / steps,
        us_all=1e6 * seconds / steps,
        trials=len(trials),
        student_steps=sum(trial.student_steps for trial in trials),
        seconds=sum(trial.seconds for trial in trials),
        wall=wall,
        best_val_accuracy=max(trial.val_accuracy for trial in trials),
        per_hour_cached=3600 / (seconds - parts.get("teacher", 0.0)),
        parts=parts,
    )


def _shares(control_share: float) -> tuple[tuple[bool, float], ...]:
    return (False, 1 - control_share), (True, control_share)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def as_json(question: Question, repeats: Sequence[Repeat]) -> dict[str, Any]:
    """Everything that was measured, and what on."""
    sides = {name: [getattr(repeat, name) for repeat in repeats] for name in ("plain", "harness")}
    figures = ("per_hour", "us_step", "us_all", "wall", "best_val_accuracy")
    medians = {side: {name: spread([getattr(s, name) for s in own]) for name in figures} for side, own in sides.items()}
    medians["plain"]["per_hour_cached"] = spread([s.per_hour_cached for s in sides["plain"]])
    return {
        "study": question.name,
        "trials": question.trials,
        "seeds": question.study.seeds,
        "seconds": question.seconds,
        "jobs": question.jobs,
        **medians,
        "ratio": spread([r.harness.per_hour / r.plain.per_hour for r in repeats]),
        "ratio_per_process": spread([r.harness.per_hour / r.plain.per_hour / question.jobs for r in repeats]),
        "ratio_teacher_cached": spread([r.harness.per_hour / r.plain.per_hour_cached for r in repeats]),
        "repeats": [{"plain": asdict(r.plain), "harness": asdict(r.harness)} for r in repeats],
    }


def machine(device: str) -> dict[str, Any]:
    """What was measured on."""
    versions = {"torch": torch.__version__, "python": platform.python_version(), "harness": __version__}
    there = {} if device == "cpu" else {"accelerator": where(device)}
    return {"processor": where("cpu"), **there, "cores": cores(), "system": platform.platform(), **versions}
