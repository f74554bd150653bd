"""What a step costs is measured, kept and used; and however students are trained, their records are the same."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import cohort, targets
from harness.cohort import calibrate, calibration
from harness.cohort.company import cohorts, split
from harness.cohort.data import load_inputs
from harness.costs import Costs, How
from harness.executors import worker
from harness.spec import StudentSpec
from harness.values import to_json
from tests.students import assert_same, student
from tests.test_checkpoint import TASK


@pytest.fixture(scope="module")
def loose(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Students of a family that takes one network at a time, and does not pad."""
    file = tmp_path_factory.mktemp("task") / "small.py"
    file.write_text(TASK)
    return {"task": str(file), "family": "conv", "batch_size": 512}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """As few steps as show what is tested."""
    monkeypatch.setattr(calibration, "SIZES", (1, 4))
    monkeypatch.setattr(calibration, "STEPS", 1)
    monkeypatch.setattr(calibration, "SECONDS", 0.0)


def ways(costs: Costs) -> set[tuple[int, int, bool]]:
    """What was timed: width, students, looped."""
    return {(timing.width, timing.students, timing.looped) for timing in costs.timings}


def test_every_size_is_timed_at_every_width_that_networks_stand_at(tmp_path: Path) -> None:
    specs = [student(form, width=width) for form in ("kl", "ctkd", "mse") for width in (3, 12, 15, 16)]
    costs = calibrate(specs, tmp_path, "cpu", workers=2)
    assert ways(costs) == {(width, size, False) for width in (12, 16) for size in (1, 4)}
    assert all(timing.seconds > 0 for timing in costs.timings)
    assert [costs.stands_at(width) for width in (3, 12, 15, 16)] == [12, 12, 16, 16]
    assert 0 < costs.bytes_each[12] < costs.bytes_each[16]


def test_what_a_student_needs_is_its_worst_moment_of_a_step() -> None:
    """Also of a network whose backward pass autograd does not keep; activations grow with the part of a batch."""

    def needs(batch_size: int, micro_batch: int = 0) -> int:
        spec = student(width=16, batch_size=batch_size, dtype="float32")
        data = load_inputs(spec, "cpu")
        return calibration._bytes_each([dataclasses.replace(spec, micro_batch=micro_batch)], data, "cpu")

    hidden = 4 * 16 * 2  # bytes of both hidden layers of one example
    assert needs(512) - needs(256) > 256 * 2 * hidden  # they and their gradients
    assert needs(512, micro_batch=64) < needs(512) / 2


def test_a_family_of_one_network_at_a_time_is_timed_both_ways_at_its_true_widths(
    tmp_path: Path, loose: dict[str, Any]
) -> None:
    costs = calibrate([student(width=width, **loose) for width in (2, 3)], tmp_path, "cpu", workers=2)
    assert ways(costs) == {(width, size, looped) for width in (2, 3) for size in (1, 4) for looped in (False, True)}
    assert not costs.pads


def test_no_larger_cohort_is_tried_after_a_long_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "LONGEST", 0.0)
    assert ways(calibrate([student()], tmp_path, "cpu", workers=2)) == {(12, 1, False)}


@pytest.mark.parametrize("changed", [{"feature": "hint"}, {"dropout": 0.5}, {"teacher": "online"}, {"views": 2}])
def test_students_of_any_kind_can_be_measured(changed: dict[str, Any], tmp_path: Path) -> None:
    if "views" in changed:
        changed = {**changed, "transform": "shift"}
    assert calibrate([student("dist", **changed)], tmp_path, "cpu", workers=1).timings


def test_what_was_measured_is_kept_under_a_key_of_what_it_depends_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = calibrate([student()], tmp_path, "cpu", workers=2)

    def refuse(*_: object) -> None:
        raise AssertionError("measured again")

    with monkeypatch.context() as patched:
        patched.setattr(calibration, "_timings", refuse)
        again = calibrate([student(lr=0.1, alpha=0.7)], tmp_path, "cpu", workers=2)
        assert (again.timings, again.bytes_each) == (first.timings, first.bytes_each)
        others: list[tuple[StudentSpec, int]] = [
            (student(batch_size=64), 2), (student(width=16), 2), (student(optimiser="sgd"), 2),
            (student(dtype="float32"), 2), (student("mse"), 2), (student(), 1),
        ]  # fmt: skip
        for spec, workers in others:
            with pytest.raises(AssertionError, match="measured again"):
                calibrate([spec], tmp_path, "cpu", workers=workers)
    (file,) = tmp_path.glob("*.json")
    for damaged in ("", "[]", "{}", '{"timings": 3}', json.dumps({"timings": [], "bytes_each": {}, "pads": 1})):
        file.write_text(damaged)
        assert calibrate([student()], tmp_path, "cpu", workers=2).timings
        assert json.loads(file.read_text())["timings"]


@pytest.mark.parametrize("changed", [{}, {"feature": "hint"}, {"dropout": 0.4}, {"teacher": "self"}])
def test_students_in_a_loop_are_students_mapped(
    changed: dict[str, Any], loose: dict[str, Any], full_cache: Path
) -> None:
    specs = [student(f, width=w, seed=s, **loose, **changed) for f in ("kl", "mse") for w in (2, 3) for s in (1, 2)]
    targets.prepare(specs, full_cache, "cpu", lambda *_: None)
    mapped = cohort.train(specs, cache=full_cache)
    looped = cohort.train(specs, cache=full_cache, how=How(looped=True))
    for one, other in zip(looped, mapped, strict=True):
        assert_same(one, other, 1e-10)


def test_in_smaller_cohorts_the_records_are_the_same(digits_cache: Path) -> None:
    specs = [
        student(form, width=width, seed=seed) for form in ("kl", "mse", "ce") for width in (3, 8) for seed in (1, 2)
    ]
    targets.prepare(specs, digits_cache, "cpu", lambda *_: None)
    whole = cohort.train(specs, cache=digits_cache)
    for most, sizes in ((1, {1}), (4, {4}), (5, {4}), (7, {6}), (12, {12})):
        parts = cohort.train(specs, cache=digits_cache, how=How(most))
        assert {record.cost.cohort_size for record in parts} == sizes
        for one, other in zip(parts, whole, strict=True):
            assert_same(one, other, 1e-10)


def test_seeds_of_a_trial_stay_together_where_they_fit() -> None:
    (members,) = cohorts([student(lr=lr, seed=seed) for lr in (0.1, 0.2, 0.3, 0.4) for seed in (1, 2, 3)])
    for most in (3, 5, 6, 9):
        parts = split(members, most)
        assert sorted(map(repr, (spec for part in parts for spec in part))) == sorted(map(repr, members))
        for part in parts:
            assert len(part) <= most
            assert {(s.lr, s.seed) for s in part} == {(lr, seed) for lr in {s.lr for s in part} for seed in (1, 2, 3)}
    assert [len(part) for part in split(members, 2)] == [2] * 6
    assert split(members, 0) == split(members, 12) == [members]


def test_a_worker_trains_as_it_is_told(digits_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[How, int]] = []

    def train_each(specs: list[StudentSpec], *, how: How, **_: object) -> list[object]:  # noqa: ARG001
        seen.append((how, torch.get_num_threads()))
        return []

    monkeypatch.setattr(cohort, "train_each", train_each)
    monkeypatch.setattr(worker, "run_cohort", lambda _, __, told, ___: list(told.train([student()], None, {}, print)))
    threads = torch.get_num_threads()
    try:
        how = {"students": 4, "looped": True, "threads": 2}
        worker.work("cohort", {"folders": [], "how": how}, digits_cache, "cpu", lambda *_: None)
    finally:
        torch.set_num_threads(threads)
    assert seen == [(How(4, looped=True, threads=2), 2)]


def test_a_worker_tells_the_costs(tmp_path: Path) -> None:
    body = {"specs": [to_json(student())], "folder": str(tmp_path), "workers": 2}
    told = worker.work("calibrate", body, tmp_path, "cpu", lambda *_: None)
    assert json.loads(json.dumps(told))["timings"][0]["students"] == 1
