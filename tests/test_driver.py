"""The sweep's loop, with a trainer that costs nothing: budget, resume, kills at every step, failures."""

from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import ledger, tries
from harness.attempts import ATTEMPTS, UNBEGUN
from harness.driver import Driver, Progress
from harness.executors import Event
from harness.records import Record
from harness.sampler import Sampler
from harness.setbacks import ALIKE
from harness.space import Choice
from harness.spec import StudentSpec
from harness.stopping import Halt
from tests.fakes import STUDY, FakeRuns, Killed, fake_train, make_driver

TOTAL = 12 + 3 * 4  # search trials, and their share as controls at each of three widths


def told(folder: Path, **kwargs: Any) -> dict[int, Any]:
    """What the study on disk says of every complete trial."""
    sampler = make_driver(folder, FakeRuns(), **kwargs).sampler
    return {asked.number: (asked.arm, dict(asked.params)) for asked in sampler.trials("complete")}


def test_a_sweep_reaches_its_budget_and_every_trial_has_one_run(tmp_path: Path) -> None:
    runs = FakeRuns()
    driver = make_driver(tmp_path, runs)
    assert driver.run(set()) == "complete"
    assert sorted(driver.sampler.trials("complete"), key=lambda a: a.number) == driver.sampler.trials("complete")
    assert Counter(a.arm for a in driver.sampler.trials("complete")) == {
        "search": 12,
        "control-2": 4,
        "control-4": 4,
        "control-8": 4,
    }
    assert Counter(runs.runs) == {f"fake/{number}": 1 for number in range(TOTAL)}


def test_controls_are_plain_training_at_their_width_with_knobs_of_their_own(tmp_path: Path) -> None:
    driver = make_driver(tmp_path, FakeRuns())
    driver.run(set())
    controls = [asked for asked in driver.sampler.trials("complete") if asked.is_control]
    trials = [ledger.read_spec(ledger.trial_dir(tmp_path, asked.number)) for asked in controls]
    assert all(spec.form == "ce" and spec.alpha == 1 for trial in trials if trial for spec in trial.specs)
    assert len({asked.params["lr"] for asked in controls}) == len(controls)


def test_the_same_command_again_does_nothing(tmp_path: Path) -> None:
    runs = FakeRuns()
    make_driver(tmp_path, runs).run(set())

    def refuse(specs: Sequence[StudentSpec]) -> list[Record]:
        raise AssertionError(f"{len(specs)} students trained again")

    again = make_driver(tmp_path, runs, train=refuse)
    assert again.run(set(runs.runs)) == "complete"
    assert len(runs.runs) == TOTAL


def test_a_greater_budget_goes_on_from_where_the_smaller_one_ended(tmp_path: Path) -> None:
    runs = FakeRuns()
    make_driver(tmp_path, runs).run(set())
    before = told(tmp_path)
    make_driver(tmp_path, runs, trials=20).run(set(runs.runs))
    after = told(tmp_path)
    assert {number: after[number] for number in before} == before
    assert sum(arm == "search" for arm, _ in after.values()) == 20


def test_runs_that_tracking_has_lost_are_logged_again(tmp_path: Path) -> None:
    make_driver(tmp_path, FakeRuns()).run(set())
    fresh = FakeRuns()
    make_driver(tmp_path, fresh).run(set())
    assert sorted(fresh.runs) == sorted(f"fake/{number}" for number in range(TOTAL))


def die_at(moment: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Die before or after the `moment`th thing the driver does to the world; gives the number of such moments."""
    count = 0

    def tick() -> None:
        nonlocal count
        count += 1
        if count == moment:
            raise Killed

    def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            tick()
            result = function(*args, **kwargs)
            tick()
            return result

        return run

    for owner, name in (
        (Sampler, "ask"), (Sampler, "tell"), (Sampler, "prune"), (FakeRuns, "log"), (tries, "write_json"),
        (ledger, "write_sealed"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, wrapped(getattr(owner, name)))
    return lambda: count


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[int, Any], dict[str, float], int]:
    """What an undisturbed deterministic sweep tells and logs, and how many moments it has."""
    folder, runs = tmp_path_factory.mktemp("undisturbed"), FakeRuns()
    with pytest.MonkeyPatch.context() as patch:
        moments = die_at(-1, patch)
        make_driver(folder, runs).run(set())
    return told(folder), runs.values, moments()


@pytest.mark.parametrize("share", [0.02, 0.1, 0.2, 0.33, 0.41, 0.5, 0.58, 0.67, 0.75, 0.83, 0.9, 0.97, 0.999])
def test_a_kill_at_any_moment_loses_and_doubles_nothing(
    share: float, tmp_path: Path, undisturbed: tuple[dict[int, Any], dict[str, float], int]
) -> None:
    trials, logged, moments = undisturbed
    runs = FakeRuns()
    with pytest.MonkeyPatch.context() as patch:
        die_at(max(1, int(share * moments)), patch)
        with pytest.raises(Killed):
            make_driver(tmp_path, runs).run(set())
    finished = {key for key in runs.runs if key in runs.values}
    assert make_driver(tmp_path, runs).run(finished) == "complete"
    assert Counter(runs.runs) == {f"fake/{number}": 1 for number in range(TOTAL)}
    assert told(tmp_path) == trials
    assert runs.values == logged


def test_dying_again_and_again_still_ends_with_every_trial_once(tmp_path: Path) -> None:
    runs, deaths = FakeRuns(), 0
    for moment in [23, 7, 31, 2, 55, 1, 40, 12, 77, 3]:
        with pytest.MonkeyPatch.context() as patch:
            die_at(moment, patch)
            try:
                make_driver(tmp_path, runs).run(set(runs.values))
            except Killed:
                deaths += 1
    assert deaths >= 5
    make_driver(tmp_path, runs).run(set(runs.values))
    assert Counter(runs.runs) == {f"fake/{number}": 1 for number in range(TOTAL)}


def test_only_the_guilty_trial_of_a_failing_cohort_is_given_up(tmp_path: Path) -> None:
    guilty: dict[str, float] = {}

    def fail_the_first_kl(specs: Sequence[StudentSpec]) -> list[Record]:
        for spec in specs:
            if spec.form == "kl" and guilty.setdefault("alpha", spec.alpha) == spec.alpha:
                raise RuntimeError("out of memory")
        return fake_train(specs)

    runs = FakeRuns()
    driver = make_driver(tmp_path, runs, train=fail_the_first_kl)
    assert driver.run(set()) == "complete"
    assert [asked.params["alpha"] for asked in driver.sampler.trials("failed")] == [guilty["alpha"]]
    assert list(runs.failures.values()) == ["out of memory"]
    assert len(driver.sampler.trials("complete")) == TOTAL  # the failed one was replaced


def test_a_failing_cohort_is_halved_until_the_guilty_trial_is_alone(tmp_path: Path) -> None:
    cohorts: list[int] = []
    guilty: dict[str, float] = {}
    study = replace(STUDY, trials=32, batch=32, controls=0, seeds=1, space={**STUDY.space, "width": Choice(4)})

    def fail_with_one(specs: Sequence[StudentSpec]) -> list[Record]:
        cohorts.append(len(specs))
        guilty.setdefault("lr", specs[0].lr)
        if any(spec.lr == guilty["lr"] for spec in specs):
            raise RuntimeError("out of memory")
        return fake_train(specs)

    driver = make_driver(tmp_path, FakeRuns(), study=study, train=fail_with_one)
    assert driver.run(set()) == "complete"
    assert [asked.params["lr"] for asked in driver.sampler.trials("failed")] == [guilty["lr"]]
    with_it, alone, replacement = [32, 16, 8, 4, 2], [1] * ATTEMPTS, [1]
    assert sorted(cohorts, reverse=True) == sorted([*with_it, 16, 8, 4, 2, 1, *alone, *replacement], reverse=True)


def test_a_failing_trial_is_tried_three_times_alone(tmp_path: Path) -> None:
    calls: Counter[int] = Counter()

    def fail_at_first(specs: Sequence[StudentSpec]) -> list[Record]:
        calls[len(specs)] += 1
        if sum(calls.values()) < 3:
            raise RuntimeError("a passing cloud")
        return fake_train(specs)

    study = replace(STUDY, trials=1, batch=1, controls=0)
    driver = make_driver(tmp_path, FakeRuns(), study=study, train=fail_at_first)
    assert driver.run(set()) == "complete"
    assert calls == {2: ATTEMPTS}  # two seeds, three attempts, the last one good
    assert driver.sampler.trials("failed") == []


def test_a_sweep_in_which_everything_fails_stops(tmp_path: Path) -> None:
    def fail(specs: Sequence[StudentSpec]) -> list[Record]:
        raise RuntimeError(f"no student of lr {specs[0].lr} today")

    driver = make_driver(tmp_path, FakeRuns(), train=fail)
    assert driver.run(set()) == "failures"
    assert len(driver.sampler.trials("failed")) >= 8


def test_a_sweep_in_which_everything_fails_alike_stops_after_its_round_and_goes_on_when_mended(tmp_path: Path) -> None:
    def fail(_: Sequence[StudentSpec]) -> list[Record]:
        raise RuntimeError("NameError: name 'x' is not defined (mine.py:31)")

    runs, study = FakeRuns(), replace(STUDY, trials=60, batch=5)
    driver = make_driver(tmp_path, runs, study=study, train=fail)
    with pytest.raises(Halt, match=r"is the same: NameError: .* \(mine\.py:31\); mend it, and give the same command"):
        driver.run(set())
    failed = {asked.number for asked in driver.sampler.trials("failed")}
    assert ALIKE <= len(failed) < 60 // 4 and not driver.sampler.trials("running")
    mended = make_driver(tmp_path, runs, study=study)
    assert mended.run(set(runs.runs)) == "complete"
    assert {asked.number for asked in mended.sampler.trials("failed")} == failed  # others were asked for in their place
    wanted = sum(mended.plan.targets.values())
    assert len(mended.sampler.trials("complete")) == wanted and set(Counter(runs.runs).values()) == {1}


@pytest.mark.parametrize("deterministic", [True, False])
def test_trials_that_fail_alike_stop_no_sweep_in_which_another_is_trained(deterministic: bool, tmp_path: Path) -> None:
    """As those of a broken option of a knob, which may fail long before the others are done."""
    guilty: dict[float, None] = {}

    def fail(specs: Sequence[StudentSpec]) -> list[Record]:
        for spec in specs:
            if len(guilty) < ALIKE:
                guilty[spec.lr] = None
            if spec.lr in guilty:
                raise RuntimeError("kl is broken")
        return fake_train(specs)

    study = replace(STUDY, batch=ALIKE + 1, controls=0)
    driver = make_driver(tmp_path, FakeRuns(), study=study, train=fail, deterministic=deterministic)
    assert driver.run(set()) == "complete"
    assert len(driver.sampler.trials("failed")) == ALIKE


def test_a_corrupt_result_is_put_aside_and_trained_again(tmp_path: Path) -> None:
    runs = FakeRuns()
    driver = make_driver(tmp_path, runs)
    number = driver.sampler.ask("search").number  # asked, and then the driver died
    folder = tmp_path / "trials" / str(number)
    folder.mkdir(parents=True)
    (folder / "result.json").write_text('{"hash": "x", "records": [{"spec"')
    assert make_driver(tmp_path, runs).run(set()) == "complete"
    assert json.loads((folder / "result.json").read_text())["records"]
    assert Counter(runs.runs)[f"fake/{number}"] == 1


def test_a_deadline_in_the_past_asks_for_nothing_more(tmp_path: Path) -> None:
    driver = make_driver(tmp_path, FakeRuns())
    driver = replace(driver, plan=replace(driver.plan, deadline=0.0))
    assert driver.run(set()) == "timeout"
    assert driver.sampler.trials("complete") == []


def test_progress_counts_up_to_the_total(tmp_path: Path) -> None:
    seen: list[Progress] = []
    driver = make_driver(tmp_path, FakeRuns())
    driver.watch = seen.append
    driver.run(set())
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert (seen[-1].done, seen[-1].total, seen[-1].failed) == (TOTAL, TOTAL, 0)


def test_the_asynchronous_order_reaches_the_same_budget(tmp_path: Path) -> None:
    runs = FakeRuns()
    assert make_driver(tmp_path, runs, deterministic=False).run(set()) == "complete"
    assert len(runs.runs) == TOTAL


def test_between_two_commits_the_driver_hands_out_what_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is done waits for one commit, not for those of a whole cohort."""
    happened: list[str] = []
    runs = FakeRuns()
    driver = make_driver(tmp_path, runs, deterministic=False)
    poll, log = driver.executor.poll, runs.log

    def polled(timeout: float) -> Any:
        happened.append("poll")
        assert timeout == 0 or not driver._ready  # it does not wait for news while there is something to commit
        return poll(timeout)

    def logged(*args: Any, **kwargs: Any) -> None:
        happened.append("commit")
        log(*args, **kwargs)

    monkeypatch.setattr(driver.executor, "poll", polled)
    monkeypatch.setattr(runs, "log", logged)
    assert driver.run(set()) == "complete"
    assert happened.count("commit") == TOTAL
    assert all("commit" not in pair or "poll" in pair for pair in itertools.pairwise(happened))


def results(folder: Path) -> dict[int, Any]:
    """Curves and metrics of every trial on disk."""
    found = {}
    for number in ledger.numbers(folder):
        trial = ledger.read_spec(ledger.trial_dir(folder, number))
        assert trial is not None
        records = ledger.read_result(ledger.trial_dir(folder, number), trial) or ()
        found[number] = [(record.curve, record.metrics) for record in records]
    return found


def test_a_result_that_is_lost_after_it_was_told_is_trained_again(tmp_path: Path) -> None:
    runs = FakeRuns()
    assert make_driver(tmp_path, runs).run(set()) == "complete"
    before, before_told = results(tmp_path), told(tmp_path)
    folders = [ledger.trial_dir(tmp_path, number) for number in range(5)]
    (folders[0] / "result.json").unlink()
    (folders[1] / "result.json").write_text("{")
    shutil.rmtree(folders[2])
    (folders[3] / "spec.json").write_text("[]")
    trained: list[StudentSpec] = []

    def train(specs: Sequence[StudentSpec]) -> list[Record]:
        trained.extend(specs)
        return fake_train(specs)

    assert make_driver(tmp_path, runs, train=train).run(set(runs.runs)) == "complete"
    assert len(trained) == 3 * STUDY.seeds  # a result says itself whose it is, whatever became of the spec beside it
    assert results(tmp_path) == before and told(tmp_path) == before_told
    assert Counter(runs.runs) == {f"fake/{number}": 1 for number in range(TOTAL)}


def test_a_lost_result_that_cannot_be_had_again_stays_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    runs = FakeRuns()
    assert make_driver(tmp_path, runs).run(set()) == "complete"
    before = told(tmp_path)
    (ledger.trial_dir(tmp_path, 3) / "result.json").unlink()

    def fail(_: Sequence[StudentSpec]) -> list[Record]:
        raise RuntimeError("no more")

    assert make_driver(tmp_path, runs, train=fail).run(set(runs.runs)) == "complete"
    assert told(tmp_path) == before
    assert "trial 3 was told, but its result is lost and could not be had again" in caplog.text


def test_a_worker_that_cannot_write_stops_the_sweep_and_costs_no_attempt(tmp_path: Path) -> None:
    runs = FakeRuns()
    driver = make_driver(tmp_path, runs)
    poll, reason = driver.executor.poll, "no space left"

    def full(timeout: float) -> list[Event]:
        return [Event(event.job, "failed", {"reason": reason, "full": True}) for event in poll(timeout)]

    driver.executor.poll = full  # type: ignore[method-assign]
    with pytest.raises(Halt, match="a worker cannot write, no space left"):
        driver.run(set())
    assert make_driver(tmp_path, runs).run(set(runs.runs)) == "complete"
    assert not list(tmp_path.glob("trials/*/attempts.json")) and not runs.failures


def lost_unbegun(driver: Driver, times: int) -> None:
    """Let a driver hear of so many cohorts, and then of each second one, that it was lost before it began."""
    poll, count = driver.executor.poll, 0

    def lost(timeout: float) -> list[Event]:
        nonlocal count
        events = poll(timeout)
        for place, event in enumerate(events):
            count += event.kind == "done"
            if event.kind == "done" and (count <= times or count % 2 == 0):
                for folder in event.job.body["folders"]:
                    (Path(folder) / "result.json").unlink()
                events[place] = Event(event.job, "failed", {"reason": "node7 has no torch", "unbegun": True})
        return events

    driver.executor.poll = lost  # type: ignore[method-assign]


def test_jobs_that_are_lost_before_they_begin_cost_no_attempt(tmp_path: Path) -> None:
    runs = FakeRuns()
    driver = make_driver(tmp_path, runs)
    lost_unbegun(driver, UNBEGUN - 1)
    assert driver.run(set()) == "complete"
    assert not list(tmp_path.glob("trials/*/attempts.json")) and not runs.failures


def test_where_a_job_is_lost_before_it_begins_again_and_again_the_sweep_stops(tmp_path: Path) -> None:
    runs = FakeRuns()
    driver = make_driver(tmp_path, runs)
    lost_unbegun(driver, 10**6)
    with pytest.raises(Halt, match=r"a job was lost 5 times before it began, .*: node7 has no torch"):
        driver.run(set())
    assert make_driver(tmp_path, runs).run(set(runs.runs)) == "complete"
    assert not list(tmp_path.glob("trials/*/attempts.json")) and not runs.failures


def test_at_most_a_round_that_was_trained_is_unknown_to_the_sampler(tmp_path: Path) -> None:
    """Students that train faster than trials are committed, as small ones do, would all be asked for blindly."""
    runs, ahead = FakeRuns(), []

    def train(specs: Sequence[StudentSpec]) -> list[Record]:
        ahead.append(len(ledger.numbers(tmp_path)) - len(runs.runs))
        return fake_train(specs)

    driver = make_driver(tmp_path, runs, trials=96, train=train, deterministic=False)
    assert driver.run(set()) == "complete"
    a_round = STUDY.batch + 3 * 2  # two controls at each of three widths
    assert max(ahead) < 2 * a_round  # of which one is being trained
