"""What a cohort's students see and what they are taught, on the training device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import repeat
from pathlib import Path

import torch
from torch import Tensor

from harness import tasks, teacher
from harness.batches import view_inputs
from harness.models import Family
from harness.spec import StudentSpec
from harness.targets import Targets
from harness.tasks import Inputs, Stream, Task


@dataclass(frozen=True)
class Data:
    """A task's splits as a family takes them, and the task's own teacher's logits on what students are measured by.

    The test split is there in the confirm stage alone.
    """

    task: Task
    family: Family
    inputs: Mapping[str, Inputs]  # split -> [examples, ...], prepared
    views: Inputs  # [rows, ...]: the train split in all its views, prepared
    labels: Mapping[str, Tensor]  # split -> [examples, ...]
    teacher: Mapping[str, Tensor]  # split -> its logits, [examples, ..., classes]

    @property
    def confirms(self) -> bool:
        """Whether there is the test split."""
        return "test" in self.inputs

    def measured(self, split: str) -> tuple[Inputs, Tensor]:
        """A split's inputs and labels, of the examples that have a label."""
        inputs, labels, labelled = self.inputs[split], self.labels[split], self.task.train.labelled
        if split != "train" or labelled is None:
            return inputs, labels
        return take(inputs, labelled.to(labels.device)), take(labels, labelled.to(labels.device))


def load_data(lead: StudentSpec, cache: Path, device: str, stage: str = "search") -> Data:
    """The data of a cohort led by this student; in the confirm stage with the test split."""
    data = load_inputs(lead, device)
    task, dtype = data.task, data.teacher["val"].dtype
    said = {"val": _val_logits(task, cache, device, dtype)}
    if stage == "search":
        return replace(data, teacher=said)
    test = task.test.read(stage)
    said["test"] = teacher.test_logits(task, cache, stage).to(device, dtype)
    inputs = {**data.inputs, "test": place(data.family, test.inputs, device, getattr(torch, lead.dtype))}
    return replace(data, inputs=inputs, labels={**data.labels, "test": test.labels.to(device)}, teacher=said)


def load_inputs(lead: StudentSpec, device: str) -> Data:
    """The same without a teacher: it is taken to say nothing, zero everywhere."""
    task = tasks.load(lead.task)
    family, dtype = task.families[lead.family], getattr(torch, lead.dtype)
    return _inputs(task, family, lead.transform, lead.views, device, dtype, exact(lead))


def exact(spec: StudentSpec) -> torch.dtype:
    """The numbers of parameters, losses and measurements: those of the network, but float32 for bfloat16."""
    found: torch.dtype = torch.float32 if spec.dtype == "bfloat16" else getattr(torch, spec.dtype)
    return found


@lru_cache(maxsize=4)
def _val_logits(task: Task, cache: Path, device: str, dtype: torch.dtype) -> Tensor:
    return teacher.load_logits(task, cache).val.to(device, dtype)


@lru_cache(maxsize=4)
def _inputs(
    task: Task,
    family: Family,
    transform: str,
    num_views: int,
    device: str,
    dtype: torch.dtype,
    exact: torch.dtype,
) -> Data:
    """Kept from cohort to cohort: a worker prepares a task's data once."""

    splits = {"train": task.train, "val": task.val}
    inputs = {name: place(family, split.inputs, device, dtype) for name, split in splits.items()}
    labels = {"train": task.train.labels.to(device), "val": task.val.labels.to(device)}
    return Data(
        task,
        family,
        inputs,
        views=inputs["train"]
        if num_views == 1
        else place(family, view_inputs(task, transform, num_views), device, dtype),
        labels=labels,
        teacher={"val": torch.zeros(*labels["val"].shape, task.num_classes, dtype=exact, device=device)},
    )


def place(family: Family, inputs: Inputs, device: str, dtype: torch.dtype) -> Inputs:
    """Inputs as the family takes them, on the device."""
    if isinstance(inputs, Stream):
        return inputs.changed(lambda part: _placed(family, part, device, dtype))
    return _placed(family, inputs, device, dtype)


def _placed(family: Family, inputs: Tensor, device: str, dtype: torch.dtype) -> Tensor:
    prepared = family.prepare(inputs)
    return prepared.to(device, dtype) if prepared.is_floating_point() else prepared.to(device)


def in_order(inputs: Inputs, order: Tensor, batch_size: int) -> Iterator[Tensor | None]:
    """The inputs of every batch of an epoch, `[groups, batch, ...]`, read ahead where they are streamed.

    None for those in memory, which are looked up as they are needed.
    """
    if isinstance(inputs, Tensor):
        yield from repeat(None)
        return
    rows = torch.split(order.cpu(), batch_size, dim=1)
    for own, found in zip(rows, inputs.batches([part.flatten().tolist() for part in rows]), strict=True):
        yield found.view(*own.shape, *found.shape[1:])


def take(table: Inputs, rows: Tensor) -> Tensor:
    """`table[rows]`; on a CPU several times faster, for it copies whole rows."""
    flat = rows.flatten()
    found: Tensor = table[flat] if isinstance(table, Stream) else table.index_select(0, flat)
    return found.view(*rows.shape, *table.shape[1:])


@dataclass(frozen=True)
class Lessons:
    """The answers that a run of students is given, from a few teachers stacked: `which` `[students]` says whose."""

    tables: Tensor  # [teachers, rows, ...], or [teachers, epochs, examples, ...] of online teachers
    which: Tensor
    online: bool

    @property
    def shared(self) -> bool:
        """Whether one table answers all students of the run, in every epoch."""
        return len(self.tables) == 1 and not self.online

    def of(self, epoch: int, rows: Tensor, spread: Callable[[Tensor], Tensor]) -> Tensor:
        """The answers to `rows` `[groups, batch]` in an epoch, `[students, batch, ...]`.

        `spread` gives each of the run's students what its group has; where all have one teacher it is looked up once a
        group.
        """
        if self.shared:
            return spread(take(self.tables[0], rows))
        if self.online:
            return self.tables[self.which[:, None], epoch, spread(rows) % self.tables.shape[2]]
        return self.tables[self.which[:, None], spread(rows)]


def lessons(teachers: Sequence[Targets], point: str | None, device: str, dtype: torch.dtype) -> Lessons:
    """The logits, or the feature point `point`, of a run of students' teachers; of equal teachers one is kept."""
    distinct = list({id(targets): targets for targets in teachers}.values())
    place = {id(targets): index for index, targets in enumerate(distinct)}
    found = [targets.logits if point is None else targets.points[point] for targets in distinct]
    tables = [table.to(device, dtype) for table in found]
    return Lessons(
        tables[0][None] if len(tables) == 1 else torch.stack(tables),  # one is read where its file is mapped
        torch.tensor([place[id(targets)] for targets in teachers], device=device),
        distinct[0].online,
    )
