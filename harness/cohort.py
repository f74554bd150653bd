"""Trains many students as one fused job: `train(specs, ...) -> records`.

Students of one width, schedule and optimiser are stacked on a leading axis, and every step trains them all, each on its
own batches, with its own loss form, alpha, temperature, lr, weight decay and seed. Only this file knows of that axis:
families, losses and optimisers are written for one student or broadcast over many. Losses are summed over students,
never averaged, so no student's gradient depends on its neighbours, and a record is the same whoever shared the cohort.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor
from torch.func import vmap

from harness import losses, optimisers, tasks, teacher
from harness.models import Family, init, num_params
from harness.seeds import generator
from harness.spec import PLAIN, Cost, Curve, Record, StudentSpec
from harness.tasks import Task

EVALUATION_BATCH = 500


@dataclass(frozen=True)
class Data:
    """A task's splits as a family takes them, on the training device, and the teacher's logits by sample index."""

    family: Family
    inputs: Mapping[str, Tensor]  # split -> [examples, ...], prepared
    labels: Mapping[str, Tensor]  # split -> [examples, ...]
    teacher: Mapping[str, Tensor]  # split -> [examples, ..., classes]


@dataclass(frozen=True)
class Cohort:
    """Students stacked: `flat` `[students, values]` holds all parameters, `params` are views of it by name."""

    specs: Sequence[StudentSpec]
    flat: Tensor
    params: Mapping[str, Tensor]  # name -> [students, ...]
    hyper: optimisers.Hyper
    weights: Tensor  # [2, students]: of cross-entropy, of the distillation loss
    forms: tuple[tuple[str, slice], ...]
    temperature: Tensor  # [students]; 1 where a form takes none


def check(spec: StudentSpec) -> None:
    """Raise `ValueError` in one line unless the student can be trained: task, family, form and knobs fit together."""
    task = tasks.load(spec.task)
    if spec.family not in task.families:
        raise ValueError(f"unknown family {spec.family!r} of {task.name}; families are {', '.join(task.families)}")
    losses.check(spec)
    if spec.batch_size > len(task.train):
        raise ValueError(f"batch_size {spec.batch_size} is more than the {len(task.train)} training examples")


def train(specs: Sequence[StudentSpec], *, cache: Path, device: str = "cpu") -> list[Record]:
    """Train every student and return their records in the order of `specs`.

    Students that cannot share a cohort (see `StudentSpec.cohort_key`) are trained one cohort after the other. `cache`
    holds the teachers; the task's must be there (`harness.teacher.ensure`). Raises `ValueError` for a student that
    cannot be trained. Divergence is a status of the record, not an error.
    """
    for spec in specs:
        check(spec)
    found: dict[StudentSpec, Record] = {}
    for _, members in groupby(sorted(set(specs), key=_order), key=lambda spec: spec.cohort_key):
        cohort = list(members)
        found.update(zip(cohort, _train_cohort(cohort, cache, device), strict=True))
    return [found[spec] for spec in specs]


def _order(spec: StudentSpec) -> tuple[str, str, str]:
    """Students of one cohort together, and in it those of one form."""
    return repr(spec.cohort_key), spec.form, repr(spec)


def _train_cohort(specs: Sequence[StudentSpec], cache: Path, device: str) -> list[Record]:
    started = time.perf_counter()
    lead = specs[0]
    task = tasks.load(lead.task)
    data = _data(task, task.families[lead.family], cache, device, getattr(torch, lead.dtype))
    cohort = _stack(specs, task, device)
    state = optimisers.start(cohort.flat)
    curves: list[Tensor] = []  # one an epoch, [5, students]
    step, num_steps = 0, lead.epochs * (len(task.train) // lead.batch_size)
    for order in _orders(specs, len(task.train), device):
        sums = torch.zeros(3, len(specs), dtype=cohort.flat.dtype, device=device)
        for index in torch.split(order, lead.batch_size, dim=1):
            sums += _step(cohort, data, index, state, _lr_scale(lead.schedule, step, num_steps))
            step += 1
        val_loss, val_accuracy = _evaluate(cohort, data, "val")[:2]
        curves.append(torch.cat([sums / (num_steps // lead.epochs), val_loss[None], val_accuracy[None]]))
    rows = torch.stack(curves).double().cpu()  # [epochs, 5, students]
    metrics = _final_metrics(cohort, data)
    share = (time.perf_counter() - started) / len(specs)
    return [
        _record(spec, task, rows[:, :, student], {k: v[student] for k, v in metrics.items()}, share, len(specs), device)
        for student, spec in enumerate(specs)
    ]


@lru_cache(maxsize=4)
def _data(task: Task, family: Family, cache: Path, device: str, dtype: torch.dtype) -> Data:
    """Kept from cohort to cohort: a worker prepares a task's data once."""
    splits, logits = {"train": task.train, "val": task.val}, teacher.load_logits(task, cache)
    inputs = {name: family.prepare(split.inputs) for name, split in splits.items()}
    return Data(
        family,
        inputs={name: (x.to(device, dtype) if x.is_floating_point() else x.to(device)) for name, x in inputs.items()},
        labels={name: split.labels.to(device) for name, split in splits.items()},
        teacher={name: getattr(logits, name).to(device, dtype) for name in splits},
    )


def _stack(specs: Sequence[StudentSpec], task: Task, device: str) -> Cohort:
    """Every student initialised from its own seed, side by side."""
    lead, dtype = specs[0], getattr(torch, specs[0].dtype)
    family = task.families[lead.family]
    starts: dict[int, dict[str, Tensor]] = {
        seed: init(family, lead.width, task.input_shape, task.num_classes, generator(seed, "init"))
        for seed in {spec.seed for spec in specs}
    }
    shapes = {name: tensor.shape for name, tensor in starts[lead.seed].items()}
    rows = [torch.cat([starts[spec.seed][name].flatten() for name in shapes]) for spec in specs]
    flat = torch.stack(rows).to(device, dtype)
    params, offset = {}, 0
    for name, shape in shapes.items():
        part = flat[:, offset : offset + shape.numel()].view(-1, *shape)
        params[name] = part.detach().requires_grad_()  # shares the memory of `flat`, which the optimiser writes
        offset += shape.numel()

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)

    grouped = [
        (form, [i for i, _ in members]) for form, members in groupby(enumerate(specs), lambda item: item[1].form)
    ]
    return Cohort(
        specs,
        flat,
        params,
        hyper=optimisers.Hyper(
            lr=column([spec.lr for spec in specs])[:, None],
            weight_decay=column([spec.weight_decay for spec in specs])[:, None],
            momentum=column([spec.momentum for spec in specs])[:, None],
        ),
        weights=column([w for spec in specs for w in losses.weights(spec)]).view(-1, 2).T,
        forms=tuple((form, slice(members[0], members[-1] + 1)) for form, members in grouped),
        temperature=column([spec.temperature or 1.0 for spec in specs]),
    )


def _orders(specs: Sequence[StudentSpec], num_examples: int, device: str) -> Iterator[Tensor]:
    """For each epoch, every student's own order of whole batches: `[students, examples]`."""
    lead = specs[0]
    sources = {spec.seed: generator(spec.seed, "order") for spec in specs}
    used = num_examples // lead.batch_size * lead.batch_size
    for _ in range(lead.epochs):
        orders = {seed: torch.randperm(num_examples, generator=source)[:used] for seed, source in sources.items()}
        yield torch.stack([orders[spec.seed] for spec in specs]).to(device)


def _step(cohort: Cohort, data: Data, index: Tensor, state: optimisers.State, lr_scale: float) -> Tensor:
    """One step on the examples `index` `[students, batch]`; objective, CE and KD before it, `[3, students]`."""
    logits = vmap(data.family.apply)(cohort.params, data.inputs["train"][index])
    ce, kd = _losses(cohort, logits, data.labels["train"][index], data.teacher["train"], index)
    objective = cohort.weights[0] * ce + cohort.weights[1] * kd
    grads = torch.autograd.grad(objective.sum(), list(cohort.params.values()))
    flat_grads = torch.cat([grad.flatten(1) for grad in grads], dim=1)
    optimisers.STEPS[cohort.specs[0].optimiser](cohort.flat, flat_grads, state, cohort.hyper, lr_scale)
    return torch.stack([objective, ce, kd]).detach()


def _losses(
    cohort: Cohort, logits: Tensor, labels: Tensor, teacher_logits: Tensor, index: Tensor
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and distillation loss of every student, `[students]` each; the latter 0 for plain training."""
    logits = logits.flatten(1, -2).contiguous()  # positions, where an example has several, count as examples
    ce = losses.cross_entropy(logits, labels.flatten(1))
    parts = []
    for form, members in cohort.forms:
        if form == PLAIN:
            parts.append(torch.zeros_like(ce[members]))
            continue
        targets = teacher_logits[index[members]].flatten(1, -2)
        knobs = {name: getattr(cohort, name)[members] for name in losses.LOSSES[form].knobs}
        parts.append(losses.LOSSES[form].function(logits[members], targets, **knobs))
    return ce, torch.cat(parts)


@torch.no_grad()
def _evaluate(cohort: Cohort, data: Data, split: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss, accuracy, agreement with the teacher and KL to it at temperature 1, each `[students]` float64."""
    sums = torch.zeros(4, len(cohort.specs), dtype=torch.float64, device=cohort.flat.device)
    inputs, labels, targets = data.inputs[split], data.labels[split], data.teacher[split]
    for start in range(0, len(inputs), EVALUATION_BATCH):
        part = slice(start, start + EVALUATION_BATCH)
        logits = vmap(data.family.apply, in_dims=(0, None))(cohort.params, inputs[part]).flatten(1, -2).contiguous()
        truth = labels[part].flatten().expand(logits.shape[:-1])
        wanted = targets[part].flatten(0, -2).expand_as(logits)
        predicted, count = logits.argmax(-1), truth.shape[-1]
        sums[0] += count * losses.cross_entropy(logits, truth)
        sums[1] += (predicted == truth).sum(-1)
        sums[2] += (predicted == wanted.argmax(-1)).sum(-1)
        sums[3] += count * losses.kl(logits, wanted, temperature=torch.ones_like(cohort.temperature))
    loss, accuracy, agreement, kl = sums / labels.numel()
    return loss, accuracy, agreement, kl


def _final_metrics(cohort: Cohort, data: Data) -> dict[str, list[float]]:
    """What every student's record measures after its last step."""
    val_loss, val_accuracy, val_agreement, val_kl = (column.tolist() for column in _evaluate(cohort, data, "val"))
    train_loss, train_accuracy = (column.tolist() for column in _evaluate(cohort, data, "train")[:2])
    found = {"val_accuracy": val_accuracy, "val_loss": val_loss, "val_agreement": val_agreement, "val_kl": val_kl}
    return found | {"train_accuracy": train_accuracy, "train_loss": train_loss}


def _record(
    spec: StudentSpec,
    task: Task,
    rows: Tensor,
    metrics: Mapping[str, float],
    seconds: float,
    cohort_size: int,
    device: str,
) -> Record:
    """The record of one student whose curve is `rows` `[epochs, 5]`."""
    whole = int(torch.isfinite(rows).all(1).long().cumprod(0).sum())
    columns = [tuple(column.tolist()) for column in rows[:whole].T]
    curve = Curve(*columns) if spec.form != PLAIN else Curve(columns[0], columns[1], (), *columns[3:])
    ok = whole == len(rows) and all(math.isfinite(value) for value in metrics.values())
    family, shape = task.families[spec.family], (spec.width, task.input_shape, task.num_classes)
    examples = spec.epochs * (len(task.train) // spec.batch_size) * spec.batch_size
    return Record(
        spec,
        status="ok" if ok else "diverged",
        curve=curve,
        metrics=metrics if ok else {name: _uniform_guess(name, task.num_classes) for name in metrics},
        num_params=num_params(family, *shape),
        macs=family.macs(*shape),
        cost=Cost(seconds, 6.0 * family.macs(*shape) * examples, cohort_size, device),
    )


def _uniform_guess(metric: str, num_classes: int) -> float:
    """What a network that guesses uniformly would score: a diverged student has learnt no more than that."""
    return math.log(num_classes) if metric.endswith(("loss", "kl")) else 1 / num_classes


def _lr_scale(schedule: str, step: int, num_steps: int) -> float:
    """The learning rate's factor at a step: 1, or half a cosine from 1 to 0."""
    return 0.5 + 0.5 * math.cos(math.pi * step / num_steps) if schedule == "cosine" else 1.0
