"""Students side by side: all parameters in one tensor, and one number a student of every knob.

Narrower students stand padded with zeros inside tensors of the widest one's size. Where every trial has the same
seeds, students stand seed by seed and within a seed in the same order: those of one seed see the same inputs, which
are then gathered once for all of them. They are the group that `Batch.rows` speaks of; without that order every
student is a group of its own.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from harness import losses, optimisers
from harness.cohort.data import Data, Lessons, exact, lessons
from harness.forms import Form
from harness.losses import FeatureForm, gradients
from harness.models.family import Family, Layer, init, pad, start
from harness.seeds import generator
from harness.spec import NONE, PLAIN, StudentSpec
from harness.targets import Targets
from harness.tasks import Task
from harness.tasks.fits import sample_of


@dataclass(frozen=True)
class Flat:
    """Parameters of several students: `values` `[students, numbers]`, and `views` of it by name, `[students, ...]`."""

    values: Tensor
    views: Mapping[str, Tensor]


@dataclass(frozen=True)
class Run:
    """The students that share a loss form, or a feature form: what they compute, and with what.

    They are neighbours within each seed: `members` is where among its students, `places` `[students of the run]` where
    in the cohort. `knobs` are `[students of the run]` each; `learned` are the form's own parameters, a student's own,
    or None. `closed` is the closed form of a loss form that has one.
    """

    form: Form | FeatureForm
    members: slice
    places: Tensor
    lessons: Lessons
    knobs: Mapping[str, Tensor]
    learned: Flat | None
    closed: gradients.Closed | None


@dataclass(frozen=True)
class Kin:
    """Runs of loss forms, neighbours as `members` says, whose closed forms are made of the same: of both softmaxes at a
    `temperature` `[seeds, students of a seed]`, or of how far logits are apart. `lessons` are those of all, or None.

    A form that has no closed one is a run by itself; plain training has none.
    """

    members: slice
    runs: tuple[Run, ...]
    temperature: Tensor | None
    lessons: Lessons | None


@dataclass(frozen=True)
class Cohort:
    """Students stacked on a leading axis. A `None` says that no student of the cohort has it."""

    specs: Sequence[StudentSpec]
    width: int  # of the networks that the students stand in
    looped: bool  # a family that takes one network at a time is called for one student after the other
    grid: tuple[int, int]  # seeds, students of a seed; 1, students where they do not stand seed by seed
    group_seeds: tuple[int, ...]  # the seed of each group of students who see the same
    network: Flat
    hyper: optimisers.Hyper
    weights: Tensor  # [3, students]: of cross-entropy, of the distillation loss, of the latter without a label
    forms: tuple[Kin, ...]  # in order over a seed's students
    features: tuple[Run, ...]
    feature_weights: Tensor | None  # [students]
    smoothing: Tensor | None  # [students]
    dropout: Tensor | None  # [students]
    clip_norm: Tensor | None  # [students, 1], infinite where there is none
    still: Tensor | None  # [numbers], True for those of a network that no gradient moves
    alone: str  # why the only student is a module that is trained by itself; empty where it is not
    moved: dict[str, Tensor] = field(default_factory=dict)  # such a module's buffers as the step at hand left them

    @property
    def is_closed(self) -> bool:
        """Whether every form has a closed one."""
        return all(run.closed is not None for kin in self.forms for run in kin.runs)

    @property
    def learned(self) -> tuple[Run, ...]:
        """The runs whose forms have parameters of their own."""
        runs = (*(run for kin in self.forms for run in kin.runs), *self.features)
        return tuple(run for run in runs if run.learned is not None)


def stack(
    specs: Sequence[StudentSpec],
    data: Data,
    teachers: Sequence[Targets | None],
    device: str,
    *,
    padded: bool,
    looped: bool = False,
) -> Cohort:
    """Every student initialised from its own seed, side by side; `teachers` has None for plain training.

    `padded` says that they may stand inside a wider network. They do even alone, see `Family.stands_in`.
    """
    dtype = exact(specs[0])
    grid, group_seeds = _grid(specs)
    of_a_seed = specs[: grid[1]]

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)

    def some(name: str) -> Tensor | None:
        values = [getattr(spec, name) for spec in specs]
        return column(values) if any(values) else None

    clip = some("clip_norm")
    width = max(spec.width for spec in specs)
    if padded:
        width = data.family.stands_in(width)
    network = _flat(_starts(specs, data, width), dtype, device)
    forms = _runs([(spec.form, spec.teacher == "online") for spec in of_a_seed])
    compared = [_compared(spec, targets) for spec, targets in zip(of_a_seed, teachers, strict=False)]
    features = [members for members in _runs(compared) if specs[members.start].feature != NONE]

    def places(members: slice) -> list[int]:
        return [seed * grid[1] + place for seed in range(grid[0]) for place in range(members.start, members.stop)]

    def run(form: Form | FeatureForm, name: str, members: slice, learned: Flat | None) -> Run:
        own = places(members)
        knobs = {knob: column([_knob(specs[place], name, knob) for place in own]) for knob in form.knobs}
        taught = [targets for place in own if (targets := teachers[place]) is not None]
        point = form.point if isinstance(form, FeatureForm) else None
        at = torch.tensor(own, device=device)
        closed = gradients.closed(form) if isinstance(form, Form) else None
        return Run(form, members, at, lessons(taught, point, device, dtype), knobs, learned, closed)

    def of_form(members: slice) -> Run | None:
        spec = specs[members.start]
        if spec.form == PLAIN:
            return None
        form = losses.find_form(spec)
        rows = [{n: torch.tensor(v, dtype=torch.float64) for n, v in form.learned.items()} for _ in places(members)]
        return run(form, spec.form, members, _flat(rows, dtype, device) if form.learned else None)

    def of_feature(members: slice) -> Run:
        spec = specs[members.start]
        form = losses.FEATURES[spec.feature]
        layers = _learned_layers(form, data, spec, teachers[members.start])
        rows = [start(layers, generator(specs[place].seed, spec.feature)) for place in places(members)]
        return run(form, spec.feature, members, _flat(rows, dtype, device) if layers else None)

    return Cohort(
        specs,
        width,
        looped,
        grid,
        group_seeds,
        network,
        optimisers.Hyper(
            lr=column([spec.lr for spec in specs])[:, None],
            weight_decay=column([spec.weight_decay for spec in specs])[:, None],
            momentum=column([spec.momentum for spec in specs])[:, None],
        ),
        weights=column([w for spec in specs for w in (*losses.weights(spec), losses.unlabelled_weight(spec))])
        .view(-1, 3)
        .T,
        forms=_kin([(members, of_form(members)) for members in forms], grid[0]),
        features=tuple(of_feature(members) for members in features),
        feature_weights=some("feature_weight"),
        smoothing=some("label_smoothing"),
        dropout=some("dropout"),
        clip_norm=None if clip is None else torch.where(clip > 0, clip, torch.inf)[:, None],
        still=_still(data.family.layers(width, data.task.input_shape, data.task.num_classes), device),
        alone=alone(data.family, width, data.task),
    )


@lru_cache(maxsize=256)
def alone(family: Family, width: int, task: Task) -> str:
    """Why networks of the family are trained one at a time; empty where they are not."""
    return "" if family.alone is None else family.alone(width, sample_of(family, task))


def _kin(forms: Sequence[tuple[slice, Run | None]], seeds: int) -> tuple[Kin, ...]:
    """The runs of a cohort's forms, None for plain training, with their neighbours."""

    def base_of(turn: int) -> tuple[Any, int]:
        run = forms[turn][1]
        return (run.closed.base, -1) if run is not None and run.closed is not None else (None, turn)

    found = []
    for (base, _), turns in groupby(range(len(forms)), key=base_of):
        own = [forms[turn] for turn in turns]
        runs = tuple(run for _, run in own if run is not None)
        soft = [run.knobs["temperature"].view(seeds, -1) for run in runs] if base is gradients.Softened else None
        tables = {run.lessons.tables.data_ptr() if run.lessons.shared else id(run) for run in runs}
        found.append(
            Kin(
                slice(own[0][0].start, own[-1][0].stop),
                runs,
                None if soft is None else torch.cat(soft, dim=1),
                runs[0].lessons if len(tables) == 1 else None,
            )
        )
    return tuple(found)


def _still(layers: Mapping[str, Layer], device: str) -> Tensor | None:
    """Which numbers of a network are not learned, `[numbers]`; None where all are."""
    if not any(layer.buffer or layer.frozen for layer in layers.values()):
        return None
    own = [torch.full((math.prod(layer.shape),), layer.buffer or layer.frozen) for layer in layers.values()]
    return torch.cat(own).to(device)


def _grid(specs: Sequence[StudentSpec]) -> tuple[tuple[int, int], tuple[int, ...]]:
    """`Cohort.grid` and `Cohort.group_seeds` of students in this order."""
    seeds = tuple(dict.fromkeys(spec.seed for spec in specs))
    size = len(specs) // len(seeds)
    twins = [replace(spec, seed=seed) for seed in seeds for spec in specs[:size]]
    return ((len(seeds), size), seeds) if list(specs) == twins else ((1, len(specs)), tuple(s.seed for s in specs))


def _starts(specs: Sequence[StudentSpec], data: Data, widest: int) -> list[dict[str, Tensor]]:
    """Every student's first parameters, drawn at its own width, and padded to the cohort's."""
    task, family = data.task, data.family
    shape = task.input_shape, task.num_classes
    found = {}
    for seed, width in {(spec.seed, spec.width) for spec in specs}:
        own = init(family, width, *shape, generator(seed, "init"))
        if width < widest:
            own = pad(own, family.layers(width, *shape), family.layers(widest, *shape))
        found[seed, width] = own
    return [found[spec.seed, spec.width] for spec in specs]


def _knob(spec: StudentSpec, form: str, knob: str) -> float:
    if knob == "temperature":
        assert spec.temperature is not None
        return spec.temperature
    return dict(spec.knobs)[f"{form}.{knob}"]


def _compared(spec: StudentSpec, targets: Targets | None) -> Hashable:
    """What the students of one run of a feature form share: its name, and the size of their teachers' points."""
    if spec.feature == NONE or targets is None:
        return NONE
    return spec.feature, targets.points[losses.FEATURES[spec.feature].point].shape


def _runs(names: Sequence[Hashable]) -> list[slice]:
    """The places of neighbours of one name."""
    groups = [[place for place, _ in group] for _, group in groupby(enumerate(names), key=lambda item: item[1])]
    return [slice(group[0], group[-1] + 1) for group in groups]


def _flat(rows: Sequence[Mapping[str, Tensor]], dtype: torch.dtype, device: str) -> Flat:
    """Each student's tensors by name, all in one row a student; the views share its memory."""
    values = torch.stack([torch.cat([tensor.flatten() for tensor in row.values()]) for row in rows]).to(device, dtype)
    views, offset = {}, 0
    for name, tensor in rows[0].items():
        part = values[:, offset : offset + tensor.numel()].view(-1, *tensor.shape)
        views[name] = part.detach().requires_grad_()  # shares the memory of `values`, which the optimiser writes
        offset += tensor.numel()
    return Flat(values, views)


def _learned_layers(form: FeatureForm, data: Data, spec: StudentSpec, targets: Targets | None) -> Mapping[str, Layer]:
    """The form's own parameters, for the sizes of the student's and the teacher's feature point."""
    if form.learned is None:
        return {}
    assert data.family.parts is not None and targets is not None
    first = start(
        data.family.layers(spec.width, data.task.input_shape, data.task.num_classes), generator(spec.seed, "init")
    )
    seen, dtype = data.views[:1], getattr(torch, spec.dtype)  # the inputs' own may be that of token numbers
    point = data.family.parts.embed({n: p.to(seen.device, dtype) for n, p in first.items()}, seen)[form.point]
    axis = 1 if form.point == "map" else -1
    return form.learned(point.shape[axis], targets.points[form.point].shape[axis])
