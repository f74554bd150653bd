"""What a sweep has done before its first trial, by executors that are made up."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness import cli, errands
from harness.executors import Event
from harness.executors.inline import Inline
from harness.options import Options
from harness.stopping import TimeUp
from harness.study_files import load_study

OPTIONS = Options(
    *load_study("digits", cli.STUDIES), trials=4, jobs=1, out=Path("nowhere"), storage=None, tracking_uri=None,
    deterministic=False, device="cpu", timeout=None, quiet=True,
)  # fmt: skip


def test_a_sweep_goes_on_where_steps_cannot_be_measured(caplog: pytest.LogCaptureFixture) -> None:
    asked = []

    def work(kind: str, _: Mapping[str, Any]) -> dict[str, Any]:
        asked.append(kind)
        if kind == "calibrate":
            raise RuntimeError("out of memory")
        return {"val_accuracy": 0.9, "num_params": 5}

    console = Console(quiet=True)
    teacher, costs = errands.prepare(OPTIONS, Inline(work), console, Future())
    assert (teacher["num_params"], costs) == (5, None)
    assert "steps could not be measured (out of memory); cohorts have a fixed size" in caplog.text
    fixed = replace(OPTIONS, deterministic=True)
    assert errands.prepare(fixed, Inline(work), console, Future())[1] is None
    assert asked == ["teacher", "calibrate", "teacher"]


def test_a_worker_that_is_lost_before_the_first_trial_costs_a_try(caplog: pytest.LogCaptureFixture) -> None:
    fixed = replace(OPTIONS, deterministic=True)
    left = Counter({"teacher": 2, "describe": 2})

    def work(kind: str, _: Mapping[str, Any]) -> dict[str, Any]:
        if left[kind]:
            left[kind] -= 1
            raise RuntimeError("worker killed by SIGKILL")
        return {"val_accuracy": 0.9, "num_params": 5}

    assert errands.result(Inline(work), "describe", {})["num_params"] == 5
    assert errands.prepare(fixed, Inline(work), Console(quiet=True), Future())[0]["num_params"] == 5
    assert caplog.text.count("there is no teacher yet, and it is tried again: worker killed by SIGKILL") == 2
    left.update({"teacher": 3, "describe": 3})
    with pytest.raises(ValueError, match="worker killed by SIGKILL"):
        errands.result(Inline(work), "describe", {})
    with pytest.raises(ValueError, match="there is no teacher: worker killed by SIGKILL"):
        errands.prepare(fixed, Inline(work), Console(quiet=True), Future())


def test_what_a_job_before_it_says_is_not_taken_for_a_jobs_result() -> None:
    executor = Inline(lambda kind, _: {"kind": kind})
    executor.submit("latency", {})  # which the deadline has cut off
    assert errands.result(executor, "teacher", {}) == {"kind": "teacher"}


class Teaching(Inline):
    """Is never done with the teacher, or with measuring steps."""

    def __init__(self, endless: str) -> None:
        super().__init__(lambda *_: {"val_accuracy": 0.9, "num_params": 5})
        self.endless = endless
        self.said: list[Mapping[str, Any]] = [{"val_accuracy": 0.5, "done": 1, "total": 9}]

    def poll(self, timeout: float) -> list[Event]:
        if self._jobs and self._jobs[0].kind == self.endless:
            return [Event(self._jobs[0], "progress", said) for said in self.said]
        return super().poll(timeout)


@pytest.mark.parametrize("endless", ["teacher", "calibrate"])
def test_a_sweep_whose_time_is_up_waits_for_no_teacher_and_no_measurement(endless: str) -> None:
    """One that is there already is waited for: a study that is done has its report whatever the time."""
    if endless == "teacher":
        with pytest.raises(TimeUp):
            errands.prepare(OPTIONS, Teaching(endless), Console(quiet=True), Future(), 0.0)
    else:
        teacher, costs = errands.prepare(OPTIONS, Teaching(endless), Console(quiet=True), Future(), time.monotonic())
        assert (teacher["num_params"], costs) == (5, None)


@pytest.mark.parametrize("kind", ["teacher", "describe"])
def test_a_sweep_whose_time_is_up_waits_for_nothing_that_tells_no_progress(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a teacher that another sweep trains, whose lock a worker waits for."""
    monkeypatch.setattr(errands, "LATE", 0.2)
    silent = Teaching(kind)
    silent.said = []
    with pytest.raises(
        TimeUp, match="its teacher was ready" if kind == "teacher" else "the study was checked and its data"
    ):
        if kind == "teacher":
            errands.prepare(OPTIONS, silent, Console(quiet=True), Future(), time.monotonic())
        else:
            errands.result(silent, "describe", {}, deadline=time.monotonic())
