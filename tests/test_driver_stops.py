"""Deaths and stops of a sweep in mid-training: which of them count against the trials that were being trained."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness import driver as driver_module
from harness import files, ledger, tries
from harness.attempts import GUILTY
from harness.driver import Driver
from harness.executors import Event, Job
from harness.executors.inline import Inline
from harness.records import Record
from harness.spec import StudentSpec
from harness.stopping import Halt
from tests.fakes import FakeRuns, Killed, fake_train, make_driver

TOTAL = 12 + 3 * 4  # search trials, and their share as controls at each of three widths


def num_told(folder: Path) -> int:
    return len(make_driver(folder, FakeRuns()).sampler.trials("complete"))


def die_with(number: int) -> Callable[[Sequence[StudentSpec]], list[Record]]:
    """A trainer that takes the driver along whenever it meets one student."""
    guilty: list[StudentSpec] = []

    def train(specs: Sequence[StudentSpec]) -> list[Record]:
        guilty[:] = guilty or [specs[number]]
        if guilty[0] in specs:
            raise Killed
        return fake_train(specs)

    return train


def test_a_trial_that_takes_every_driver_along_is_tried_alone_and_then_given_up(tmp_path: Path) -> None:
    runs, train, deaths = FakeRuns(), die_with(0), 0
    while deaths < 50:
        try:
            assert make_driver(tmp_path, runs, train=train).run(set(runs.runs)) == "complete"
            break
        except Killed:
            deaths += 1
    assert deaths == GUILTY
    [(key, reason)] = runs.failures.items()
    assert reason == f"its training was begun {GUILTY} times, and every time the sweep died with it"
    trial = ledger.read_spec(ledger.trial_dir(tmp_path, int(key.rpartition("/")[2])))
    assert trial is not None
    assert num_told(tmp_path) == TOTAL
    assert {path.parent.name for path in tmp_path.glob("trials/*/begun.json")} <= {str(trial.number)}


def stopped_in_training(folder: Path, runs: FakeRuns, *, workers_die: bool, deterministic: bool) -> Driver:
    """A driver that is asked to stop while all that it has handed out is trained; that may end its workers too."""
    driver = make_driver(folder, runs, deterministic=deterministic)
    executor, asked = driver.executor, list[bool]()
    assert isinstance(executor, Inline)
    finish = executor.poll

    def poll(timeout: float) -> list[Event]:
        if not executor._jobs:
            return []
        first = [] if asked or deterministic else finish(timeout)  # there is something to be committed yet
        for job in executor._jobs:
            for own in job.body["folders"]:
                tries.begin(Path(own))
        asked.append(True)
        if not workers_die:
            return first
        jobs = list(executor._jobs)
        executor._jobs.clear()
        return first + [Event(job, "failed", {"reason": "worker killed by SIGTERM"}) for job in jobs]

    executor.poll = poll  # type: ignore[method-assign]
    driver.asked_to_stop = lambda: bool(asked)
    return driver


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("workers_die", [True, False])
def test_a_stop_in_order_is_held_against_no_trial(tmp_path: Path, workers_die: bool, deterministic: bool) -> None:
    runs = FakeRuns()
    for _ in range(3 if deterministic else 2):
        driver = stopped_in_training(tmp_path, runs, workers_die=workers_die, deterministic=deterministic)
        assert driver.run(set(runs.runs)) == "stopped"
        assert not list(tmp_path.glob("trials/*/begun.json")) and not list(tmp_path.glob("trials/*/attempts.json"))
        assert bool(runs.runs) is not deterministic
    assert make_driver(tmp_path, runs).run(set(runs.runs)) == "complete"
    assert num_told(tmp_path) == TOTAL and not runs.failures


def test_what_is_ready_when_it_must_stop_is_committed_for_a_while_and_the_rest_is_the_next_sweeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_module, "COMMITS", 0.3)
    runs, calls = FakeRuns(), list[int]()

    def train(specs: Sequence[StudentSpec]) -> list[Record]:
        calls.append(len(specs))
        return fake_train(specs)

    driver = make_driver(tmp_path, runs, train=train, deterministic=False)
    log = runs.log

    def slow(*trial: Any, **maybe: Any) -> None:
        time.sleep(0.1)
        log(*trial, **maybe)

    runs.log = slow  # type: ignore[method-assign]
    driver.asked_to_stop = lambda: len(runs.runs) > 0
    assert driver.run(set()) == "stopped"
    trained, told = len(list(tmp_path.glob("trials/*/result.json"))), len(driver.sampler.trials("complete"))
    assert 2 <= told < trained
    before = len(calls)
    driver = make_driver(tmp_path, runs, train=train, deterministic=False)
    driver.asked_to_stop = lambda: len(runs.runs) >= trained
    assert driver.run(set(runs.runs)) in ("stopped", "complete")
    assert len(runs.runs) >= trained and not list(tmp_path.glob("trials/*/begun.json"))
    assert len(calls) - before <= TOTAL - trained


def test_a_study_that_is_moved_away_while_it_is_swept_is_said(tmp_path: Path) -> None:
    def train(_: Sequence[StudentSpec]) -> list[Record]:
        shutil.rmtree(tmp_path / "mine" / "trials")
        (tmp_path / "mine").rename(tmp_path / "moved")
        raise RuntimeError("no spec.json")

    with pytest.raises(Halt, match="mine was moved or deleted while the sweep ran; put it back"):
        make_driver(tmp_path / "mine", FakeRuns(), train=train).run(set())


def test_deaths_before_a_stop_in_order_still_count(tmp_path: Path) -> None:
    runs = FakeRuns()
    with pytest.raises(Killed):
        make_driver(tmp_path, runs, train=die_with(0)).run(set())
    [first, *_] = [folder for folder in ledger.numbers(tmp_path) if tries.begun(ledger.trial_dir(tmp_path, folder))]
    assert stopped_in_training(tmp_path, runs, workers_die=False, deterministic=True).run(set()) == "stopped"
    assert tries.begun(ledger.trial_dir(tmp_path, first)) == 1


def test_who_is_waited_for_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A worker that outlived its sweep holds its trials until they are published; one that hangs does so for ever."""
    with pytest.raises(Killed):
        make_driver(tmp_path, FakeRuns(), train=die_with(0)).run(set())
    orphan = files.lock(ledger.trial_dir(tmp_path, 1) / "lock")
    assert orphan is not None
    driver = make_driver(tmp_path, FakeRuns())
    driver.asked_to_stop = lambda: True
    assert driver.run(set()) == "stopped"
    orphan.release()
    assert "workers that outlived their sweep are still training trials 1; they are waited for" in caplog.text


def test_a_stop_in_order_while_a_round_is_asked_for_is_held_against_no_trial(tmp_path: Path) -> None:
    """What earlier sweeps began is in training by then."""
    with pytest.raises(Killed):
        make_driver(tmp_path, FakeRuns(), train=die_with(0)).run(set())
    before = {path: path.read_text() for path in tmp_path.glob("trials/*/begun.json")}
    assert before
    for error in (Halt, KeyboardInterrupt, OSError, SystemExit, ValueError):
        driver = make_driver(tmp_path, FakeRuns())
        submit = driver.executor.submit

        def begin(kind: str, body: Mapping[str, Any], submit: Any = submit) -> Job:
            for own in body["folders"]:
                tries.begin(Path(own))
            found: Job = submit(kind, body)
            return found

        def ask(*_: Any, error: type[BaseException] = error) -> None:
            raise error

        driver.executor.submit = begin  # type: ignore[method-assign]
        driver._ask_rounds = ask  # type: ignore[method-assign, assignment]
        with pytest.raises(error):
            driver.run(set())
        assert {path: path.read_text() for path in tmp_path.glob("trials/*/begun.json")} == before
