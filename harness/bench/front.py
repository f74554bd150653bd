"""How soon the harness has a front as good as that of the plain loop after some minutes.

As good is by hypervolume: the area of val accuracy and log10 of the parameters that the trials dominate, better than a
guess and smaller than the study's widest student, controls counted on both sides. The loop's clock runs only within
trials. The harness's starts with the first ask, or with the program: then imports are in it too, on its side alone.
Neither counts the teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from harness.analysis.pareto import hypervolume_over_trials
from harness.bench.measure import AT_LEAST, Question, as_the_loop, run_sweep, spread
from harness.bench.plain import Loop
from harness.models import num_params


@dataclass(frozen=True)
class Reached:
    """One repeat: the loop's hypervolume after `loop_seconds` of `loop_trials`, and the harness's seconds and trials
    until it had as much; None where it never did."""

    loop_seconds: float
    loop_trials: int
    hypervolume: float
    seconds: float | None
    seconds_from_start: float | None
    trials: int | None
    final_hypervolume: float


def measure(
    question: Question, minutes: float, repeats: int, folder: Path, cache: Path, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Every repeat and their medians; the studies' seeds differ by repeat on neither side."""
    found = []
    for number in range(1, repeats + 1):
        tell(f"front: plain loop, {minutes:g} minutes, {number} of {repeats}")
        own = folder / f"front-plain-{number}"
        own.mkdir(parents=True)
        loop = Loop(question.study, question.task, cache, own, question.device).run(60 * minutes, AT_LEAST)
        goal = area([(trial.val_accuracy, trial.num_params) for trial in loop], question)[-1]
        tell(f"front: harness, {number} of {repeats}")
        ran = run_sweep(question, folder / f"front-{number}", cache, as_the_loop(question))
        told = [trial for trial in ran.told if trial.state.name == "COMPLETE"]
        told.sort(key=lambda trial: str(trial.datetime_complete))
        sizes = {trial.number: (fmean(r.num_params for r in records)) for trial, records in ran.trials if records}
        scores = {t.number: fmean(r.value("val_accuracy") for r in own) for t, own in ran.trials if own}
        areas = area([(scores[trial.number], sizes[trial.number]) for trial in told], question)
        place = next((place for place, value in enumerate(areas) if value >= goal), None)
        seconds = before = None
        if place is not None:
            when = told[place].datetime_complete
            assert when is not None
            seconds = (when - ran.first_ask).total_seconds()
            before = (when - ran.started).total_seconds()
        count = None if place is None else place + 1
        found.append(Reached(sum(t.seconds for t in loop), len(loop), goal, seconds, before, count, areas[-1]))
    return as_json(found)


def area(points: Sequence[tuple[float, float]], question: Question) -> list[float]:
    """The hypervolume after each of these trials, (val accuracy, parameters)."""
    task, study = question.task, question.study
    widest = num_params(task.families[study.family], max(study.widths), task.input_shape, task.num_classes)
    rows = pd.DataFrame(points, columns=["val_accuracy", "num_params"]).assign(number=range(len(points)))
    reference = (1 / task.num_classes, 1.01 * widest)
    return [float(value) for value in hypervolume_over_trials(rows, reference)["hypervolume"]]


def as_json(found: Sequence[Reached]) -> dict[str, Any]:
    """The repeats; medians and spreads where every one of them got there."""
    names = ("seconds", "seconds_from_start", "trials")
    data: dict[str, Any] = {"repeats": [vars(reached) for reached in found]}
    for name in names:
        values = [getattr(reached, name) for reached in found]
        data[name] = None if None in values else spread(values)
    return data | {name: spread([getattr(r, name) for r in found]) for name in ("loop_seconds", "hypervolume")}
