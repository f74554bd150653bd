"""How a trial is committed: its run in MLflow first, and Optuna's `tell` last.

Its result is on disk before. A kill in between leaves it asked and not told, and the same commit is made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Protocol

from harness.kept import Asked
from harness.ledger import TrialSpec
from harness.records import Record


class Runs(Protocol):
    """What the driver needs of tracking: `harness.tracking.Tracker` has it."""

    def log(self, trial: TrialSpec, records: Sequence[Record], *, maybe_there: bool) -> None:
        """Keep a trained trial; `maybe_there` says that an earlier attempt may have begun to."""

    def log_failure(self, trial: TrialSpec, reason: str, *, maybe_there: bool) -> None:
        """Keep a trial that was given up."""


class Tells(Protocol):
    """What a commit needs of Optuna: `harness.sampler.Sampler` and `harness.storage.Teller` have it."""

    def tell(self, asked: Asked, values: Sequence[float]) -> None:
        """The trial is complete."""

    def prune(self, asked: Asked) -> None:
        """The trial was stopped at a rung, after `asked.pruned_at` epochs."""

    def fail(self, asked: Asked) -> None:
        """The trial was given up."""


@dataclass(frozen=True)
class Stores:
    """Where a trial is committed, in this order."""

    runs: Runs
    trials: Tells


def commit(
    stores: Stores,
    asked: Asked,
    trial: TrialSpec,
    result: Sequence[Record] | str,
    objectives: Sequence[str],
    *,
    maybe_there: bool,
) -> None:
    """Log a trial, then tell it: its records, or the reason for which it was given up."""
    if isinstance(result, str):
        stores.runs.log_failure(trial, result, maybe_there=maybe_there)
        stores.trials.fail(asked)
        return
    stores.runs.log(trial, result, maybe_there=maybe_there)
    if result[0].status == "pruned":
        stores.trials.prune(asked)
    else:
        stores.trials.tell(asked, values(objectives, result))


def values(objectives: Sequence[str], records: Sequence[Record]) -> list[float]:
    """What is told of a trial: each objective's mean over its students."""
    return [values_of(records, objective) for objective in objectives]


def values_of(records: Sequence[Record], name: str) -> float:
    """A measurement's mean over a trial's students."""
    return mean(record.value(name) for record in records)
