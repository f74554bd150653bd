"""The students' objective on a batch, and how its parts pull: cross-entropy, distillation loss, feature loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.batches import labelled_in_batch
from harness.cohort.data import Data, take
from harness.cohort.forward import by_hand, embed, head, learn
from harness.cohort.stack import Cohort, Run
from harness.losses import FeatureForm, gradients
from harness.losses.gradients import ValueAndGrad
from harness.models.family import Back


@dataclass(frozen=True)
class Batch:
    """What every student sees in one step: `rows` `[groups, batch]` of an epoch; `progress` is the share done.

    `inputs` `[groups, batch, ...]` are those of the rows where they were read ahead; `part` says which part of a step's
    batch this is.
    """

    rows: Tensor
    epoch: int
    progress: float
    inputs: Tensor | None = None
    part: int = 0

    def parts(self, size: int) -> list[Batch]:
        """The batch in parts of so many examples, 0 for itself."""
        if not 0 < size < self.rows.shape[1]:
            return [self]
        rows = torch.split(self.rows, size, dim=1)
        inputs = [None] * len(rows) if self.inputs is None else torch.split(self.inputs, size, dim=1)
        return [
            replace(self, rows=own, inputs=seen, part=part)
            for part, (own, seen) in enumerate(zip(rows, inputs, strict=True))
        ]


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


def descend(cohort: Cohort, data: Data, batch: Batch, noise: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    """Objective, CE and KD on a batch, `[3, students]`, and the objective's gradients, added up over the batch's parts.

    The gradients are those at the network's views, then those at the views of each of `Cohort.learned`. `noise`
    `[students, batch, ..., features]`, uniform, decides what is dropped.
    """
    own = batch.parts(cohort.specs[0].micro_batch)
    said, grads = torch.zeros((), device=cohort.network.values.device), list[Tensor]()
    for part, its_noise in zip(own, noise_of(own, noise), strict=True):
        seen = _forward(cohort, data, part, its_noise)
        found = _of_logits(cohort, data, seen.logits.detach(), part)
        objective, feature = found.objective, None
        if cohort.features:
            assert cohort.feature_weights is not None
            feature = cohort.feature_weights * _feature_loss(cohort, seen.points, part)
            objective = objective + feature.detach()
        network, of_features = _back(cohort, seen, found.by_objective, feature)
        gained = [*network, *found.learned, *of_features]
        said = said + torch.stack([objective, found.ce, found.kd])
        grads = [a + b for a, b in zip(grads, gained, strict=True)] if grads else gained
        del seen, found, feature, network, of_features, gained  # the next part needs the memory
    if len(own) > 1:
        said, grads = said / len(own), [grad / len(own) for grad in grads]
    return said, grads


def pull(cohort: Cohort, data: Data, batch: Batch, noise: Tensor | None) -> Tensor:
    """How the parts pull at the networks: ratio of KD's gradient norm to CE's, their cosine, the feature form's ratio.

    `[3, students]`, not finite where a gradient is zero. A form that is warmed up is taken as it is when warm.
    """
    own = replace(batch, progress=1.0).parts(cohort.specs[0].micro_batch)
    ce, kd, feature = torch.zeros(3, *cohort.network.values.shape).to(cohort.network.values)
    for part, its_noise in zip(own, noise_of(own, noise), strict=True):
        seen = _forward(cohort, data, part, its_noise)
        found = _of_logits(cohort, data, seen.logits.detach(), part)
        ce = ce + _row(cohort, _back(cohort, seen, found.by_ce, keep=True)[0]) / len(own)
        kd = kd + _row(cohort, _back(cohort, seen, found.by_kd, keep=True)[0]) / len(own)
        if cohort.features:
            value, nothing = _feature_loss(cohort, seen.points, part), torch.zeros_like(found.by_ce)
            feature = feature + _row(cohort, _back(cohort, seen, nothing, value)[0]) / len(own)
    cohort.moved.clear()  # this was no step
    sizes = [torch.linalg.vector_norm(gradient, dim=1) for gradient in (ce, kd, feature)]
    return torch.stack([sizes[1] / sizes[0], (ce * kd).sum(1) / (sizes[0] * sizes[1]), sizes[2] / sizes[0]])


def noise_of(parts: Sequence[Batch], noise: Tensor | None) -> Sequence[Tensor | None]:
    """The noise of each part of a batch."""
    return [None] * len(parts) if noise is None else torch.chunk(noise, len(parts), dim=1)


def draw_noise(cohort: Cohort, sources: Mapping[int, torch.Generator], shape: Sequence[int]) -> Tensor | None:
    """Uniform numbers `[students, *shape]` that decide what is dropped, from each student's own seed; None without.

    Drawn on the CPU in float32, so that they are the same on every device and in every dtype.
    """
    if cohort.dropout is None:
        return None
    drawn = {seed: torch.rand(tuple(shape), generator=source) for seed, source in sources.items()}
    return torch.stack([drawn[spec.seed] for spec in cohort.specs]).to(cohort.network.values)


def noise_shape(cohort: Cohort, data: Data, batch_size: int) -> tuple[int, ...]:
    """The shape of what the last layer reads of a batch, `[batch, ..., features]`; empty where nothing is dropped."""
    if cohort.dropout is None:
        return ()
    assert data.family.parts is not None
    dtype = getattr(torch, cohort.specs[0].dtype)  # the inputs' own may be that of token numbers
    one = {name: view[0].detach().to(dtype) for name, view in cohort.network.views.items()}
    return batch_size, *data.family.parts.embed(one, data.views[:1])["embedding"].shape[1:]


@dataclass(frozen=True)
class _Seen:
    """Logits `[students, batch, ..., classes]`, feature points where a form needs them, and the way back from logits
    where autograd has no part in it."""

    logits: Tensor
    points: Mapping[str, Tensor]
    back: Back | None = None


def _forward(cohort: Cohort, data: Data, batch: Batch, noise: Tensor | None) -> _Seen:
    inputs = take(data.views, batch.rows) if batch.inputs is None else batch.inputs
    if noise is None and not cohort.features:
        if (found := by_hand(cohort, data, inputs)) is not None:
            return _Seen(found[0], {}, found[1])
        return _Seen(learn(cohort, data, inputs, f"{batch.epoch} {batch.progress!r} {batch.part}"), {})
    points = embed(cohort, data, inputs)
    embedding = points["embedding"]
    if noise is not None:
        assert cohort.dropout is not None
        rate = cohort.dropout.view(-1, *[1] * (noise.ndim - 1))
        embedding = embedding * ((noise >= rate) / (1 - rate))
    return _Seen(head(cohort, data, embedding), points)


def _of_logits(cohort: Cohort, data: Data, logits: Tensor, batch: Batch) -> AtLogits:
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
    spread = partial(_spread, cohort, run.members)
    given: dict[str, Tensor | float] = {}
    if "labels" in run.form.takes:
        given["labels"] = spread(truth)
    if "progress" in run.form.takes:
        given["progress"] = batch.progress
    if run.lessons.shared:
        place = run.lessons.tables.data_ptr()
        if place not in looked_up:
            looked_up[place] = take(run.lessons.tables[0], batch.rows).flatten(1, -2).mT.contiguous()
        found = looked_up[place]
        answers = found[:, None] if len(found) == len(logits) else found[None, run.members]
    else:
        answers = run.lessons.of(batch.epoch, batch.rows, spread).flatten(1, -2).mT.contiguous().view(logits.mT.shape)
    if (closed := gradients.closed(run.form)) is not None:
        knobs = {name: knob.view(logits.shape[:2]) for name, knob in run.knobs.items()}
        return ValueAndGrad(*closed(logits, answers.mT, **knobs, **given))
    learned = run.learned.views if run.learned is not None else {}
    own, theirs = (values.flatten(0, 1).mT for values in (logits.mT, answers.expand(logits.mT.shape)))
    return gradients.by_autograd(run.form, own, theirs, {**run.knobs, **given}, learned)


def _feature_loss(cohort: Cohort, points: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """Every student's feature loss, 0 for who has none: `[students]`."""
    found = torch.cat([_feature(cohort, run, points, batch) for run in cohort.features])
    places = torch.cat([run.places for run in cohort.features])
    return found.new_zeros(len(cohort.specs)).index_put((places,), found)


def _feature(cohort: Cohort, run: Run, points: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """The feature loss of a run, `[students of the run]`."""
    assert isinstance(run.form, FeatureForm)
    point = points[run.form.point]
    student = point.reshape(*cohort.grid, *point.shape[1:])[:, run.members].flatten(0, 1)
    answers = run.lessons.of(batch.epoch, batch.rows, partial(_spread, cohort, run.members))
    if run.form.point == "map":
        student, answers = _same_places(student, answers)
    elif student.ndim > 3:  # positions count as examples
        student, answers = student.flatten(1, -2), answers.flatten(1, -2)
    learned = run.learned.views if run.learned is not None else {}
    return run.form.function(student, answers, **run.knobs, **{n.rpartition(".")[2]: v for n, v in learned.items()})


def _spread(cohort: Cohort, members: slice, values: Tensor) -> Tensor:
    """To every student of a run what its group has: `[groups, ...]` -> `[students of the run, ...]`."""
    seeds = cohort.grid[0]
    if len(values) != seeds:
        return values[members]
    return values[:, None].expand(seeds, members.stop - members.start, *values.shape[1:]).flatten(0, 1)


def _same_places(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Feature maps `[students, batch, channels, *places]`, the finer averaged to the coarser: `[..., places]`."""
    size = [min(a, b) for a, b in zip(student.shape[3:], teacher.shape[3:], strict=True)]

    def pooled(maps: Tensor) -> Tensor:
        if list(maps.shape[3:]) == size:
            return maps.flatten(3)
        flat = maps.flatten(0, 1)
        smaller = (
            F.adaptive_avg_pool1d(flat, size[0]) if len(size) == 1 else F.adaptive_avg_pool2d(flat, (size[0], size[1]))
        )
        return smaller.view(*maps.shape[:3], -1)

    return pooled(student), pooled(teacher)


def _back(
    cohort: Cohort, seen: _Seen, by_logits: Tensor, feature: Tensor | None = None, *, keep: bool = False
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """The gradients at the network's views, and at those of what the feature forms learn.

    Of a value whose gradient at the logits is given, plus the sum of `feature`. They are 0 where it does not depend on
    a view: a user's module may have parameters that it does not use.
    """
    if seen.back is not None:
        with torch.no_grad():
            return seen.back(by_logits), []
    own = list(cohort.network.views.values())
    values, by, wanted = [seen.logits], [by_logits], own
    if feature is not None:
        values, by = [seen.logits, feature], [by_logits, torch.ones_like(feature)]
        learned = [run.learned for run in cohort.features if run.learned is not None]
        wanted = [*own, *(view for flat in learned for view in flat.views.values())]
    grads = torch.autograd.grad(values, wanted, by, retain_graph=keep, allow_unused=True, materialize_grads=True)
    return grads[: len(own)], grads[len(own) :]


def _row(cohort: Cohort, grads: Sequence[Tensor]) -> Tensor:
    """The gradient at every student's network in one row, `[students, numbers]`; 0 where nothing is learned."""
    found = torch.cat([grad.reshape(len(grad), -1) for grad in grads], dim=1)
    return found if cohort.still is None else found.masked_fill(cohort.still, 0)
