"""Worker processes: what they are given, and what they cost when they are lost."""

from __future__ import annotations

import platform
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness import driver as driver_module
from harness.executors import local
from harness.executors.local import Local, keep_memory
from tests.fakes import STUDY, FakeRuns, make_driver


@pytest.mark.parametrize(
    ("library", "threshold"),
    [(("glibc", "2.36"), 2**32), (("glibc", "2.31"), 2**25), (("glibc", "2"), 2**25), (("", ""), None)],
)
def test_an_allocator_is_told_only_what_it_takes(
    library: tuple[str, str], threshold: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: library)
    said = keep_memory()
    assert said.get("MALLOC_MMAP_THRESHOLD_") == (None if threshold is None else str(threshold))


SCRIPT = """
import os, signal, sys, time
from harness.executors import worker
from tests.fakes import fake_train

def train_each(specs, **_):
    if any(spec.lr == float(sys.argv[4]) for spec in specs):
        {harm}
    yield fake_train(specs), []

worker.targets.prepare = lambda *_: None
worker.cohort.train_each = train_each
worker.main()
"""
HARMS = {
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", "worker killed by SIGKILL"),
    "hung": ("time.sleep(1000)", "hung: not done after 1 seconds; worker.log has where it was"),
    "stopped": ("os.kill(os.getpid(), signal.SIGSTOP)", "hung: not done after 1 seconds; worker.log has where it was"),
    "raises": ("raise MemoryError('no room')", "MemoryError: no room"),
}


@pytest.mark.parametrize("kind", HARMS)
def test_a_worker_that_is_lost_costs_the_guilty_trial_and_no_other(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harm, reason = HARMS[kind]
    (tmp_path / "worker.py").write_text(SCRIPT.replace("{harm}", harm))
    monkeypatch.setattr(local, "PATIENCE", 1.0)
    monkeypatch.setattr(driver_module, "ATTEMPTS", 1)
    study = replace(STUDY, trials=8, batch=8, controls=0)
    runs = FakeRuns()
    driver = make_driver(tmp_path / "mine", runs, study=study)
    driver.plan = replace(driver.plan, limit=1.0)
    guilty = driver.sampler.ask("search").params["lr"]  # asked, and then the driver died
    driver = make_driver(tmp_path / "mine", runs, study=study)
    driver.plan = replace(driver.plan, limit=1.0)
    executor = Local(2, tmp_path, "cpu", tmp_path / "worker.log")
    executor._command = [sys.executable, str(tmp_path / "worker.py"), *executor._command[3:], repr(guilty)]
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    driver.executor = executor
    try:
        assert driver.run(set()) == "complete"
    finally:
        executor.close()
    assert [asked.number for asked in driver.sampler.trials("failed")] == [0]
    assert runs.failures == {"fake/0": reason}
    assert len(driver.sampler.trials("complete")) == 8
    if kind == "hung":
        assert "train_each" in (tmp_path / "worker.log").read_text()
