"""What the tests of a user's own modules and data share: a small task that the harness knows by its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness import cohort, targets, tasks
from harness.cohort.company import cohorts
from harness.cohort.data import load_data
from harness.cohort.stack import Cohort, alone, stack
from harness.cohort.training import fit
from harness.models import MLP, Family
from harness.records import Record
from harness.spec import StudentSpec
from harness.tasks import GivenTeacher, Task, TeacherRecipe, own_task
from tests.students import student

RECIPE = TeacherRecipe(MLP, width=8, epochs=2)
NUMBERS = count()
Students = Callable[[int], nn.Module] | dict[str, Family]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clouds(examples: int, seed: int = 0, classes: int = 3, features: int = 5) -> tuple[Tensor, Tensor]:
    """Examples of each class about a mean of its own, and their labels."""
    labels = torch.arange(examples) % classes
    return noise(classes, features, seed=99)[labels] + noise(examples, features, seed=seed), labels


def task_of(students: Students, teacher: TeacherRecipe | GivenTeacher = RECIPE, **changed: Any) -> Task:
    """A task of 96, 40 and 40 examples; `changed` are other arguments of `own_task`."""
    parts = {"train": clouds(96), "val": clouds(40, 1), "test": clouds(40, 2)}
    return own_task(f"mine{next(NUMBERS)}", students=students, teacher=teacher, **{**parts, **changed})


def known(task: Task, monkeypatch: pytest.MonkeyPatch) -> Task:
    """The task, among those that a spec may name."""
    monkeypatch.setitem(tasks.TASKS, task.name, lambda: task)
    return task


def spec_of(task: Task, form: str = "kl", **changed: Any) -> StudentSpec:
    """A float64 student of the task's family `own`."""
    return student(form, **{"task": task.name, "family": "own", "batch_size": 16, **changed})


def trained(specs: Sequence[StudentSpec], cache: Path) -> list[Record]:
    """The students' records, all `ok`."""
    targets.prepare(specs, cache, "cpu", lambda *_: None)
    records = cohort.train(specs, cache=cache)
    assert [record.status for record in records] == ["ok"] * len(specs)
    return records


def network_of(spec: StudentSpec, cache: Path) -> tuple[Cohort, dict[str, Tensor]]:
    """The student's cohort, trained, and its network by name."""
    targets.prepare([spec], cache, "cpu", lambda *_: None)
    ready, data = stacked([spec], cache)
    fit(ready, data, "cpu")
    return ready, {name: view[0].detach().clone() for name, view in ready.network.views.items()}


def stacked(specs: Sequence[StudentSpec], cache: Path) -> tuple[Cohort, Any]:
    """The students as they start, side by side, and their data."""
    data = load_data(specs[0], cache, "cpu")
    taught = [None if spec.form == "ce" else targets.load(spec, data.task, cache) for spec in specs]
    return stack(specs, data, taught, "cpu", padded=False), data


def why_alone(task: Task, width: int = 4) -> str:
    """Why the task's own students are trained one at a time."""
    return alone(task.families["own"], width, task)


def sizes(specs: Sequence[StudentSpec]) -> list[int]:
    """How many students each cohort has."""
    return [len(members) for members in cohorts(specs)]
