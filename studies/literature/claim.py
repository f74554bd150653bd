"""What a claim of the literature is: arms that are tuned alike, and effects between them that the paper says are there.

A new claim is a module beside this one with a `CLAIM` and a line in `tests/test_literature.py`. Each replicate is a
pipeline of its own: `tasks[word](seed)` gives a task whose teacher, and where the claim says so whose data, come from
the seed, as the students do.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from harness.spec import StudentSpec
from studies.literature.verdict import Part

if TYPE_CHECKING:
    from harness.tasks import Task

FIRST_TUNING_SEED = 1001
"""Seeds that choose are counted from here, those that test the claim from its `first_seed`: no seed does both."""
Knobs = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Arm:
    """One kind of student: the fields of `StudentSpec` that make it, and the word of the task that it is trained on."""

    name: str
    fields: Mapping[str, Any]
    task: str = "task"


@dataclass(frozen=True)
class View:
    """What the figure shows: lines of arms over labelled places, by the line's label, and arms as level lines."""

    axis: str
    lines: Mapping[str, Mapping[str, str]]
    levels: Mapping[str, str]


@dataclass(frozen=True)
class Claim:
    """A claim, and how it is put to the test.

    `says` is the paper's claim in one sentence, `setup` what is trained here instead, `doubts` what a hostile reviewer
    says. `tuned` are knobs that each arm has chosen for it on val, from the same values, unless the arm fixes them.
    `metric` is `"accuracy"` or `"loss"`: what val chooses by, and the figure shows. `effects(results)` gives, by the
    name of each part, one difference a pipeline, such that the claim says that they are above zero. Where students are
    noisy, a pipeline has `repeats` of each, and their mean counts. A claim that is tested again in another design has
    another `first_seed`, so that it is judged by pipelines that the design was not made after.
    """

    name: str
    module: str
    paper: str
    says: str
    setup: str
    varies: str
    doubts: tuple[str, ...]
    parts: tuple[Part, ...]
    tasks: Mapping[str, Callable[[int], Task]]
    arms: tuple[Arm, ...]
    common: Mapping[str, Any]
    tuned: Mapping[str, tuple[float, ...]]
    effects: Callable[[Results], Mapping[str, Sequence[float]]]
    view: View
    metric: str = "accuracy"
    seeds: int = 10
    tuning_seeds: int = 3
    repeats: int = 1
    first_seed: int = 1

    def grid(self, arm: Arm) -> list[Knobs]:
        """What the arm is tuned over: every combination of the tuned knobs that it does not fix."""
        free = {name: values for name, values in self.tuned.items() if name not in arm.fields}
        return [tuple(zip(free, values, strict=True)) for values in itertools.product(*free.values())]

    def students(self, arm: Arm, knobs: Knobs, seed: int, task: str) -> list[StudentSpec]:
        """The arm's students in the pipeline of a seed, on the task in the file `task`."""
        fields = {**self.common, **arm.fields, **dict(knobs), "task": task}
        return [StudentSpec(**fields, seed=self.repeats * seed + repeat) for repeat in range(self.repeats)]

    def tuning(self) -> list[tuple[Arm, Knobs]]:
        """All that is trained under each tuning seed."""
        return [(arm, knobs) for arm in self.arms for knobs in self.grid(arm)]


@dataclass(frozen=True)
class Results:
    """What a claim's students measured: one row a student in both frames, `tuning` by val and `tested` by test.

    Columns: seed, arm, knobs, status, num_params, and the metrics of the record.
    """

    claim: Claim
    tuning: pd.DataFrame
    tested: pd.DataFrame

    @cached_property
    def chosen(self) -> pd.DataFrame:
        """The best knobs of each arm by the mean over tuning seeds of the val metric: `knobs`, `val`, `on_edge`."""
        return chosen(self.claim, self.tuning)

    def best(self, arms: Sequence[str]) -> str:
        """Which of the arms was best on val, under the seeds that tuned it."""
        val = self.chosen.loc[list(arms), "val"]
        return str(val.idxmax() if self.claim.metric == "accuracy" else val.idxmin())

    def wide(self, metric: str = "") -> pd.DataFrame:
        """A test metric, the claim's own unless it is named, `[seeds, arms]`."""
        return self.tested.pivot_table(index="seed", columns="arm", values=f"test_{metric or self.claim.metric}")

    def points(self, better: str, worse: str, metric: str = "accuracy") -> list[float]:
        """The first arm's test metric less the second's, seed by seed, in percentage points."""
        table = self.wide(metric)
        return [float(value) for value in (100 * (table[better] - table[worse])).round(10)]


def chosen(claim: Claim, tuning: pd.DataFrame) -> pd.DataFrame:
    """The best knobs of each arm, as `Results.chosen`. `on_edge` names those that are the least or most of several."""
    value, rows = f"val_{claim.metric}", []
    for arm in claim.arms:
        means = tuning[tuning["arm"] == arm.name].groupby("knobs", sort=False)[value].mean()
        best = means.max() if claim.metric == "accuracy" else means.min()
        knobs = cast(Knobs, means.index[means == best][0])
        edge = [name for name, own in knobs if len(claim.tuned[name]) > 2 and own in _ends(claim, name)]
        rows.append({"arm": arm.name, "knobs": knobs, "val": float(best), "on_edge": ", ".join(edge)})
    return pd.DataFrame(rows).set_index("arm")


def _ends(claim: Claim, name: str) -> tuple[float, float]:
    return min(claim.tuned[name]), max(claim.tuned[name])


def task_file(claim: Claim, word: str, seed: int, folder: Path) -> Path:
    """Where the task `word` of a seed is kept as a study file, which `harness.tasks.load` reads; written if missing."""
    path = folder / "tasks" / f"{word}-{seed}.py"
    code = (
        f'"""The task {word!r} of {claim.module} under seed {seed}; that module wrote this file."""\n\n'
        "from harness.space import Choice, Float, Study\n"
        f"from {claim.module} import CLAIM\n\n\n"
        f'def task():\n    return CLAIM.tasks["{word}"]({seed})\n\n\n'
        'SPACE = {"width": Choice(4, 8), "form": Choice("kl", "mse"), "alpha": Float(0.0, 1.0)}\n'
        f'STUDY = Study(task=task, family="{claim.common["family"]}", space=SPACE)\n'
    )
    if not path.is_file() or path.read_text() != code:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    return path
