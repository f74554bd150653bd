"""What a kill leaves of a cohort: trials that were trained are published, students are kept, the rest is trained on."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from harness import cohort, files, ledger
from harness.cohort import State, checkpoint, training
from harness.costs import TOGETHER, How
from harness.executors import Job, remote, worker
from harness.executors.remote import Desk, Track
from harness.executors.trials import Keep, Training, run_cohort
from harness.files import cannot_be_written
from harness.ledger import TrialSpec
from harness.records import Record
from harness.spec import PLAIN, StudentSpec
from tests.students import assert_same, student

SEEDS = (1, 2)


class Killed(BaseException):
    """Stands for kill -9."""


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two trials of two students, which train for four epochs."""
    made = []
    for number, width in enumerate((4, 8)):
        specs = tuple(student(PLAIN, width=width, seed=seed, epochs=4) for seed in SEEDS)
        trial = TrialSpec("mine", number, "search", {}, specs, "hash", 0)
        made.append(ledger.write_spec(tmp_path, trial))
    return made


def run(
    folders: Sequence[Path], cache: Path, how: How = TOGETHER, *, die_at: int = -1, until: int | None = None
) -> list[tuple[StudentSpec, int]]:
    """Train the trials, and die at the so-manieth thing that is kept or given; what was begun, and at which epochs."""
    begun: list[tuple[StudentSpec, int]] = []
    moment = 0

    def tick() -> None:
        nonlocal moment
        moment += 1
        if moment == die_at:
            raise Killed

    def train(
        specs: Sequence[StudentSpec], until: int | None, states: Mapping[StudentSpec, State], keep: Keep[State]
    ) -> Iterator[tuple[list[Record], list[State]]]:
        begun.extend((spec, states[spec].epoch if spec in states else 0) for spec in specs)

        def kept(own: Sequence[StudentSpec], after: Sequence[State]) -> None:
            keep(own, after)
            tick()

        for reached in cohort.train_each(
            specs, cache=cache, device="cpu", until=until, states=states, how=how, keep=kept
        ):
            yield reached
            tick()

    run_cohort(folders, until, Training(train, checkpoint.save, checkpoint.load))
    return begun


def results(folders: Sequence[Path]) -> list[Record]:
    found: list[Record] = []
    for folder in folders:
        trial = ledger.read_spec(folder)
        assert trial is not None
        found += ledger.read_result(folder, trial) or ()
    return found


@pytest.fixture
def undisturbed(folders: list[Path], digits_cache: Path) -> list[Record]:
    run(folders, digits_cache)
    found = results(folders)
    for folder in folders:
        (folder / "result.json").unlink()
    return found


def assert_alike(found: Sequence[Record], expected: Sequence[Record]) -> None:
    assert [record.spec for record in found] == [record.spec for record in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.curve == other.curve and one.metrics == other.metrics


@pytest.mark.parametrize("moment", [1, 2, 3])
def test_a_cohort_that_is_killed_goes_on_from_what_was_kept_last(
    moment: int, folders: list[Path], digits_cache: Path, undisturbed: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "KEEP_EVERY", 0.0)
    with pytest.raises(Killed):
        run(folders, digits_cache, die_at=moment)
    assert results(folders) == []
    begun = run(folders, digits_cache)
    assert [epoch for _, epoch in begun] == [moment] * 4
    assert_alike(results(folders), undisturbed)  # to the bit
    assert not [path for folder in folders for path in folder.glob("student-*")]


def test_a_student_that_was_trained_is_not_trained_again_for_its_twin(
    folders: list[Path], digits_cache: Path, undisturbed: list[Record]
) -> None:
    with pytest.raises(Killed):
        run(folders, digits_cache, How(students=1), die_at=1)
    with pytest.raises(Killed):
        run(folders, digits_cache, How(students=1), die_at=2)
    assert len(run(folders, digits_cache, How(students=1))) == 1
    for one, other in zip(results(folders), undisturbed, strict=True):
        assert_same(one, other, 1e-4)


def test_a_trial_is_published_before_the_next_one_is_trained(folders: list[Path], digits_cache: Path) -> None:
    with pytest.raises(Killed):
        run(folders, digits_cache, How(students=2), die_at=1)
    assert [(folder / "result.json").exists() for folder in folders].count(True) == 1
    assert len(run(folders, digits_cache, How(students=2))) == 2


def test_what_was_kept_is_of_no_use_to_another_trial(
    folders: list[Path], digits_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "KEEP_EVERY", 0.0)
    with pytest.raises(Killed):
        run(folders[:1], digits_cache, die_at=1)
    for place, _ in enumerate(SEEDS):
        own, other = (ledger.student_checkpoint(folder, place) for folder in folders)
        other.write_bytes(own.read_bytes())
    assert [epoch for _, epoch in run(folders, digits_cache)] == [1, 1, 0, 0]


def test_a_rung_is_reached_from_what_was_kept_between_two(
    folders: list[Path], digits_cache: Path, undisturbed: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "KEEP_EVERY", 0.0)
    run(folders, digits_cache, until=1)
    with pytest.raises(Killed):
        run(folders, digits_cache, until=3, die_at=1)
    assert [epoch for _, epoch in run(folders, digits_cache, until=3)] == [2] * 4
    assert [epoch for _, epoch in run(folders, digits_cache)] == [3] * 4
    assert_alike(results(folders), undisturbed)


def test_without_a_long_training_nothing_is_kept(folders: list[Path], digits_cache: Path) -> None:
    with pytest.raises(Killed):
        run(folders, digits_cache, die_at=1)  # the first moment is the end
    assert not [path for folder in folders for path in folder.glob("student-*.safetensors")]


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_student_that_cannot_be_kept_does_not_cost_the_cohort(
    folders: list[Path],
    digits_cache: Path,
    undisturbed: list[Record],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(training, "KEEP_EVERY", 0.0)
    monkeypatch.setattr(checkpoint, "write_bytes", full)
    run(folders, digits_cache)
    assert_alike(results(folders), undisturbed)
    assert {line.partition(" (")[0] for line in caplog.messages} == {"how far a student is cannot be kept"}


def test_a_full_disk_is_a_failure_that_says_so_and_leaves_no_part_of_a_file(
    folders: list[Path], digits_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left") as caught:
            run(folders, digits_cache)
    assert cannot_be_written(caught.value)
    reason = f"No space left on device: {folders[0] / 'result.json'}"
    assert worker.said_of(caught.value) == {"reason": reason, "full": True}
    assert [path.name for folder in folders for path in folder.glob(".*.tmp")] == []
    run(folders, digits_cache)
    assert len(results(folders)) == 4


def test_a_disk_that_is_full_before_a_job_is_begun_on_another_node_is_said_so_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, job = Desk.of(tmp_path, tmp_path / "worker.log"), Job(1, "cohort", {})
    desk.open()
    monkeypatch.setattr(os, "fsync", full)
    event, data = remote.do(job, desk, "cpu")
    assert event == "failed" and data["full"] and data["reason"] == f"No space left on device: {desk.news(job)}"


def test_a_job_that_could_not_say_how_it_ended_for_a_full_disk_costs_no_trial_an_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, job = Desk.of(tmp_path, tmp_path / "worker.log"), Job(1, "cohort", {})
    desk.open()
    assert Track(job).lost("over", desk).data == {"reason": "over", "unbegun": True}
    desk.tell(job, "begun", {})
    assert Track(job).lost("over", desk).data == {"reason": "over"}
    desk.news(job).unlink()
    monkeypatch.setattr(os, "fsync", full)
    said = {"reason": f"No space left on device: {desk.folder / 'room'}", "full": True}
    assert Track(job).lost("over", desk).data == said
    assert list(desk.folder.iterdir()) == []


def test_a_wall_clock_that_is_set_back_makes_no_negative_time(
    folders: list[Path], digits_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10**9, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    run(folders, digits_cache)
    for folder in folders:
        facts = files.read_json(folder / "result.json")
        assert facts["finished"] >= facts["started"]
