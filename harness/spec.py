"""What a student is (`StudentSpec`) and what training one gives back (`Record`), as JSON both ways.

These are the only things that pass between the driver and the distillation core. A new knob of training is a new
field of `StudentSpec` with a default; a new measurement is a new key of `Record.metrics`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PLAIN = "ce"
"""The form of a student trained without a teacher: cross-entropy alone."""

MIXINGS = ("convex", "additive")
OPTIMISERS = ("adamw", "adam", "sgd")
SCHEDULES = ("cosine", "constant")
DTYPES = ("float32", "float64")
VAL_METRICS = ("val_accuracy", "val_loss", "val_agreement", "val_kl")
"""What a record measures on the validation split."""


@dataclass(frozen=True)
class StudentSpec:
    """One student: everything its record may depend on.

    `alpha` weighs the hard labels as in the source article: `alpha * CE + (1 - alpha) * KD` under `mixing="convex"`;
    under `mixing="additive"` (the article's code) the objective is `CE + alpha * KD`. `form` names a loss form of
    `harness.losses.LOSSES`, or is `"ce"` for plain training, which takes neither a teacher nor an alpha.
    Raises `ValueError` for a value outside its range.
    """

    task: str
    family: str
    width: int
    seed: int
    form: str
    alpha: float = 0.1
    temperature: float | None = None
    mixing: str = "convex"
    optimiser: str = "adamw"
    lr: float = 1e-2
    weight_decay: float = 0.0
    momentum: float = 0.9
    schedule: str = "cosine"
    epochs: int = 12
    batch_size: int = 64
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("mixing", self.mixing, MIXINGS),
            ("optimiser", self.optimiser, OPTIMISERS),
            ("schedule", self.schedule, SCHEDULES),
            ("dtype", self.dtype, DTYPES),
        ):
            if value not in choices:
                raise ValueError(f"unknown {name} {value!r}; choices are {', '.join(choices)}")
        for name in RANGES:
            check_range(name, getattr(self, name))
        if self.form == PLAIN and (self.alpha != 1 or self.temperature is not None):
            raise ValueError(f"form {PLAIN!r} is plain training: alpha is 1 and there is no temperature")

    @property
    def cohort_key(self) -> tuple[str | int, ...]:
        """What students must have in common to be trained as one fused job."""
        shape = (self.task, self.family, self.width, self.dtype)
        return (*shape, self.optimiser, self.schedule, self.epochs, self.batch_size)


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
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return False
        if self.whole and not isinstance(value, int):
            return False
        return (value > self.low if self.open_low else value >= self.low) and value <= self.high


RANGES: Mapping[str, Range] = {
    "width": Range(1, whole=True),
    "alpha": Range(0, 1),
    "temperature": Range(0, open_low=True),
    "lr": Range(0, open_low=True),
    "weight_decay": Range(0),
    "momentum": Range(0, 0.9999),
    "epochs": Range(1, whole=True),
    "batch_size": Range(1, whole=True),
    "seed": Range(0, 2**63 - 1, whole=True),
}
"""What each number of a `StudentSpec` may be."""


def check_range(name: str, value: object) -> None:
    """Raise `ValueError` unless `value` is one that the knob `name` may take; a missing temperature is fine."""
    if name == "temperature" and value is None:
        return
    if name in RANGES and not RANGES[name].admits(value):
        raise ValueError(f"{name} {value!r} is out of range; it must be {RANGES[name]}")


@dataclass(frozen=True)
class Curve:
    """One value an epoch. `train_kd` is empty for plain training; `val_loss` is cross-entropy on the labels.

    The train columns are means over the epoch's batches, taken before each step; the val columns are measured after
    the epoch's last step.
    """

    train_loss: tuple[float, ...] = ()
    train_ce: tuple[float, ...] = ()
    train_kd: tuple[float, ...] = ()
    val_loss: tuple[float, ...] = ()
    val_accuracy: tuple[float, ...] = ()


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
class Record:
    """What training one student gave: `status` is `"ok"` or `"diverged"`.

    A diverged student has learnt nothing, so its `metrics` are those of a uniform guess: finite, and comparable. Its
    curve ends with the last epoch whose numbers were finite. `metrics` names the split first: `val_accuracy`,
    `val_loss`, `val_agreement` and `val_kl` (with the teacher, at temperature 1), `train_accuracy`, `train_loss`.
    """

    spec: StudentSpec
    status: str
    curve: Curve
    metrics: Mapping[str, float]
    num_params: int
    macs: int
    cost: Cost = field(default_factory=Cost)

    def value(self, name: str) -> float:
        """The measurement called `name`: a metric, `num_params` or `macs`."""
        if name in ("num_params", "macs"):
            return float(getattr(self, name))
        if name not in self.metrics:
            raise ValueError(f"unknown metric {name!r}; the record has num_params, macs, {', '.join(self.metrics)}")
        return self.metrics[name]


def to_json(value: Any) -> dict[str, Any]:
    """A dataclass of this module as plain JSON data."""
    return dataclasses.asdict(value)


def spec_from_json(data: Mapping[str, Any]) -> StudentSpec:
    """The `StudentSpec` that `to_json` wrote. Raises `ValueError` for a field that is missing or unknown."""
    names = {f.name for f in dataclasses.fields(StudentSpec)}
    if unknown := set(data) - names:
        raise ValueError(f"unknown field {sorted(unknown)[0]!r} of a student; fields are {', '.join(sorted(names))}")
    try:
        return StudentSpec(**data)
    except TypeError as error:
        raise ValueError(f"not a student spec: {error}") from None


def record_from_json(data: Mapping[str, Any]) -> Record:
    """The `Record` that `to_json` wrote. Raises `ValueError` when the data is not one."""
    try:
        return Record(
            spec=spec_from_json(data["spec"]),
            status=str(data["status"]),
            curve=Curve(**{name: tuple(values) for name, values in data["curve"].items()}),
            metrics={str(name): float(value) for name, value in data["metrics"].items()},
            num_params=int(data["num_params"]),
            macs=int(data["macs"]),
            cost=Cost(**data["cost"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a record: {error!r}") from None


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits that stand for a piece of JSON data, the same on every machine and run."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
