"""The students' objective on a batch, and how its parts pull: cross-entropy, distillation loss, feature loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from harness import losses
from harness.batches import labelled_in_batch
from harness.cohort.data import Data, take
from harness.cohort.forward import embed, head, learn
from harness.cohort.stack import Cohort, Run
from harness.losses import FeatureForm


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
class Parts:
    """The objective and what it is made of, each `[students]`; `kd` and `feature` are 0 for who has none."""

    objective: Tensor
    ce: Tensor
    kd: Tensor
    feature: Tensor | None


def parts(cohort: Cohort, data: Data, batch: Batch, noise: Tensor | None) -> Parts:
    """Every part of the objective. `noise` `[students, batch, ..., features]`, uniform, decides what is dropped."""
    logits, points = _forward(cohort, data, batch, noise)
    ce, kd, objective = _of_logits(cohort, data, logits, batch)
    if not cohort.features:
        return Parts(objective, ce, kd, None)
    feature = torch.zeros_like(ce).index_put(
        (torch.cat([run.places for run in cohort.features]),),
        torch.cat([_feature(cohort, run, points, batch) for run in cohort.features]),
    )
    assert cohort.feature_weights is not None
    return Parts(objective + cohort.feature_weights * feature, ce, kd, feature)


def _of_logits(cohort: Cohort, data: Data, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy, distillation loss and their weighted sum, each `[students]`.

    Where not all examples have a label, those of a batch that do stand first; alpha is 0 for the others: each part is
    weighed by its share of the batch.
    """
    labelled = labelled_in_batch(data.task.train, batch.rows.shape[1])
    first = batch if labelled is None else replace(batch, rows=batch.rows[:, :labelled])
    own = _classes_first(logits[:, :labelled].flatten(1, -2))  # positions, where there are several, count as examples
    truth = take(data.labels["train"], first.rows % len(data.labels["train"])).flatten(1)
    ce = losses.cross_entropy(own, _spread(cohort, slice(0, cohort.grid[1]), truth), cohort.smoothing)
    kd = _kd(cohort, own, truth, first)
    objective = cohort.weights[0] * ce + cohort.weights[1] * kd
    if labelled is None:
        return ce, kd, objective
    rest = replace(batch, rows=batch.rows[:, labelled:])
    other = _kd(cohort, _classes_first(logits[:, labelled:].flatten(1, -2)), truth, rest)
    share = labelled / batch.rows.shape[1]
    whole = share * objective + (1 - share) * cohort.weights[2] * other
    return ce, share * kd + (1 - share) * other, whole


def pull(cohort: Cohort, data: Data, batch: Batch, noise: Tensor | None) -> Tensor:
    """How the parts pull at the networks: ratio of KD's gradient norm to CE's, their cosine, the feature form's ratio.

    `[3, students]`, not finite where a gradient is zero. A form that is warmed up is taken as it is when warm.
    """
    own = replace(batch, progress=1.0).parts(cohort.specs[0].micro_batch)
    ce, kd, feature = torch.zeros(3, *cohort.network.values.shape).to(cohort.network.values)
    for part, its_noise in zip(own, noise_of(own, noise), strict=True):
        found = parts(cohort, data, part, its_noise)
        ce = ce + _gradient(cohort, found.ce) / len(own)
        kd = kd + _gradient(cohort, found.kd) / len(own)
        if found.feature is not None:
            feature = feature + _gradient(cohort, found.feature) / len(own)
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


def _forward(cohort: Cohort, data: Data, batch: Batch, noise: Tensor | None) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Logits `[students, batch, ..., classes]`, and feature points where a form needs them."""
    inputs = take(data.views, batch.rows) if batch.inputs is None else batch.inputs
    if noise is None and not cohort.features:
        return learn(cohort, data, inputs, f"{batch.epoch} {batch.progress!r} {batch.part}"), {}
    points = embed(cohort, data, inputs)
    embedding = points["embedding"]
    if noise is not None:
        assert cohort.dropout is not None
        rate = cohort.dropout.view(-1, *[1] * (noise.ndim - 1))
        embedding = embedding * ((noise >= rate) / (1 - rate))
    return head(cohort, data, embedding), points


def _kd(cohort: Cohort, logits: Tensor, truth: Tensor, batch: Batch) -> Tensor:
    """Every student's distillation loss, 0 for plain training: `[students]`. `truth` are the groups' labels."""
    seeds, size = cohort.grid
    by_seed = logits.mT.view(*cohort.grid, *logits.mT.shape[1:])
    found: list[Tensor] = []  # by run, [seeds, students of a seed]
    looked_up: dict[int, Tensor] = {}  # what a teacher of several runs says to each group
    lengths = [members.stop - members.start for members, _ in cohort.forms]
    for (members, run), own in zip(cohort.forms, torch.split(by_seed, lengths, dim=1), strict=True):
        if run is None:
            found.append(logits.new_zeros(seeds, members.stop - members.start))
        else:
            found.append(_of_run(cohort, run, own.flatten(0, 1).mT, truth, batch, looked_up).view(seeds, -1))
    return torch.cat(found, dim=1).view(seeds * size)


def _of_run(
    cohort: Cohort, run: Run, logits: Tensor, truth: Tensor, batch: Batch, looked_up: dict[int, Tensor]
) -> Tensor:
    """The distillation loss of a run, `[students of the run]`, of its logits."""
    assert not isinstance(run.form, FeatureForm)
    given: dict[str, Tensor | float] = dict(run.knobs)
    if "labels" in run.form.takes:
        given["labels"] = _spread(cohort, run.members, truth)
    if "progress" in run.form.takes:
        given["progress"] = batch.progress
    if run.learned is not None:
        given |= run.learned.views
    spread = partial(_spread, cohort, run.members)
    if run.lessons.shared:
        place = run.lessons.tables.data_ptr()
        if place not in looked_up:
            looked_up[place] = take(run.lessons.tables[0], batch.rows).flatten(1, -2).mT.contiguous()
        answers = spread(looked_up[place]).mT
    else:
        answers = _classes_first(run.lessons.of(batch.epoch, batch.rows, spread).flatten(1, -2))
    found: Tensor = run.form.function(logits, answers, **given)
    return found


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


def _classes_first(logits: Tensor) -> Tensor:
    """The same logits `[..., batch, classes]`, in memory `[..., classes, batch]`: sums over ten classes are slow."""
    return logits.mT.contiguous().mT


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


def _gradient(cohort: Cohort, values: Tensor) -> Tensor:
    """The gradient of every student's value to its network, `[students, numbers]`; 0 where it does not depend on it."""
    views = list(cohort.network.views.values())
    if not values.requires_grad:
        return torch.zeros_like(cohort.network.values)
    grads = torch.autograd.grad(values.sum(), views, retain_graph=True, allow_unused=True)
    filled = [torch.zeros_like(view) if grad is None else grad for view, grad in zip(views, grads, strict=True)]
    found = torch.cat([grad.reshape(len(grad), -1) for grad in filled], dim=1)
    return found if cohort.still is None else found.masked_fill(cohort.still, 0)
