"""Whether a student can be trained at all: its task, family, form, teacher and knobs fit together."""

from __future__ import annotations

from collections.abc import Iterator

from harness import losses, tasks
from harness.models import Family
from harness.spec import NONE, PLAIN, StudentSpec
from harness.tasks import Task


def check(spec: StudentSpec) -> None:
    """Raise `ValueError` in one line unless the student can be trained."""
    task = tasks.load(spec.task)
    if spec.family not in task.families:
        raise ValueError(f"unknown family {spec.family!r} of {task.name}; families are {', '.join(task.families)}")
    losses.check(spec, task.num_classes)
    for problem in _problems(spec, task):
        raise ValueError(problem)


def _problems(spec: StudentSpec, task: Task) -> Iterator[str]:
    family = task.families[spec.family]
    if spec.batch_size > len(task.train):
        yield f"batch_size {spec.batch_size} is more than the {len(task.train)} training examples"
    if spec.form != PLAIN and task.num_classes < (least := losses.find_form(spec).min_classes):
        yield f"form {spec.form!r} needs at least {least} classes; {task.name} has {task.num_classes}"
    if spec.dropout and family.parts is None:
        yield f"dropout {spec.dropout:g}: it falls on what the last layer reads; {family.name!r} declares no parts"
    if spec.teacher_epochs > task.teacher.epochs:
        yield f"teacher_epochs {spec.teacher_epochs} is more than the {task.teacher.epochs} of {task.name}'s teacher"
    if spec.transform != NONE and spec.transform not in task.transforms:
        choices = ", ".join((NONE, *task.transforms))
        yield f"unknown transform {spec.transform!r} of {task.name}; transforms are {choices}"
    if spec.feature != NONE:
        point = losses.FEATURES[spec.feature].point
        taught_by = [] if spec.teacher == "self" else [("teacher's family", task.teacher.family)]
        for who, network in (("family", family), *taught_by):
            if point not in _points(network):
                has = ", ".join(_points(network)) or "no feature points"
                yield f"feature {spec.feature!r} compares the point {point!r}; {who} {network.name!r} has {has}"


def _points(family: Family) -> tuple[str, ...]:
    return family.parts.points if family.parts is not None else ()
