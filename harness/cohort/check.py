"""Whether a student can be trained at all: its task, family, form, teacher and knobs fit together."""

from __future__ import annotations

from collections.abc import Iterator

from harness import losses, tasks
from harness.cohort.stack import alone
from harness.models import Family
from harness.spec import NONE, PLAIN, StudentSpec
from harness.tasks import GivenTeacher, Stream, Task
from harness.tasks.fits import misfit, most_of


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
        mend = f'write fixed={{"batch_size": {most_of(len(task.train))}}}'
        yield f"batch_size {spec.batch_size} is more than the {len(task.train)} training examples; {mend}"
    if family.alone is not None:
        alone(family, spec.width, task)  # raises where the student does not take the inputs
    if wrong := misfit(f"the student of width {spec.width}", family, spec.width, task):
        yield wrong
    if spec.form != PLAIN and task.num_classes < (least := losses.find_form(spec).min_classes):
        yield f"form {spec.form!r} needs at least {least} classes; {task.name} has {task.num_classes}"
    if task.train.labelled is not None:
        yield from _unlabelled_problems(spec, task)
    if spec.dropout and family.parts is None:
        yield f"dropout {spec.dropout:g}: it falls on what the last layer reads; {family.name!r} declares no parts"
    if isinstance(task.teacher, GivenTeacher):
        yield from _given_problems(spec, task, task.teacher)
    elif spec.teacher_epochs > task.teacher.epochs:
        yield f"teacher_epochs {spec.teacher_epochs} is more than the {task.teacher.epochs} of {task.name}'s teacher"
    if spec.transform != NONE and spec.transform not in task.transforms:
        choices = ", ".join((NONE, *task.transforms))
        yield f"unknown transform {spec.transform!r} of {task.name}; transforms are {choices}"
    if spec.transform != NONE and isinstance(task.train.inputs, Stream):
        yield f"transform {spec.transform!r}: the inputs of {task.name} are streamed; change them in its dataset"
    if spec.feature != NONE:
        point = losses.FEATURES[spec.feature].point
        of_task = [] if isinstance(task.teacher, GivenTeacher) else [("teacher's family", task.teacher.family)]
        taught_by = [] if spec.teacher == "self" else of_task
        for who, network in (("family", family), *taught_by):
            if point not in _points(network):
                has = ", ".join(_points(network)) or "no feature points"
                yield f"feature {spec.feature!r} compares the point {point!r}; {who} {network.name!r} has {has}"


def _given_problems(spec: StudentSpec, task: Task, given: GivenTeacher) -> Iterator[str]:
    """What cannot be done with a teacher that is not trained here."""
    said = f"{task.name} has a teacher that is given, {given.name!r}"
    if spec.form != PLAIN and spec.teacher == "online":
        yield f"teacher 'online' is trained beside the student; {said}"
    if spec.teacher_width or spec.teacher_epochs:
        yield f"teacher_width {spec.teacher_width} and teacher_epochs {spec.teacher_epochs}: {said}"
    if spec.feature != NONE and spec.teacher != "self":
        yield f"feature {spec.feature!r} compares the teacher's inner layers; {said}"
    if spec.form != PLAIN and spec.transform != NONE and not given.sees_inputs:
        yield f"transform {spec.transform!r} shows the teacher new inputs; {said}, and only its logits are there"


def _unlabelled_problems(spec: StudentSpec, task: Task) -> Iterator[str]:
    """What cannot be done where some training examples have no label."""
    if spec.micro_batch:
        yield f"micro_batch {spec.micro_batch}: a batch of {task.name} has examples with and without a label in each"
    if spec.batch_size < 2:
        yield f"batch_size {spec.batch_size} is too small: {task.name} needs examples with and without a label in each"
    if spec.form != PLAIN and "labels" in losses.find_form(spec).takes:
        yield f"form {spec.form!r} reads the labels, which some examples of {task.name} do not have"
    if spec.teacher in ("online", "shuffled_in_class"):
        yield f"teacher {spec.teacher!r} needs every label; some examples of {task.name} have none"


def _points(family: Family) -> tuple[str, ...]:
    return family.parts.points if family.parts is not None else ()
