"""The students' objective on a batch, and how its parts pull: cross-entropy, distillation loss, feature loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.cohort.at_logits import at_logits, labelled_share, spread
from harness.cohort.batch import Batch, noise_of
from harness.cohort.data import Data, take
from harness.cohort.forward import by_hand, embed, head, learn
from harness.cohort.stack import Cohort, Run
from harness.losses import FeatureForm
from harness.models.family import Back


def descend(cohort: Cohort, data: Data, batch: Batch, noise: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    """Objective, CE and KD on a batch, `[3, students]`, and the objective's gradients, added up over the batch's parts.

    The gradients are those at the network's views, then those at the views of each of `Cohort.learned`. `noise`
    `[students, batch, ..., features]`, uniform, decides what is dropped.
    """
    own = batch.parts(cohort.specs[0].micro_batch)
    said, grads = torch.zeros((), device=cohort.network.values.device), list[Tensor]()
    for part, its_noise in zip(own, noise_of(own, noise), strict=True):
        seen = _forward(cohort, data, part, its_noise)
        with torch.inference_mode(cohort.is_closed and seen.back is not None):  # a tenth of a small step is autograd's
            found = at_logits(cohort, data, seen.logits.detach(), part, cohort.weights)
        objective, feature = found.objective, None
        if cohort.features:
            assert cohort.feature_weights is not None
            feature = cohort.feature_weights * _feature_loss(cohort, seen.points, part)
            objective = objective + feature.detach()
        network, of_features = _back(cohort, seen, found.grad, feature)
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
    parts = replace(batch, progress=1.0).parts(cohort.specs[0].micro_batch)
    ce, kd, feature = torch.zeros(3, *cohort.network.values.shape).to(cohort.network.values)
    ce_alone = torch.zeros_like(cohort.weights)
    ce_alone[0] = 1
    kd_alone = 1 - ce_alone
    for part, its_noise in zip(parts, noise_of(parts, noise), strict=True):
        seen = _forward(cohort, data, part, its_noise)
        weights = ce_alone / labelled_share(data, part), kd_alone  # of the labels as their own mean
        of_ce, of_kd = (at_logits(cohort, data, seen.logits.detach(), part, each).grad for each in weights)
        ce = ce + _row(cohort, _back(cohort, seen, of_ce, keep=True)[0]) / len(parts)
        kd = kd + _row(cohort, _back(cohort, seen, of_kd, keep=True)[0]) / len(parts)
        if cohort.features:
            value, nothing = _feature_loss(cohort, seen.points, part), torch.zeros_like(of_ce)
            feature = feature + _row(cohort, _back(cohort, seen, nothing, value)[0]) / len(parts)
    cohort.moved.clear()  # this was no step
    sizes = [torch.linalg.vector_norm(gradient, dim=1) for gradient in (ce, kd, feature)]
    return torch.stack([sizes[1] / sizes[0], (ce * kd).sum(1) / (sizes[0] * sizes[1]), sizes[2] / sizes[0]])


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
    answers = run.lessons.of(batch.epoch, batch.rows, partial(spread, cohort, run.members))
    if run.form.point == "map":
        student, answers = _same_places(student, answers)
    elif student.ndim > 3:  # positions count as examples
        student, answers = student.flatten(1, -2), answers.flatten(1, -2)
    learned = run.learned.views if run.learned is not None else {}
    return run.form.function(student, answers, **run.knobs, **{n.rpartition(".")[2]: v for n, v in learned.items()})


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
        with torch.inference_mode():
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
