"""What a student is (`StudentSpec`) and what training one gives back (`Record`), as JSON both ways.

These are the only things that pass between the driver and the distillation core. A new knob of training is a new
field of `StudentSpec` with a default; a new measurement is a new key of `Record.metrics`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

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
VAL_METRICS = ("val_accuracy", "val_loss", "val_agreement", "val_kl")
"""What a record measures on the validation split."""
STATUSES = ("ok", "diverged", "pruned")
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


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether the value is a finite number that a float can hold; a truth value is none."""
    if type(value) is float:  # almost always, and ten thousand trials have millions
        return math.isfinite(value)
    most = sys.float_info.max
    return not isinstance(value, bool) and isinstance(value, int | float) and -most <= value <= most


def _is_knob(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str) and is_number(value[1])


@dataclass(frozen=True)
class Range:
    """The values a number may take: `low` and `high` are included unless `open_low`."""

    low: float
    high: float = math.inf
    open_low: bool = False
    whole: bool = False

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        if self.high < math.inf:
            return f"{kind} from {self.low:g} to {self.high:g}"
        return f"{kind} {'above' if self.open_low else 'of at least'} {self.low:g}"

    def admits(self, value: object) -> bool:
        if not is_number(value) or (self.whole and (not isinstance(value, int) or value >= 2**63)):
            return False
        return (value > self.low if self.open_low else value >= self.low) and value <= self.high


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
SIZE = Range(0, 2**53, whole=True)
"""What a count of parameters, operations or students may be."""


def check_range(name: str, value: object, whose: str = "") -> None:
    """Raise `ValueError` unless `value` is one that the knob `name` may take; a missing temperature is fine."""
    if name == "temperature" and value is None:
        return
    if name in RANGES and not RANGES[name].admits(value):
        raise ValueError(f"{whose}{name} {value!r} is out of range; it must be {RANGES[name]}")


@dataclass(frozen=True)
class Curve:
    """One value an epoch. `train_kd` is empty for plain training; `val_loss` is cross-entropy on the labels.

    The train columns are means over the epoch's batches, taken before each step; the others are measured after the
    epoch's last step. `test_accuracy` is there in the confirm stage alone, where nothing is chosen by it: it says what
    choosing an epoch by the test split would have claimed.
    """

    train_loss: tuple[float, ...] = ()
    train_ce: tuple[float, ...] = ()
    train_kd: tuple[float, ...] = ()
    val_loss: tuple[float, ...] = ()
    val_accuracy: tuple[float, ...] = ()
    test_accuracy: tuple[float, ...] = ()


@dataclass(frozen=True)
class Cost:
    """What a student cost. Unlike the rest of a record this depends on the machine and on the cohort.

    `seconds` is the student's share of its cohort's wall-clock; `train_flops` counts two per multiply-accumulate and
    three passes (forward, and backward to activations and weights).
    """

    seconds: float = 0.0
    train_flops: float = 0.0
    cohort_size: int = 1
    device: str = "cpu"


@dataclass(frozen=True)
class Balance:
    """How the distillation loss pulls beside cross-entropy: at the first step, a middle one and the last.

    `kd_ratio` is the norm of the distillation loss's gradient over that of cross-entropy's, before alpha, any warm-up
    done; `kd_cosine` is the angle between the two. `feature_ratio` is that of the feature form. Empty for what a
    student does not have; null in JSON where a gradient is zero or not finite. One alpha does not mean the same under
    two forms whose ratios differ.
    """

    kd_ratio: tuple[float | None, ...] = ()
    kd_cosine: tuple[float | None, ...] = ()
    feature_ratio: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Record:
    """What training one student gave: `status` is `"ok"`, `"diverged"` or `"pruned"`.

    A diverged student has learnt nothing, so its `metrics` are those of a uniform guess: finite, and comparable. Its
    curve ends with the last epoch whose numbers were finite. `metrics` names the split first: `val_accuracy`,
    `val_loss`, `val_agreement` and `val_kl` (with the task's own teacher, whoever taught the student, at temperature
    1), `train_accuracy`, `train_loss`, `val_ece` (expected calibration error, 15 bins) and
    `val_brier`; in the confirm stage `test_accuracy`, `test_loss` and the like too. A student that stopped early has a
    shorter curve, and the metrics of its best epoch. A pruned one was stopped at a rung with its trial, and has the
    metrics it had there.
    """

    spec: StudentSpec
    status: str
    curve: Curve
    metrics: Mapping[str, float]
    num_params: int
    macs: int
    cost: Cost = field(default_factory=Cost)
    balance: Balance = field(default_factory=Balance)

    def value(self, name: str) -> float:
        """The measurement called `name`: a metric, `num_params` or `macs`."""
        if name in ("num_params", "macs"):
            return float(getattr(self, name))
        if name not in self.metrics:
            raise ValueError(f"unknown metric {name!r}; the record has num_params, macs, {', '.join(self.metrics)}")
        return self.metrics[name]


def to_json(value: Any) -> dict[str, Any]:
    """A dataclass of this module as plain JSON data."""
    found = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return {name: to_json(part) if dataclasses.is_dataclass(part) else part for name, part in found.items()}


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


def record_from_json(data: Any) -> Record:
    """The `Record` that `to_json` wrote. Raises `ValueError` when the data is not one, whatever it is."""
    try:
        found = Record(
            spec=spec_from_json(data["spec"]),
            status=data["status"],
            curve=Curve(**{name: tuple(values) for name, values in data["curve"].items()}),
            metrics=dict(data["metrics"]),
            num_params=data["num_params"],
            macs=data["macs"],
            cost=Cost(**data["cost"]),
            balance=Balance(**{name: tuple(values) for name, values in data.get("balance", {}).items()}),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"not a record: {error!r}") from None
    check_record(found)
    return dataclasses.replace(found, num_params=int(found.num_params), macs=int(found.macs))


def check_record(record: Record) -> None:
    """Raise `ValueError` for a record that training does not give: numbers that are not finite, sizes that are none."""
    for problem in _record_problems(record):
        raise ValueError(f"not a record: {problem}")


def _record_problems(record: Record) -> Iterator[str]:
    if record.status not in STATUSES:
        yield f"status {record.status!r}"
    for name, values in vars(record.curve).items():
        if not all(map(is_number, values)):
            yield f"curve {name} is not of finite numbers"
    for name, value in record.metrics.items():
        if not (isinstance(name, str) and re.fullmatch(r"(train|val|test)_\w+", name, re.A) and is_number(value)):
            yield f"metric {name!r} is {value!r}"
    if missing := [name for name in VAL_METRICS if name not in record.metrics]:
        yield f"there is no {missing[0]}"
    for name in ("num_params", "macs"):
        size = getattr(record, name)  # a family of the user's own may give it as a float
        if not is_number(size) or not SIZE.admits(int(size)) or size != int(size):
            yield f"{name} {size!r} must be {SIZE}"
    cost = record.cost
    if not all(Range(0).admits(value) for value in (cost.seconds, cost.train_flops)):
        yield f"cost {cost.seconds!r}, {cost.train_flops!r} must be numbers of at least 0"
    if not SIZE.admits(cost.cohort_size) or not isinstance(cost.device, str):
        yield f"cohort size {cost.cohort_size!r} on {cost.device!r}"
    for name, values in vars(record.balance).items():
        if len(values) > 3 or not all(value is None or is_number(value) for value in values):
            yield f"balance {name} is not of three numbers"


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits that stand for a piece of JSON data, the same on every machine and run."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
