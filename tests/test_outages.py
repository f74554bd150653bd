"""Stores that go away: Optuna's is waited for, MLflow's is owed its runs; an answer that was lost doubles nothing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import OperationalError

from harness import ledger, outages
from harness.ledger import TrialSpec
from harness.outages import Owed, Patience, StoreError
from harness.records import Record
from harness.stopping import Halt
from tests.fakes import FakeRuns, ask_twice, make_driver


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "PAUSES", (0.01, 0.02))


def lost(reason: str = "server closed the connection") -> StorageInternalError:
    """What Optuna raises when its connection breaks."""
    error = StorageInternalError("An exception is raised during the commit.")
    error.__cause__ = OperationalError("COMMIT", {}, Exception(reason))
    return error


def told(folder: Path) -> dict[str, list[Any]]:
    sampler = make_driver(folder, FakeRuns()).sampler
    return {state: sampler.trials(state) for state in ("complete", "failed", "running")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert make_driver(folder, FakeRuns()).run(set()) == "complete"
    return told(folder)


@pytest.mark.parametrize("name", ["create_new_trial", "set_trial_state_values"])
@pytest.mark.parametrize("done", [False, True], ids=["before it was done", "when it was done"])
def test_a_connection_that_breaks_doubles_and_loses_nothing(
    name: str, done: bool, tmp_path: Path, undisturbed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = getattr(RDBStorage, name), 0

    def breaking(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % 5 == 0:
            if done:
                original(*args, **kwargs)
            raise lost()
        return original(*args, **kwargs)

    monkeypatch.setattr(RDBStorage, name, breaking)
    runs = FakeRuns()
    assert make_driver(tmp_path, runs).run(set()) == "complete"
    monkeypatch.undo()
    assert told(tmp_path) == undisturbed
    assert set(Counter(runs.runs).values()) == {1}


def test_a_row_that_is_missed_as_the_storage_goes_away_is_not_said_to_be_deleted(
    tmp_path: Path, undisturbed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, asked_for_study, calls = RDBStorage.set_trial_state_values, RDBStorage.get_study_name_from_id, 0
    away = False

    def missing(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls, away
        calls += 1
        if calls == 7:
            away = True
            raise KeyError("no trial with id 7")
        return original(*args, **kwargs)

    def silent(*args: Any) -> str:
        nonlocal away
        if away:
            away = False
            raise lost()
        return asked_for_study(*args)

    monkeypatch.setattr(RDBStorage, "set_trial_state_values", missing)
    monkeypatch.setattr(RDBStorage, "get_study_name_from_id", silent)
    assert make_driver(tmp_path, FakeRuns()).run(set()) == "complete"
    monkeypatch.undo()
    assert calls > 7 and told(tmp_path) == undisturbed


def test_a_trial_that_optuna_itself_asked_for_twice_is_told_as_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_twice(monkeypatch, at=5)
    runs = FakeRuns()
    driver = make_driver(tmp_path, runs)
    assert driver.run(set()) == "complete"
    [twin] = driver.sampler.trials("failed")
    assert runs.failures == {"fake/5": "asked for twice, and trained as 4"}
    assert ledger.read_spec(ledger.trial_dir(tmp_path, twin.number)) is not None
    trials = sorted(driver.sampler.trials("complete"), key=lambda asked: asked.number)
    assert trials[4].params == twin.params
    assert driver.sampler.trials("running") == []
    assert sorted(runs.runs) == sorted(f"fake/{number}" for number in range(len(trials) + 1))


def test_a_storage_whose_disk_is_full_stops_the_sweep_and_nothing_is_lost(
    tmp_path: Path, undisturbed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = RDBStorage.set_trial_state_values, 0

    def full(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 7:
            raise lost("database or disk is full")
        return original(*args, **kwargs)

    monkeypatch.setattr(RDBStorage, "set_trial_state_values", full)
    runs = FakeRuns()
    with pytest.raises(Halt, match="the storage cannot be written to: database or disk is full"):
        make_driver(tmp_path, runs).run(set())
    monkeypatch.undo()
    assert make_driver(tmp_path, runs).run(set(runs.runs)) == "complete"
    assert told(tmp_path) == undisturbed


def test_waiting_ends_when_the_time_is_up_or_somebody_asks() -> None:
    with pytest.raises(Halt, match="the time was up while the storage did not answer: gone"):
        Patience("the storage", deadline=time.monotonic() - 1).wait("gone")
    with pytest.raises(KeyboardInterrupt):
        Patience("the storage", asked_to_stop=lambda: True).wait("gone")


def test_an_outage_is_said_once_and_its_end_too(caplog: pytest.LogCaptureFixture) -> None:
    patience = Patience("the storage")
    for _ in range(3):
        patience.wait("gone")
    patience.over()
    patience.over()
    assert [record.getMessage() for record in caplog.records] == [
        "the storage does not answer (gone); waiting for it, what is trained is kept on disk",
        "the storage answers again; the sweep goes on",
    ]


@dataclass
class Flaky(FakeRuns):
    """Tracking that is away while `is_away()`, and whose `refused` trials it never takes."""

    is_away: Callable[[], bool] = lambda: False
    refused: set[int] = field(default_factory=set)
    reopened: int = 0

    def log(self, trial: TrialSpec, records: Sequence[Record], *, maybe_there: bool) -> None:
        if self.is_away():
            raise StoreError("connection refused")
        if trial.number in self.refused:
            raise StoreError("no such run")
        super().log(trial, records, maybe_there=maybe_there)

    def reopen(self) -> None:
        if self.is_away():
            raise StoreError("connection refused")
        self.reopened += 1


def run_with(store: Flaky, folder: Path) -> Owed[Flaky]:
    owed = Owed(store)
    assert make_driver(folder, owed).run(set()) == "complete"
    return owed


def test_a_sweep_goes_on_without_tracking_and_logs_what_it_owes_later(
    tmp_path: Path, undisturbed: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outages, "AGAIN_AFTER", 0.0)
    moments = iter(range(10**6))
    store = Flaky(is_away=lambda: 5 <= next(moments) < 25)
    owed = run_with(store, tmp_path)
    assert owed.settle() and len(owed) == 0
    assert told(tmp_path) == undisturbed
    assert Counter(store.runs) == {f"fake/{asked.number}": 1 for asked in undisturbed["complete"]}
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith("tracking failed (connection refused); the sweep goes on")
    assert sum("tracking failed" in line for line in said) == 1


def test_what_tracking_was_never_given_the_next_sweep_logs(tmp_path: Path, undisturbed: Any) -> None:
    store = Flaky(is_away=lambda: True)
    owed = run_with(store, tmp_path)
    assert not owed.settle() and len(owed) == len(undisturbed["complete"])
    assert told(tmp_path) == undisturbed
    runs = FakeRuns()
    assert make_driver(tmp_path, runs).run(set()) == "complete"
    assert len(runs.runs) == len(undisturbed["complete"])


def test_one_trial_that_tracking_refuses_keeps_no_other_from_it(tmp_path: Path) -> None:
    store = Flaky(refused={3})
    owed = run_with(store, tmp_path)
    assert not owed.settle() and len(owed) == 1 and owed.why == "trial 3 is not taken (no such run)"
    assert "fake/3" not in store.runs and len(store.runs) == 23
    store.is_away = lambda: True
    assert not owed.settle() and owed.why == "it does not answer (connection refused)"
    store.is_away = lambda: False
    store.refused.clear()
    assert owed.settle() and not owed.why


def test_a_run_deleted_while_it_is_written_is_logged_at_once(tmp_path: Path) -> None:
    store = Flaky()
    fail_once = {"fake/4"}

    def log(trial: TrialSpec, records: Sequence[Record], *, maybe_there: bool) -> None:
        if trial.key in fail_once:
            fail_once.discard(trial.key)
            raise StoreError("The run must be in the 'active' state")
        Flaky.log(store, trial, records, maybe_there=maybe_there)

    store.log = log  # type: ignore[method-assign]
    owed = run_with(store, tmp_path)
    assert len(owed) == 0 and store.reopened == 1
    assert len(store.runs) == 24
