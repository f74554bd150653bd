"""A sweep that prunes, with a trainer that costs nothing: who goes on, kills at every step, failures, restarts."""

from __future__ import annotations

import math
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import brackets, files, ledger
from harness.analysis.load import load
from harness.driver import Progress
from harness.executors.trials import Keep, Training, run_cohort
from harness.kept import read_study
from harness.records import Record
from harness.rungs import Halving, best
from harness.space import Choice
from harness.spec import StudentSpec
from harness.values import digest, to_json
from harness.verify.trials import AGAIN, STAYS, look, told_faults
from tests.damage import Harm, sealed
from tests.fakes import STUDY, FakeRuns, FakeTraining, Killed, ask_twice, fake_record, make_driver
from tests.test_driver import die_at

HALVING = Halving(rungs=(2, 5), reduction_factor=2)
PRUNED = replace(STUDY, trials=24, batch=12, pruning=HALVING)
TOTAL = 24 + 3 * 8
STATES = ("complete", "pruned", "failed", "running")


def told(folder: Path) -> dict[int, Any]:
    """What the study on disk says of every trial."""
    sampler = make_driver(folder, FakeRuns(), study=PRUNED).sampler
    return {
        asked.number: (state, asked.arm, asked.round, asked.pruned_at, dict(asked.params))
        for state in STATES
        for asked in sampler.trials(state)
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FakeRuns, FakeTraining, int]:
    """An undisturbed deterministic sweep: its folder, runs and training, and how many moments it has."""
    folder, runs, training = tmp_path_factory.mktemp("undisturbed"), FakeRuns(), FakeTraining()
    with pytest.MonkeyPatch.context() as patch:
        moments = die_at(-1, patch)
        assert make_driver(folder, runs, study=PRUNED, parts=training.parts).run(set()) == "complete"
    return folder, runs, training, moments()


Undisturbed = tuple[Path, FakeRuns, FakeTraining, int]


def test_every_trial_is_told_once_as_complete_or_pruned(undisturbed: Undisturbed) -> None:
    folder, runs, _, _ = undisturbed
    found = told(folder)
    assert len(found) == TOTAL
    states = Counter(state for state, *_ in found.values())
    assert set(states) == {"complete", "pruned"} and states["pruned"] > TOTAL / 3
    assert Counter(runs.runs) == {f"fake/{number}": 1 for number in range(TOTAL)}
    assert {key for key, status in runs.statuses.items() if status == "pruned"} == {
        f"fake/{number}" for number, (state, *_) in found.items() if state == "pruned"
    }


def test_the_best_of_each_bracket_go_on(undisturbed: Undisturbed) -> None:
    """Recomputed here from the rung files: round, arm and width apart, controls among themselves."""
    folder, *_ = undisturbed
    groups: dict[Any, dict[int, ledger.TrialSpec]] = {}
    found = told(folder)
    for number, (_, arm, turn, *_) in found.items():
        trial = ledger.read_spec(ledger.trial_dir(folder, number))
        assert trial is not None and trial.round == turn
        groups.setdefault((turn, arm, trial.specs[0].width), {})[number] = trial
    assert len({turn for turn, *_ in groups}) == 2 and any(len(group) > 3 for group in groups.values())
    for group in groups.values():
        alive = set(group)
        for epoch in HALVING.rungs:
            records = {n: ledger.read_rung(ledger.trial_dir(folder, n), group[n], epoch) for n in group}
            scores = {n: brackets.score(own, "val_accuracy") for n, own in records.items() if own is not None}
            assert set(scores) == alive
            alive = set(best(scores, 2))
        assert alive == {number for number in group if found[number][0] == "complete"}


def test_a_pruned_trial_is_trained_no_further_and_a_whole_one_once(undisturbed: Undisturbed) -> None:
    folder, _, training, _ = undisturbed
    for number, (state, *_) in told(folder).items():
        place = ledger.trial_dir(folder, number)
        trial = ledger.read_spec(place)
        assert trial is not None
        records = ledger.read_result(place, trial)
        assert records is not None and {r.status for r in records} == {"ok" if state == "complete" else "pruned"}
        stopped = files.read_json(place / "result.json").get("pruned_at", 12)
        assert stopped in ((2, 5) if state == "pruned" else (12,))
        assert [training.epochs[digest(to_json(spec))] for spec in trial.specs] == [stopped] * 2
        assert not ledger.checkpoints(place)
        assert {p.name for p in place.glob("rung-*")} == {f"rung-{e}.json" for e in HALVING.rungs if e <= stopped}


@pytest.mark.parametrize("share", [0.02, 0.2, 0.33, 0.47, 0.6, 0.74, 0.9, 0.999])
def test_a_kill_at_any_moment_loses_and_doubles_nothing(share: float, tmp_path: Path, undisturbed: Undisturbed) -> None:
    folder, wanted, _, moments = undisturbed
    runs, training = FakeRuns(), FakeTraining()
    with pytest.MonkeyPatch.context() as patch:
        die_at(max(1, int(share * moments)), patch)
        with pytest.raises(Killed):
            make_driver(tmp_path, runs, study=PRUNED, parts=training.parts).run(set())
    again = make_driver(tmp_path, runs, study=PRUNED, parts=training.parts)
    assert again.run({key for key in runs.runs if key in runs.values}) == "complete"
    assert Counter(runs.runs) == {f"fake/{number}": 1 for number in range(TOTAL)}
    assert told(tmp_path) == told(folder)
    assert (runs.values, runs.statuses) == (wanted.values, wanted.statuses)
    assert max(training.epochs.values()) <= 12 + 7  # the longest way between two rungs, twice
    assert not list(tmp_path.rglob("rung-*.safetensors"))


def test_dying_again_and_again_still_ends_the_same(tmp_path: Path, undisturbed: Undisturbed) -> None:
    runs, deaths = FakeRuns(), 0
    for moment in [23, 71, 130, 2, 55, 1, 140, 12, 177, 3, 64]:
        with pytest.MonkeyPatch.context() as patch:
            die_at(moment, patch)
            try:
                make_driver(tmp_path, runs, study=PRUNED).run(set(runs.values))
            except Killed:
                deaths += 1
    assert deaths >= 5
    make_driver(tmp_path, runs, study=PRUNED).run(set(runs.values))
    assert told(tmp_path) == told(undisturbed[0])
    assert runs.statuses == undisturbed[1].statuses


def test_the_asynchronous_order_reaches_the_same_budget(tmp_path: Path) -> None:
    runs, seen = FakeRuns(), list[Progress]()
    driver = make_driver(tmp_path, runs, study=PRUNED, deterministic=False)
    driver.watch = seen.append
    assert driver.run(set()) == "complete"
    assert len(runs.runs) == TOTAL
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert (seen[-1].done, seen[-1].total, seen[-1].failed) == (TOTAL, TOTAL, 0)
    assert seen[-1].pruned == len(driver.sampler.trials("pruned")) > 0


@pytest.mark.parametrize(("first", "then", "seed"), [(4, 8, 0), (4, 8, 1), (6, 12, 2), (6, 12, 3), (18, 36, 0)])
def test_a_greater_budget_joins_no_bracket_that_was_decided(first: int, then: int, seed: int, tmp_path: Path) -> None:
    study = replace(PRUNED, space={**STUDY.space, "width": Choice(4)}, seed=seed)
    runs = FakeRuns()
    assert make_driver(tmp_path, runs, study=study, trials=first).run(set()) == "complete"
    before = len(runs.runs)
    driver = make_driver(tmp_path, runs, study=study, trials=then)
    assert driver.run(set(runs.runs)) == "complete"
    assert driver.sampler.trials("running") == [] and before < len(runs.runs) == len(set(runs.runs))
    trials = [asked for state in ("complete", "pruned") for asked in driver.sampler.trials(state)]
    rounds = [{asked.round for asked in trials if (asked.number < before) == early} for early in (True, False)]
    assert not rounds[0] & rounds[1]


def test_the_same_command_again_does_nothing(tmp_path: Path) -> None:
    runs, training = FakeRuns(), FakeTraining()
    make_driver(tmp_path, runs, study=PRUNED).run(set())
    assert make_driver(tmp_path, runs, study=PRUNED, parts=training.parts).run(set(runs.runs)) == "complete"
    assert len(runs.runs) == TOTAL and not training.epochs


@pytest.mark.parametrize("file", ["result.json", "*.json"])
def test_pruned_trials_of_which_all_is_lost_are_trained_up_to_their_rungs_again(
    file: str, tmp_path: Path, undisturbed: Undisturbed
) -> None:
    """Every one of them, so that no bracket could tell where it was pruned."""
    folder, runs, training = undisturbed[0], FakeRuns(), FakeTraining()
    make_driver(tmp_path, runs, study=PRUNED).run(set())
    before = told(tmp_path)
    pruned = [number for number, (state, *_) in before.items() if state == "pruned"]
    for number in pruned:
        for path in ledger.trial_dir(tmp_path, number).glob(file):
            path.unlink()
    again = make_driver(tmp_path, runs, study=PRUNED, parts=training.parts)
    assert again.run(set(runs.runs)) == "complete" and told(tmp_path) == before
    for number in pruned:
        found, wanted = (
            files.read_sealed(ledger.trial_dir(place, number) / "result.json") for place in (tmp_path, folder)
        )
        assert found and wanted and found["records"] == wanted["records"]
        assert found["pruned_at"] == wanted["pruned_at"] == before[number][3]
    assert not training.epochs if file == "result.json" else max(training.epochs.values()) == max(HALVING.rungs)


def test_runs_that_tracking_has_lost_are_logged_again(tmp_path: Path) -> None:
    runs, fresh = FakeRuns(), FakeRuns()
    make_driver(tmp_path, runs, study=PRUNED).run(set())
    make_driver(tmp_path, fresh, study=PRUNED).run(set())
    assert (fresh.values, fresh.statuses) == (runs.values, runs.statuses)


@pytest.mark.parametrize("at", [2, 5, None])
def test_a_trial_that_fails_at_a_rung_is_not_waited_for(at: int | None, tmp_path: Path) -> None:
    training, guilty = FakeTraining(), dict[str, float]()

    def train(
        specs: Sequence[StudentSpec], until: int | None, states: Mapping[StudentSpec, int], keep: Keep[int]
    ) -> list[tuple[list[Record], list[int]]]:
        for spec in specs:
            if until == at and spec.form == "kl" and guilty.setdefault("alpha", spec.alpha) == spec.alpha:
                raise RuntimeError("out of memory")
        return training.train(specs, until, states, keep)

    runs = FakeRuns()
    driver = make_driver(tmp_path, runs, study=PRUNED, parts=Training(train, training.save, training.load))
    assert driver.run(set()) == "complete"
    [failed] = driver.sampler.trials("failed")
    assert failed.params["alpha"] == guilty["alpha"] and len(runs.failures) == 1
    done = [*driver.sampler.trials("complete"), *driver.sampler.trials("pruned")]
    assert len(done) == TOTAL  # the failed one was replaced
    [replacement] = [asked for asked in done if asked.round < 0]
    assert replacement in driver.sampler.trials("complete")  # alone in its bracket


def test_a_trial_that_diverged_and_was_pruned_counts_as_both(tmp_path: Path) -> None:
    training = FakeTraining()

    def train(
        specs: Sequence[StudentSpec], until: int | None, states: Mapping[StudentSpec, int], keep: Keep[int]
    ) -> list[tuple[list[Record], list[int]]]:
        return [
            ([replace(record, status="diverged") if record.spec.form == "mse" else record for record in records], own)
            for records, own in training.train(specs, until, states, keep)
        ]

    driver = make_driver(tmp_path, FakeRuns(), study=PRUNED, parts=Training(train, training.save, training.load))
    assert driver.run(set()) == "complete"
    files.write_sealed(tmp_path / "study.json", {"name": "fake"})
    trials = load(tmp_path).trials
    lost, own = trials["form"] == "mse", trials["state"] == "pruned"
    assert (lost & own).sum() >= 3 and (trials.loc[lost, "status"] == "diverged").all()
    assert (trials.loc[own & ~lost, "status"] == "pruned").all()


def test_a_lost_checkpoint_costs_time_and_no_more(tmp_path: Path, undisturbed: Undisturbed) -> None:
    training = FakeTraining()
    parts = Training(training.train, training.save, lambda _path, _key: None)
    make_driver(tmp_path, FakeRuns(), study=PRUNED, parts=parts).run(set())
    assert told(tmp_path) == told(undisturbed[0])


def test_a_rung_that_is_published_is_not_trained_again(tmp_path: Path) -> None:
    training = FakeTraining()
    driver = make_driver(tmp_path, FakeRuns(), study=PRUNED)
    driver._ask_rounds(1)
    folders = [ledger.trial_dir(tmp_path, number) for number in ledger.numbers(tmp_path)]
    run_cohort(folders[:3], 2, training.parts)
    run_cohort(folders, 2, training.parts)
    run_cohort(folders[:1], 5, training.parts)
    assert sorted(ledger.checkpoints(folders[0])) == [5] and sorted(ledger.checkpoints(folders[1])) == [2]
    assert sum(training.epochs.values()) == 2 * (2 * len(folders) + 3)


def test_a_trial_is_ranked_by_the_studys_first_objective_on_validation() -> None:
    spec = STUDY.probes("digits")[0]
    record = fake_record(spec)
    assert brackets.score([record], "val_loss") == -record.metrics["val_loss"]
    assert brackets.score([record, replace(record, status="diverged")], "val_accuracy") == -math.inf
    assert replace(PRUNED, objectives=("macs", "val_loss")).pruned_by == "val_loss"
    assert replace(PRUNED, objectives=("macs",)).pruned_by == "val_accuracy"
    assert PRUNED.pruned_by == "val_accuracy"


def test_pruning_is_part_of_a_studys_identity_only_when_set() -> None:
    assert "pruning" not in STUDY.identity()
    assert PRUNED.identity()["pruning"] == {"rungs": (2, 5), "reduction_factor": 2}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pruning": (2, 4)}, r"pruning \(2, 4\) must be None or Halving"),
        ({"pruning": Halving((4, 12))}, "rung 12 must be below the 12 epochs"),
        ({"pruning": Halving((4,)), "fixed": {"epochs": 4}}, "rung 4 must be below the 4 epochs"),
    ],
)
def test_pruning_that_cannot_be_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(STUDY, **changed)


@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0.3, 0.99), harms=st.lists(st.tuples(st.integers(0, 999), sealed), min_size=8, max_size=8))
def test_a_sweep_whose_files_were_damaged_while_it_was_down_ends_the_same(
    share: float, harms: list[tuple[int, Harm]], tmp_path_factory: pytest.TempPathFactory, undisturbed: Undisturbed
) -> None:
    folder, wanted, _, moments = undisturbed
    place, runs = tmp_path_factory.mktemp("damaged"), FakeRuns()
    with pytest.MonkeyPatch.context() as patch:
        die_at(max(1, int(share * moments)), patch)
        with pytest.raises(Killed):
            make_driver(place, runs, study=PRUNED).run(set())
    files = sorted(place.rglob("rung-*.json")) * 3 + sorted(place.rglob("*.json"))
    for path, harm in {files[index % len(files)]: harm for index, harm in harms}.items():
        harm(path)
    assert make_driver(place, runs, study=PRUNED).run(set(runs.values)) == "complete"
    assert Counter(runs.runs) == {f"fake/{number}": 1 for number in range(TOTAL)}
    assert told(place) == told(folder)
    assert (runs.values, runs.statuses) == (wanted.values, wanted.statuses)


def test_a_trial_that_optuna_itself_asked_for_twice_is_in_no_bracket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_twice(monkeypatch, at=5)
    driver = make_driver(tmp_path, FakeRuns(), study=PRUNED, parts=FakeTraining().parts)
    assert driver.run(set()) == "complete"
    assert [asked.number for asked in driver.sampler.trials("failed")] == [5]
    assert driver.sampler.trials("running") == []


def test_a_pruned_trial_of_an_early_study_stays_as_it_is_and_verify_says_so(tmp_path: Path) -> None:
    """Of one that does not keep at which rung a trial was pruned."""
    runs = FakeRuns()
    driver = make_driver(tmp_path, runs, study=PRUNED)
    driver.run(set())
    [number, *_] = [asked.number for asked in driver.sampler.trials("pruned")]
    folder, [database] = ledger.trial_dir(tmp_path, number), tmp_path.glob("study.db")
    (folder / "result.json").unlink()
    url = f"sqlite:///{database}"
    for rows, todo in (("", AGAIN), ("DELETE FROM trial_user_attributes WHERE key = 'pruned_at'", STAYS)):
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute(rows)
        study = read_study(url, driver.plan.name)
        kept = study.trials[number]
        assert [one.todo for one in told_faults(kept, study, look(folder, "fake", study.config_hash, kept))] == [todo]
    assert make_driver(tmp_path, runs, study=PRUNED).run(set(runs.runs)) == "complete"
    assert not (folder / "result.json").exists()
