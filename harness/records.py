"""What training a student gives back (`Record`), as JSON both ways. A new measurement is a new key of its `metrics`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.spec import StudentSpec, spec_from_json
from harness.values import Range, is_number

VAL_METRICS = ("val_accuracy", "val_loss", "val_agreement", "val_kl")
"""What a record measures on the validation split."""
STATUSES = ("ok", "diverged", "pruned")
SIZE = Range(0, 2**53, whole=True)
"""What a count of parameters, operations or students may be."""


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
