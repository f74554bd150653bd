"""A trainer, a tracker and a world that cost nothing, to test the driver with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.driver import Driver, Plan, targets
from harness.executors.inline import Inline
from harness.executors.trials import run_cohort
from harness.ledger import TrialSpec
from harness.sampler import Sampler
from harness.space import TEMPERATURE_FORMS, Choice, Float, Study
from harness.spec import PLAIN, Cost, Curve, Record, StudentSpec, digest, to_json

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
class FakeRuns:
    """Tracking in memory, with MLflow's property that the same key twice is one run only when looked for."""

    runs: list[str] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def log(self, trial: TrialSpec, records: Sequence[Record], *, maybe_there: bool) -> None:
        if not (maybe_there and trial.key in self.runs):
            self.runs.append(trial.key)
        self.values[trial.key] = sum(record.metrics["val_accuracy"] for record in records) / len(records)

    def log_failure(self, trial: TrialSpec, reason: str, *, maybe_there: bool) -> None:
        if not (maybe_there and trial.key in self.runs):
            self.runs.append(trial.key)
        self.failures[trial.key] = reason


Train = Callable[[Sequence[StudentSpec]], list[Record]]


def make_driver(
    folder: Path,
    runs: FakeRuns,
    *,
    study: Study = STUDY,
    trials: int | None = None,
    train: Train = fake_train,
    deterministic: bool = True,
) -> Driver:
    """A driver on what is in `folder`, as a new process would open it."""

    def work(kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
        assert kind == "cohort"
        run_cohort([Path(folder) for folder in body["folders"]], train)
        return {}

    folder.mkdir(parents=True, exist_ok=True)
    config_hash = digest(study.identity())
    sampler = Sampler(f"sqlite:///{folder / 'study.db'}", "fake", study, config_hash, shared=False)
    plan = Plan("fake", study, "digits", config_hash, folder, targets(study, trials or study.trials), deterministic)
    return Driver(plan, sampler, runs, Inline(work))
