"""What a student is: everything its record may depend on, with what each of it may be.

A new knob of training is a new field of `StudentSpec` with a default. With `harness.records`, which says what training
one gives back, it is all that passes between the driver and the distillation core.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from harness.values import Range, is_number

PLAIN = "ce"
"""The form of a student trained without a teacher: cross-entropy alone."""

MIXINGS = ("convex", "additive")
OPTIMISERS = ("adamw", "adam", "sgd")
SCHEDULES = ("cosine", "constant")
DTYPES = ("float32", "float64", "bfloat16")
"""Of the networks; beside bfloat16 ones parameters, losses and the optimiser stand in float32."""
NONE = "none"
"""No feature form, no assistants, no transform."""
TEACHERS = ("offline", "online", "assistant", "self", "uniform", "shuffled", "shuffled_in_class")
"""Where a student's teacher comes from; see `StudentSpec.teacher`."""
WORDS = ("task", "family", "form", "feature", "form_file", "assistants", "transform")
"""The fields of a `StudentSpec` that are text, beside those of `CHOICES`."""


@dataclass(frozen=True)
class StudentSpec:
    """One student: everything its record may depend on. 0 turns a number off where that makes sense.

    The objective. `alpha` weighs the hard labels as in the source article: `alpha * CE + (1 - alpha) * KD` under
    `mixing="convex"`; under `mixing="additive"` (the article's code) it is `CE + alpha * KD`. `loss_scale` multiplies
    either. `form` names a loss form of `harness.losses.LOSSES` or one of the file `form_file`, or is `"ce"` for plain
    training, which takes neither a teacher nor an alpha. `knobs` are the forms' own: `("dkd.rest", 8.0)`. `feature`
    names a feature form, whose loss is added `feature_weight` times.

    The teacher. `"offline"`: the task's, trained first. `"online"`: one that takes a step whenever the student does, on
    the same batch. `"assistant"`: the last of a chain of students of the widths in `assistants` (`"16>8"`), each taught
    by the one before, the first by the task's. `"self"`: a plainly trained twin. `"uniform"`, `"shuffled"` and
    `"shuffled_in_class"` are controls: no knowledge, that of any other example, that of another of the same class.
    `teacher_width` is another width of the task's teacher, `teacher_epochs` an early-stopped checkpoint of it.

    Training. `warmup` is the share of all steps over which lr rises from 0. `clip_norm` bounds each student's gradient.
    `dropout` falls on what the last layer reads. `patience` stops a student whose val loss has not fallen for so many
    epochs, and gives it back its best epoch. `views` fixed views of every example, the first of them the example
    itself, are made by the task's `transform`; teacher and student see the same. `dtype` `"bfloat16"` is mixed
    precision: the networks in bfloat16, everything else in float32. A step's batch is taken in parts of `micro_batch`
    examples, 0 for at once, whose gradients are added up: less memory, and forms that compare the examples of a batch
    see those of a part. Raises `ValueError` for a value outside its range,
    and for knobs that contradict each other.
    """

    task: str
    family: str
    width: int
    seed: int
    form: str
    alpha: float = 0.1
    temperature: float | None = None
    knobs: tuple[tuple[str, float], ...] = ()
    mixing: str = "convex"
    loss_scale: float = 1.0
    feature: str = NONE
    feature_weight: float = 0.0
    form_file: str = ""
    teacher: str = "offline"
    teacher_width: int = 0
    teacher_epochs: int = 0
    assistants: str = NONE
    optimiser: str = "adamw"
    lr: float = 1e-2
    weight_decay: float = 0.0
    momentum: float = 0.9
    schedule: str = "cosine"
    warmup: float = 0.0
    clip_norm: float = 0.0
    dropout: float = 0.0
    label_smoothing: float = 0.0
    patience: int = 0
    transform: str = NONE
    views: int = 1
    epochs: int = 12
    batch_size: int = 64
    micro_batch: int = 0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in WORDS:
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} {getattr(self, name)!r} must be text")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; choices are {', '.join(choices)}")
        for name in RANGES:
            check_range(name, getattr(self, name))
        if not isinstance(self.knobs, tuple) or not all(_is_knob(knob) for knob in self.knobs):
            raise ValueError(f"knobs {self.knobs!r} must be pairs of a name and a number")
        for problem in self._contradictions():
            raise ValueError(problem)

    def _contradictions(self) -> Iterator[str]:
        if self.form == PLAIN and (self.alpha != 1 or self.temperature is not None or self.knobs):
            yield f"form {PLAIN!r} is plain training: alpha is 1, and there is no temperature or other knob of a form"
        if self.form == PLAIN and (self.teacher != "offline" or self.feature != NONE or self.loss_scale != 1):
            yield f"form {PLAIN!r} is plain training: it takes no teacher, no feature form and no loss_scale"
        if (self.feature != NONE) != (self.feature_weight > 0):
            yield f"feature {self.feature!r} with feature_weight {self.feature_weight:g}: one needs the other"
        if (self.teacher == "assistant") != (self.assistants != NONE):
            yield f"teacher {self.teacher!r} with assistants {self.assistants!r}: 'assistant' needs widths, as '16>8'"
        if self.assistants != NONE:
            self.assistant_widths  # noqa: B018 - raises where they cannot be read
        if self.teacher_width and self.teacher in ("self", "uniform"):
            yield f"teacher {self.teacher!r} takes no teacher_width: it is no network of the task's teacher"
        if self.teacher_epochs and self.teacher in ("self", "uniform", "online"):
            yield f"teacher {self.teacher!r} takes no teacher_epochs: it is not trained beforehand"
        if self.feature != NONE and self.teacher in ("online", "uniform"):
            yield (
                f"feature {self.feature!r} needs a network trained beforehand, not teacher {self.teacher!r}; "
                "give the feature a condition on the teacher, when={'teacher': ('offline',)}"
            )
        if self.micro_batch and self.batch_size % self.micro_batch:
            yield f"micro_batch {self.micro_batch} must divide the batch_size {self.batch_size}, or be 0"
        if (self.transform != NONE) != (self.views > 1):
            yield f"transform {self.transform!r} with views {self.views}: a transform needs at least 2 views"

    @property
    def assistant_widths(self) -> tuple[int, ...]:
        """The widths of the chain between the task's teacher and the student. Raises `ValueError` where unreadable."""
        if self.assistants == NONE:
            return ()
        if not re.fullmatch(r"[1-9]\d{0,5}(>[1-9]\d{0,5})*", self.assistants, re.A):
            raise ValueError(f"assistants {self.assistants!r} must be widths parted by '>', as '16>8', or {NONE!r}")
        return tuple(int(part) for part in self.assistants.split(">"))

    @property
    def may_be_padded(self) -> bool:
        """Whether the student is the same inside a wider network: not where features are compared or dropped."""
        return self.feature == NONE and not self.dropout

    @property
    def cohort_key(self) -> tuple[str | int, ...]:
        """What students must have in common to be trained as one fused job.

        Students of other widths may, where the family pads.
        """
        shape = (self.task, self.family, 0 if self.may_be_padded else self.width, self.dtype, self.form_file)
        return (*shape, self.optimiser, self.epochs, self.batch_size, self.micro_batch, self.transform, self.views)


def by_lesson(specs: Iterable[StudentSpec]) -> dict[tuple[str | int, ...], StudentSpec]:
    """One of the students for each thing that is made of a teacher ahead of them: logits, views and features, or the
    path of one that learns online. Plain students need nothing, nor do those of a uniform teacher or their own twin.
    """
    found: dict[tuple[str | int, ...], StudentSpec] = {}
    for spec in specs:
        online = (spec.seed, spec.epochs, spec.batch_size) if spec.teacher == "online" else ()
        if spec.form != PLAIN and spec.teacher not in ("uniform", "self"):
            source = spec.teacher_width, spec.teacher_epochs
            found[(*source, spec.transform, spec.views, spec.feature != NONE, *online)] = spec
    return found


def _is_knob(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str) and is_number(value[1])


CHOICES: Mapping[str, tuple[str, ...]] = {
    "mixing": MIXINGS,
    "optimiser": OPTIMISERS,
    "schedule": SCHEDULES,
    "dtype": DTYPES,
    "teacher": TEACHERS,
}
"""The words that a knob of a `StudentSpec` may be, where that depends on nothing else."""

RANGES: Mapping[str, Range] = {
    "width": Range(1, whole=True),
    "alpha": Range(0, 1),
    "temperature": Range(0, open_low=True),
    "loss_scale": Range(0, open_low=True),
    "feature_weight": Range(0),
    "teacher_width": Range(0, whole=True),
    "teacher_epochs": Range(0, whole=True),
    "lr": Range(0, open_low=True),
    "weight_decay": Range(0),
    "momentum": Range(0, 0.9999),
    "warmup": Range(0, 1),
    "clip_norm": Range(0),
    "dropout": Range(0, 0.95),
    "label_smoothing": Range(0, 0.9999),
    "patience": Range(0, whole=True),
    "views": Range(1, whole=True),
    "epochs": Range(1, whole=True),
    "batch_size": Range(1, whole=True),
    "micro_batch": Range(0, whole=True),
    "seed": Range(0, 2**63 - 1, whole=True),
}
"""What each number of a `StudentSpec` may be."""


def check_range(name: str, value: object, whose: str = "") -> None:
    """Raise `ValueError` unless `value` is one that the knob `name` may take; a missing temperature is fine."""
    if name == "temperature" and value is None:
        return
    if name in RANGES and not RANGES[name].admits(value):
        raise ValueError(f"{whose}{name} {value!r} is out of range; it must be {RANGES[name]}")


def spec_from_json(data: Any) -> StudentSpec:
    """The `StudentSpec` that `to_json` wrote. Raises `ValueError` for a field that is missing, unknown or no value."""
    if not isinstance(data, Mapping):
        raise ValueError(f"not a student spec: {type(data).__name__}")
    names = StudentSpec.__dataclass_fields__.keys()
    if unknown := set(map(str, data)) - names:
        raise ValueError(f"unknown field {min(unknown)!r} of a student; fields are {', '.join(sorted(names))}")
    try:
        knobs = tuple((name, float(v) if is_number(v) else v) for name, v in data.get("knobs", ()))
        return StudentSpec(**{**data, "knobs": knobs})
    except (TypeError, ValueError) as error:
        raise ValueError(f"not a student spec: {error}") from None
