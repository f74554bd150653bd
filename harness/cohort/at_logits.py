"""What a cohort's logits say: cross-entropy, distillation losses, and the gradients of both, without a graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from harness.batches import labelled_in_batch
from harness.cohort.batch import Batch
from harness.cohort.data import Data, take
from harness.cohort.stack import Cohort, Run
from harness.losses import FeatureForm, gradients
from harness.losses.gradients import ValueAndGrad


@dataclass(frozen=True)
class AtLogits:
    """What a batch's logits say: cross-entropy, distillation loss (0 for who has none) and their weighted sum.

    The values are `[students]`, the gradients `by_...` are at the logits, `[students, batch, ..., classes]`. `learned`
    are the gradients of the sum at what the logit forms learn, in the order of `Cohort.learned`.
    """

    ce: Tensor
    kd: Tensor
    objective: Tensor
    by_ce: Tensor
    by_kd: Tensor
    by_objective: Tensor
    learned: Sequence[Tensor]


def at_logits(cohort: Cohort, data: Data, logits: Tensor, batch: Batch) -> AtLogits:
    """The losses of logits `[students, batch, ..., classes]`, without a graph.

    Where not all examples have a label, those of a batch that do stand first; alpha is 0 for the others: each part is
    weighed by its share of the batch.
    """
    labelled = labelled_in_batch(data.task.train, batch.rows.shape[1])
    first = batch if labelled is None else replace(batch, rows=batch.rows[:, :labelled])
    own = _by_seed(cohort, logits[:, :labelled])
    truth = take(data.labels["train"], first.rows % len(data.labels["train"])).flatten(1)
    smoothing = None if cohort.smoothing is None else cohort.smoothing.view(cohort.grid)
    ce, by_ce = gradients.cross_entropy(own, truth[:, None] if len(truth) == len(own) else truth[None], smoothing)
    of_ce, of_kd, of_rest = cohort.weights.view(3, *cohort.grid)
    kd, by_kd, learned = _kd(cohort, own, truth, first, of_kd)
    objective, by_objective = of_ce * ce + of_kd * kd, _sum(of_ce, by_ce, of_kd, by_kd)
    if labelled is not None:
        share = labelled / batch.rows.shape[1]
        rest = replace(batch, rows=batch.rows[:, labelled:])
        value, by_value, of_others = _kd(cohort, _by_seed(cohort, logits[:, labelled:]), truth, rest, of_rest)
        objective, kd = share * objective + (1 - share) * of_rest * value, share * kd + (1 - share) * value
        by_ce = torch.cat([by_ce, torch.zeros_like(by_value)], dim=-2)
        by_kd = torch.cat([share * by_kd, (1 - share) * by_value], dim=-2)
        by_rest = (1 - share) * of_rest[..., None, None] * by_value
        by_objective = torch.cat([share * by_objective, by_rest], dim=-2)
        learned = [share * a + (1 - share) * b for a, b in zip(learned, of_others, strict=True)]
    ce, kd, objective = (value.flatten() for value in (ce, kd, objective))
    by_ce, by_kd, by_objective = (grad.reshape(logits.shape) for grad in (by_ce, by_kd, by_objective))
    return AtLogits(ce, kd, objective, by_ce, by_kd, by_objective, learned)


def _by_seed(cohort: Cohort, logits: Tensor) -> Tensor:
    """Logits `[students, batch, ..., classes]` as losses take them: `[seeds, students of a seed, examples, classes]`.

    Positions, where there are several, count as examples. In memory classes stand before examples: sums over ten
    classes are slow.
    """
    own = logits.flatten(1, -2).mT.contiguous()
    return own.view(*cohort.grid, *own.shape[1:]).mT


def _sum(weight: Tensor, first: Tensor, other: Tensor, second: Tensor) -> Tensor:
    """The weighted sum of two gradients, with a weight for each student."""
    return torch.addcmul(weight[..., None, None] * first, other[..., None, None], second)


def _kd(
    cohort: Cohort, logits: Tensor, truth: Tensor, batch: Batch, weight: Tensor
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Every student's distillation loss, 0 for plain training, and its gradient at the logits.

    Logits and `weight` stand by seed, as `_by_seed` has them, and so does what is found; then the gradients of weight
    times loss at what the forms learn, view by view. `truth` are the groups' labels.
    """
    values, grads, learned = list[Tensor](), list[Tensor](), list[Tensor]()
    looked_up: dict[int, Tensor] = {}  # what a teacher of several runs says to each group
    lengths = [members.stop - members.start for members, _ in cohort.forms]
    for (members, run), own in zip(cohort.forms, torch.split(logits, lengths, dim=1), strict=True):
        if run is None:
            values.append(torch.zeros_like(weight[:, members]))
            grads.append(torch.zeros_like(own))
            continue
        found = _of_run(cohort, run, own, truth, batch, looked_up)
        values.append(found.value.view(own.shape[:2]))
        grads.append(found.grad.reshape(own.shape))
        if found.learned:
            of_each = weight[:, members].flatten()
            learned += [of_each.view(-1, *[1] * (grad.ndim - 1)) * grad for grad in found.learned]
    return torch.cat(values, dim=1), torch.cat([grad.mT for grad in grads], dim=1).mT, learned


def _of_run(
    cohort: Cohort, run: Run, logits: Tensor, truth: Tensor, batch: Batch, looked_up: dict[int, Tensor]
) -> ValueAndGrad:
    """The distillation loss of a run of its logits, which stand by seed.

    A form in closed form is given them so, with what the students of a seed share once; others get a row a student.
    """
    assert not isinstance(run.form, FeatureForm)
    each = partial(spread, cohort, run.members)
    given: dict[str, Tensor | float] = {}
    if "labels" in run.form.takes:
        given["labels"] = each(truth)
    if "progress" in run.form.takes:
        given["progress"] = batch.progress
    if run.lessons.shared:
        place = run.lessons.tables.data_ptr()
        if place not in looked_up:
            looked_up[place] = take(run.lessons.tables[0], batch.rows).flatten(1, -2).mT.contiguous()
        found = looked_up[place]
        answers = found[:, None] if len(found) == len(logits) else found[None, run.members]
    else:
        answers = run.lessons.of(batch.epoch, batch.rows, each).flatten(1, -2).mT.contiguous().view(logits.mT.shape)
    if (closed := gradients.closed(run.form)) is not None:
        knobs = {name: knob.view(logits.shape[:2]) for name, knob in run.knobs.items()}
        return ValueAndGrad(*closed(logits, answers.mT, **knobs, **given))
    learned = run.learned.views if run.learned is not None else {}
    own, theirs = (values.flatten(0, 1).mT for values in (logits.mT, answers.expand(logits.mT.shape)))
    return gradients.by_autograd(run.form, own, theirs, {**run.knobs, **given}, learned)


def spread(cohort: Cohort, members: slice, values: Tensor) -> Tensor:
    """To every student of a run what its group has: `[groups, ...]` -> `[students of the run, ...]`."""
    seeds = cohort.grid[0]
    if len(values) != seeds:
        return values[members]
    return values[:, None].expand(seeds, members.stop - members.start, *values.shape[1:]).flatten(0, 1)
