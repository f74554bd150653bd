"""What a cohort's logits say: cross-entropy, distillation losses, and the gradients of both, without a graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from harness.batches import labelled_in_batch
from harness.cohort.batch import Batch
from harness.cohort.data import Data, Lessons, take
from harness.cohort.stack import Cohort, Kin, Run
from harness.forms import Form
from harness.losses import gradients
from harness.losses.gradients import Apart, Softened, ValueAndGrad
from harness.losses.softened import log_softmax


@dataclass(frozen=True)
class AtLogits:
    """What a batch's logits say: cross-entropy, distillation loss (0 for who has none) and their weighted sum.

    The values are `[students]`; `grad` is the sum's gradient at the logits, `[students, batch, ..., classes]`, and
    `learned` those at what the logit forms learn, in the order of `Cohort.learned`.
    """

    ce: Tensor
    kd: Tensor
    objective: Tensor
    grad: Tensor
    learned: Sequence[Tensor]


@torch.no_grad()
def at_logits(cohort: Cohort, data: Data, logits: Tensor, batch: Batch, weights: Tensor) -> AtLogits:
    """The losses of logits `[students, batch, ..., classes]`, without a graph; `weights` are as in `Cohort.weights`.

    Where not all examples have a label, those of a batch that do stand first; alpha is 0 for the others: each part is
    weighed by its share of the batch.
    """
    of_ce, of_kd, of_rest = weights.view(3, *cohort.grid)
    labelled, count = labelled_in_batch(data.task.train, batch.rows.shape[1]), batch.rows.shape[1]
    if labelled is None:
        truth = take(data.labels["train"], batch.rows % len(data.labels["train"])).flatten(1)
        found = _losses(cohort, _by_seed(cohort, logits), truth, batch, of_ce, of_kd)
        kd, objective = found.kd, torch.addcmul(of_ce * found.ce, of_kd, found.kd)
        grad, learned = found.grad, found.learned
    else:
        first, rest = (
            replace(batch, rows=rows) for rows in batch.rows.split_with_sizes([labelled, count - labelled], 1)
        )
        truth = take(data.labels["train"], first.rows % len(data.labels["train"])).flatten(1)
        share, other = labelled / count, 1 - labelled / count
        found = _losses(cohort, _by_seed(cohort, logits[:, :labelled]), truth, first, share * of_ce, share * of_kd)
        others = _losses(cohort, _by_seed(cohort, logits[:, labelled:]), truth, rest, None, other * of_rest)
        kd = share * found.kd + other * others.kd
        objective = share * (of_ce * found.ce + of_kd * found.kd) + other * of_rest * others.kd
        grad = torch.cat([found.grad, others.grad], dim=-2)
        learned = [a + b for a, b in zip(found.learned, others.learned, strict=True)]
    return AtLogits(found.ce.flatten(), kd.flatten(), objective.flatten(), grad.reshape(logits.shape), learned)


def labelled_share(data: Data, batch: Batch) -> float:
    """The share of a batch that has a label."""
    count = batch.rows.shape[1]
    return (labelled_in_batch(data.task.train, count) or count) / count


def _by_seed(cohort: Cohort, logits: Tensor) -> Tensor:
    """Logits `[students, batch, ..., classes]` as losses take them: `[seeds, students of a seed, examples, classes]`.

    Positions, where there are several, count as examples. In memory classes stand before examples: sums over ten
    classes are slow.
    """
    own = logits.flatten(1, -2).mT.contiguous()
    return own.view(*cohort.grid, *own.shape[1:]).mT


@dataclass(frozen=True)
class _Losses:
    """Unweighted values `[seeds, students of a seed]`, and the gradients of their weighted sum."""

    ce: Tensor
    kd: Tensor
    grad: Tensor
    learned: list[Tensor]


def _losses(
    cohort: Cohort, logits: Tensor, truth: Tensor, batch: Batch, of_ce: Tensor | None, of_kd: Tensor
) -> _Losses:
    """The losses of logits and their weights by seed, as `_by_seed` has them. `truth` are the groups' labels; without a
    weight for cross-entropy there is none."""
    log_probs, smoothing = log_softmax(logits), cohort.smoothing
    if of_ce is None:
        ce, grad = torch.zeros_like(of_kd), torch.zeros_like(logits.mT).mT
    else:
        smoothing = None if smoothing is None else smoothing.view(cohort.grid)
        labels = truth[:, None] if len(truth) == len(logits) else truth[None]
        ce, grad, factor = gradients.cross_entropy(log_probs, labels, smoothing)
        grad.mul_((of_ce * factor)[..., None, None])
    values, learned = list[Tensor](), list[Tensor]()
    looked_up: dict[int, Tensor] = {}  # what a teacher of several runs says to each group
    for kin in cohort.forms:
        own, weight, by = logits[:, kin.members], of_kd[:, kin.members], grad[:, kin.members]
        if not kin.runs:
            values.append(torch.zeros_like(weight))
        elif kin.runs[0].closed is None:
            found = _by_autograd(cohort, kin.runs[0], own, truth, batch, looked_up)
            values.append(found.value.view(weight.shape))
            by.addcmul_(found.grad.reshape(by.shape), weight[..., None, None])
            learned += [weight.reshape(-1, *[1] * (grad.ndim - 1)) * grad for grad in found.learned]
        else:
            heat, answers = kin.temperature, _answers(cohort, kin, batch, looked_up)
            of = Apart.of(own, answers) if heat is None else Softened.of(log_probs[:, kin.members], answers, heat)
            values += _in_closed_form(kin.runs, of, weight, by)
    return _Losses(ce, torch.cat(values, dim=1), grad, learned)


def _in_closed_form(runs: Sequence[Run], made_of: Softened | Apart, weight: Tensor, by: Tensor) -> list[Tensor]:
    """The values of each run of neighbours, whose losses are `made_of` the same; weight times gradient is added to
    `by`."""
    counts, values = [run.members.stop - run.members.start for run in runs], list[Tensor]()
    parts = zip(
        runs, made_of.split(counts), weight.split_with_sizes(counts, 1), by.split_with_sizes(counts, 1), strict=True
    )
    for run, at, its_weight, its_by in parts:
        assert run.closed is not None
        knobs = {name: run.knobs[name].view(its_weight.shape) for name in run.closed.knobs}
        value, slope, factor = run.closed.function(at, **knobs)
        values.append(value)
        its_by.addcmul_(slope, (its_weight * factor)[..., None, None])
    return values


def _by_autograd(
    cohort: Cohort, run: Run, logits: Tensor, truth: Tensor, batch: Batch, looked_up: dict[int, Tensor]
) -> ValueAndGrad:
    """The distillation loss of a run whose form has no closed one, which is given a row a student."""
    assert isinstance(run.form, Form)
    given: dict[str, Tensor | float] = {}
    if "labels" in run.form.takes:
        given["labels"] = spread(cohort, run.members, truth)
    if "progress" in run.form.takes:
        given["progress"] = batch.progress
    learned = run.learned.views if run.learned is not None else {}
    answers = _answers_of(cohort, run.lessons, run.members, batch, looked_up)
    own, theirs = (values.flatten(0, 1).mT for values in (logits.mT, answers.expand(logits.shape).mT))
    return gradients.by_autograd(run.form, own, theirs, {**run.knobs, **given}, learned)


def _answers(cohort: Cohort, kin: Kin, batch: Batch, looked_up: dict[int, Tensor]) -> Tensor:
    """What the teachers of neighbours say, as `_answers_of`."""
    if kin.lessons is not None:
        return _answers_of(cohort, kin.lessons, kin.members, batch, looked_up)
    found = [_answers_of(cohort, run.lessons, run.members, batch, looked_up).mT for run in kin.runs]
    counts = [run.members.stop - run.members.start for run in kin.runs]
    each = [own.expand(-1, count, -1, -1) for own, count in zip(found, counts, strict=True)]
    return torch.cat(each, dim=1).mT


def _answers_of(cohort: Cohort, lessons: Lessons, members: slice, batch: Batch, looked_up: dict[int, Tensor]) -> Tensor:
    """What some students' teachers say to a batch, `[seeds, students of a seed, examples, classes]`, classes first in
    memory; one student stands for all of a seed where they are told the same. Tables are looked up once a step."""
    if not lessons.shared:
        found = lessons.of(batch.epoch, batch.rows, partial(spread, cohort, members)).flatten(1, -2).mT.contiguous()
        return found.view(cohort.grid[0], -1, *found.shape[1:]).mT
    place = lessons.tables.data_ptr()
    if place not in looked_up:
        looked_up[place] = take(lessons.tables[0], batch.rows).flatten(1, -2).mT.contiguous()
    said = looked_up[place]
    return (said[:, None] if len(said) == cohort.grid[0] else said[None, members]).mT


def spread(cohort: Cohort, members: slice, values: Tensor) -> Tensor:
    """To every student of a run what its group has: `[groups, ...]` -> `[students of the run, ...]`."""
    seeds = cohort.grid[0]
    if len(values) != seeds:
        return values[members]
    return values[:, None].expand(seeds, members.stop - members.start, *values.shape[1:]).flatten(0, 1)
