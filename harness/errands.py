"""What a sweep asks of its workers besides trials: the teacher, what a step costs, how long a student takes."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Set
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from rich.console import Console

from harness import files, ledger, screen
from harness.attempts import ATTEMPTS
from harness.costs import Costs, costs_from_json
from harness.executors import Executor
from harness.options import Options
from harness.spec import StudentSpec, by_lesson
from harness.stopping import Stop, TimeUp
from harness.tracking import Tracker
from harness.values import to_json

LATE = 5.0
"""Seconds beyond a sweep's time in which what is there already may be found."""
LATENCY_SECONDS = 0.5
"""How long a student is timed at a batch size."""
log = logging.getLogger(__name__)


def prepare(
    options: Options, executor: Executor, console: Console, opening: Future[Tracker], deadline: float = math.inf
) -> tuple[Mapping[str, Any], Costs | None]:
    """What `teacher.json` says, once the teacher is there, and meanwhile what a step costs; no costs where cohorts
    follow from a fixed rule. Fails early when tracking cannot be opened; raises `TimeUp` where the
    teacher is still in training at the deadline."""
    teacher: Mapping[str, Any] | None = None
    costs: Costs | None = None
    tries, in_training = 1, False
    executor.submit("teacher", {"specs": [to_json(spec) for spec in _students(options)]})
    if not options.deterministic:
        executor.submit("calibrate", calibration(options))
    with screen.bar(console, "teacher") as bar:
        task = bar.add_task("", total=None, note="")
        while executor.num_pending or teacher is None:
            if opening.done() and opening.exception():
                opening.result()
            if time.monotonic() > deadline:
                if teacher is not None:
                    break  # without costs: nothing is trained any more
                if in_training or time.monotonic() > deadline + LATE:
                    raise TimeUp("its teacher was ready")
            for event in executor.poll(0.2):
                if event.job.kind == "calibrate":
                    if event.kind == "done":
                        costs = costs_from_json(event.data)
                    elif event.kind != "progress":
                        log.warning("steps could not be measured (%s); cohorts have a fixed size", event.data["reason"])
                elif event.kind == "progress":
                    in_training = True
                    note = f"val accuracy {event.data['val_accuracy']:.4f}"
                    bar.update(task, completed=event.data["done"], total=event.data["total"], note=note)
                elif event.kind == "done":
                    note = f"val accuracy {event.data['val_accuracy']:.4f}, {_size(event.data['num_params'])}"
                    bar.update(task, completed=1, total=1, note=note)
                    teacher = event.data
                elif event.kind == "failed" and tries < ATTEMPTS:
                    log.warning("there is no teacher yet, and it is tried again: %s", event.data["reason"])
                    executor.submit("teacher", event.job.body)
                    tries += 1
                else:
                    raise ValueError(f"there is no teacher: {event.data['reason']}")
    return teacher, costs


def _size(num_params: int) -> str:
    """A given teacher may be no more than its answers."""
    return f"{num_params:,} parameters" if num_params else "of a size that is not known"


def calibration(options: Options) -> dict[str, Any]:
    """The body of a `calibrate` job."""
    specs = [to_json(spec) for spec in options.study.probes(options.task)]
    return {"specs": specs, "folder": str(options.plans_dir.absolute()), "workers": options.jobs}


def with_all_teachers(
    options: Options, executor: Executor, teacher: Mapping[str, Any], deadline: float = math.inf
) -> Mapping[str, Any]:
    """What is said of the teacher, with what was spent on those that cohorts had made: for the seeds of the confirm
    stage, and where the study has more combinations of choices than were met at its start."""
    met = by_lesson(_students(options))
    trials = [ledger.find_spec(ledger.trial_dir(options.study_dir, at)) for at in ledger.numbers(options.study_dir)]
    all_of_them = met | by_lesson(spec for trial in trials if trial is not None for spec in trial.specs)
    if len(all_of_them) == len(met):
        return teacher
    try:
        body = {"specs": [to_json(spec) for spec in all_of_them.values()]}
        return result(executor, "teacher", body, deadline=deadline)
    except TimeUp:
        log.warning("not all is known of what the teachers cost: the time was up")
        return teacher
    except ValueError as error:
        log.warning("not all is known of what the teachers cost: %s", error)
        return teacher


def measure_latency(
    options: Options, executor: Executor, console: Console, widths: Set[Any], stop: Stop, deadline: float = math.inf
) -> None:
    """Time the students of each width, once, while nothing is trained: into `latency.json`."""
    file = options.study_dir / "latency.json"
    try:
        known = {int(width) for width in (files.read_sealed(file) or {}).get("widths", {})}
    except (ValueError, TypeError, AttributeError):
        known = set()
    if widths <= known:
        return
    specs = {spec.width: to_json(spec) for spec in options.study.probes(options.task) if spec.width in widths}
    executor.submit("latency", {"specs": list(specs.values()), "seconds": LATENCY_SECONDS})
    with screen.bar(console, "latency") as bar, stop.waits():
        row = bar.add_task("", total=None, note=f"{len(specs)} widths, batches of 1 and 64")
        while executor.num_pending:
            for event in executor.poll(0.5):
                if event.kind == "done":
                    bar.update(row, completed=1, total=1)
                    files.write_sealed(file, event.data)
                elif event.kind in ("failed", "refused"):
                    log.warning("latency could not be measured: %s", event.data["reason"])
            if stop or time.monotonic() > deadline:
                return


def result(
    executor: Executor,
    kind: str,
    body: Mapping[str, Any],
    watch: Callable[[Mapping[str, Any]], None] = lambda _: None,
    deadline: float = math.inf,
    before: str = "the study was checked and its data was there",
) -> Mapping[str, Any]:
    """The result of a job that runs by itself; `watch` hears of its progress.

    Raises `ValueError` when it has none, and `TimeUp` where there is none yet at the deadline: `before` what.
    """
    executor.submit(kind, body)
    tries = 1
    while True:
        if time.monotonic() > deadline + LATE:
            raise TimeUp(before)
        for event in executor.poll(1.0):
            if event.job.kind != kind:
                continue  # the latency's, which the deadline cut off
            if event.kind == "done":
                return event.data
            if event.kind == "progress":
                watch(event.data)
            elif event.kind == "failed" and tries < ATTEMPTS:  # its worker was lost
                executor.submit(kind, body)
                tries += 1
            else:
                raise ValueError(str(event.data["reason"]))


def _students(options: Options) -> list[StudentSpec]:
    """A student for every kind of teacher that the study may need: every combination of choices, under every seed."""
    study = options.study
    return [replace(probe, seed=seed) for probe in study.probes(options.task) for seed in study.student_seeds()]
