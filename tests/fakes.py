"""A trainer, a tracker and a world that cost nothing, to test the driver with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import RDBStorage

from harness import files
from harness.arms import targets
from harness.commits import Runs
from harness.driver import Driver
from harness.executors.inline import Inline
from harness.executors.trials import Keep, Training, run_cohort
from harness.goals import Plan
from harness.ledger import TrialSpec
from harness.outages import Patience
from harness.records import Cost, Curve, Record
from harness.sampler import Sampler
from harness.space import TEMPERATURE_FORMS, Choice, Float, Study
from harness.spec import PLAIN, StudentSpec
from harness.values import digest, to_json

STUDY = Study(
    task="digits",
    family="mlp",
    space={
        "width": Choice(2, 4, 8),
        "form": Choice("kl", "soft_ce", "mse"),
        "alpha": Float(0.0, 1.0),
        "temperature": Float(1.0, 20.0, log=True, when={"form": TEMPERATURE_FORMS}),
        "lr": Float(1e-3, 1e-1, log=True),
    },
    trials=12,
    seeds=2,
    batch=4,
    other_controls=(),
)


def fake_train(specs: Sequence[StudentSpec]) -> list[Record]:
    """Records that depend on their spec alone, in no time."""
    return [fake_record(spec) for spec in specs]


def fake_record(spec: StudentSpec) -> Record:
    luck = int(digest(to_json(spec)), 16) / 16**16
    accuracy = 0.8 + 0.02 * spec.width - 0.1 * (spec.alpha - 0.3) ** 2 + 0.01 * luck
    kd = () if spec.form == PLAIN else (0.5, 0.2)
    curve = Curve((1.0, 0.5), (0.9, 0.4), kd, (1.1, 0.6), (accuracy / 2, accuracy))
    metrics = {"val_accuracy": accuracy, "val_loss": 0.6, "val_agreement": accuracy, "val_kl": 0.1}
    return Record(spec, "ok", curve, metrics, 100 * spec.width, 1000 * spec.width, Cost(0.1, 1e6, len(kd), "cpu"))


@dataclass
class FakeTraining:
    """Training in parts, in no time; `epochs` counts those that each student was trained, by its name on disk."""

    epochs: Counter[str] = field(default_factory=Counter)

    @property
    def parts(self) -> Training[int]:
        return Training(self.train, self.save, self.load)

    def train(
        self, specs: Sequence[StudentSpec], until: int | None, states: Mapping[StudentSpec, int], _: Keep[int]
    ) -> list[tuple[list[Record], list[int]]]:
        for spec in specs:
            self.epochs[digest(to_json(spec))] += (until or spec.epochs) - states.get(spec, 0)
        records = [fake_record(spec) if until is None else fake_record_at(spec, until) for spec in specs]
        return [(records, [until for _ in specs if until is not None])]

    def save(self, path: Path, key: str, states: Sequence[int]) -> None:
        files.write_json(path, [key, *states])

    def load(self, path: Path, key: str) -> list[int] | None:
        known, *states = files.read_json(path) or [None]
        return states if known == key else None


def fake_record_at(spec: StudentSpec, epoch: int) -> Record:
    """A student's record at a rung: on its way to `fake_record`'s accuracy, with luck of its own."""
    whole = fake_record(spec)
    accuracy = whole.metrics["val_accuracy"] * (1 - 0.3 / epoch) + 0.02 * (int(digest([to_json(spec), epoch]), 16) % 7)
    curve = Curve((1.0,) * epoch, (0.9,) * epoch, (), (1.1,) * epoch, (accuracy,) * epoch)
    return replace(whole, curve=curve, metrics={**whole.metrics, "val_accuracy": accuracy})


@dataclass
class FakeRuns:
    """Tracking in memory, with MLflow's property that the same key twice is one run only when looked for."""

    runs: list[str] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    statuses: dict[str, str] = field(default_factory=dict)

    def log(self, trial: TrialSpec, records: Sequence[Record], *, maybe_there: bool) -> None:
        if not (maybe_there and trial.key in self.runs):
            self.runs.append(trial.key)
        self.statuses[trial.key] = records[0].status
        self.values[trial.key] = sum(record.metrics["val_accuracy"] for record in records) / len(records)

    def log_failure(self, trial: TrialSpec, reason: str, *, maybe_there: bool) -> None:
        if not (maybe_there and trial.key in self.runs):
            self.runs.append(trial.key)
        self.failures[trial.key] = reason


Train = Callable[[Sequence[StudentSpec]], list[Record]]


def at_once(train: Train) -> Training[int]:
    """Training of all students in one call, which keeps nothing."""
    return Training(lambda specs, *_: [(train(specs), [])], lambda *_: None, lambda *_: None)


class Killed(BaseException):
    """Stands for kill -9: nothing in the harness catches it."""


def make_driver(
    folder: Path,
    runs: Runs,
    *,
    study: Study = STUDY,
    trials: int | None = None,
    train: Train = fake_train,
    deterministic: bool = True,
    parts: Training[int] | None = None,
    storage: str | None = None,
    patience: Patience | None = None,
    name: str = "fake",
) -> Driver:
    """A driver on what is in `folder`, and in `storage`, as a new process would open it."""

    def work(kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
        assert kind == "cohort"
        own = parts or FakeTraining().parts if "until" in body else at_once(train)
        run_cohort([Path(folder) for folder in body["folders"]], body.get("until"), own)
        return {}

    folder.mkdir(parents=True, exist_ok=True)
    config_hash = digest(study.identity())
    url, shared = storage or f"sqlite:///{folder / 'study.db'}", storage is not None
    sampler = Sampler(url, name, study, config_hash, shared=shared, patience=patience)
    plan = Plan(name, study, "digits", config_hash, folder, targets(study, trials or study.trials), deterministic)
    return Driver(plan, sampler, runs, Inline(work))


def ask_twice(patch: pytest.MonkeyPatch, at: int) -> None:
    """Let Optuna keep the trial that is asked for at this call a second time, as where its connection is lost."""
    original, calls = RDBStorage.create_new_trial, 0

    def create(*args: Any, **kwargs: Any) -> int:
        nonlocal calls
        calls += 1
        if calls == at:
            original(*args, **kwargs)
        return original(*args, **kwargs)

    patch.setattr(RDBStorage, "create_new_trial", create)
