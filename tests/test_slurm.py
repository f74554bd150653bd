"""Sweeps as Slurm jobs: submitit's own local cluster, and a `sbatch` and `sacct` of our own for what Slurm is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import driver as driver_module
from harness import ledger
from harness.driver import Driver
from harness.executors import slurm as slurm_module
from harness.executors.slurm import Slurm, parameters
from tests import elsewhere
from tests.fakes import STUDY, FakeRuns, make_driver

ROOT = Path(__file__).parents[1]
SMALL = replace(STUDY, trials=2, batch=2, controls=0)  # every job is a process that loads torch
LOCAL = {"cluster": "local"}
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")  # submitit's own


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(slurm_module, "run_job", elsewhere.run_on_slurm)
    elsewhere.arrange(tmp_path / "cache")
    return tmp_path / "cache"


def sweep(driver: Driver, cache: Path, options: Mapping[str, str] = LOCAL) -> str:
    """Run a driver's study as jobs; gives why it stopped."""
    executor = Slurm(2, cache, "cpu", driver.plan.study_dir / "worker.log", options)
    driver = replace(driver, executor=executor)
    try:
        return driver.run(set())
    finally:
        executor.close()


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"nodes": "2"}, "unknown option 'nodes' of --executor slurm; options are cluster, partition, account, qos, "
                         "constraint, time, cpus, gpus, memory, setup"),
        ({"cluster": "lsf"}, "option cluster=lsf must be one of slurm, local"),
        ({"time": "2:00", **LOCAL}, "option time=2:00 must be a whole number of at least 1"),
        ({"partition": "x", **LOCAL}, "option partition is for Slurm, and with cluster=local there is none"),
        ({"gpus": "0.5", **LOCAL}, "option gpus=0.5 must be a whole number of at least 0"),
        ({}, "sbatch and srun are not here; start the sweep on a node from which jobs can be submitted"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_are_refused_in_a_line(
    said: dict[str, str], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match=r"option|sbatch") as raised:
        parameters(said, "fake")
    assert str(raised.value) == complaint


def test_a_study_is_checked_here_without_a_job(tmp_path: Path) -> None:
    executor = Slurm(1, tmp_path / "cache", "auto", tmp_path / "worker.log", {**LOCAL, "gpus": "1"})
    executor.submit("describe", {"specs": [{"task": "digits", "family": "mlp", "width": 4, "form": "kl", "seed": 0}]})
    events: list[Any] = []
    while executor.num_pending:
        events += executor.poll(1.0)
    executor.close()
    assert [event.kind for event in events] == ["refused"] and "temperature" in events[0].data["reason"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("harm", ["killed", "preempted"])
def test_a_job_that_is_lost_costs_the_guilty_trial_and_one_that_is_preempted_none(
    harm: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_module, "ATTEMPTS", 1)
    runs = FakeRuns()
    driver = make_driver(tmp_path / "fake", runs, study=SMALL)
    guilty = driver.sampler.ask("search").params["lr"]  # asked, and then the driver died
    elsewhere.arrange(cache, harm=harm, guilty=float(guilty))
    driver = make_driver(tmp_path / "fake", runs, study=SMALL)
    assert sweep(driver, cache) == "complete"
    assert len(driver.sampler.trials("complete")) == SMALL.trials
    assert [asked.number for asked in driver.sampler.trials("failed")] == ([0] if harm == "killed" else [])
    assert all("Slurm job" in reason for reason in runs.failures.values())
    assert not (tmp_path / "fake" / "jobs").exists()
    assert list((tmp_path / "fake").glob("worker-*.log"))


SCRIPT = """
import sys
from pathlib import Path
from harness.executors import slurm
from tests import elsewhere
from tests.fakes import FakeRuns, make_driver
from tests.test_slurm import SMALL, sweep

slurm.run_job = elsewhere.run_on_slurm
folder = Path(sys.argv[1])
print(sweep(make_driver(folder / "fake", FakeRuns(), study=SMALL, deterministic=False), folder / "cache"))
"""


def test_jobs_outlive_their_driver_and_the_next_one_takes_what_they_publish(tmp_path: Path, cache: Path) -> None:
    elsewhere.arrange(cache, held=True)
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    while not list((tmp_path / "fake" / "jobs").glob("*/*.json")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    [desk] = (tmp_path / "fake" / "jobs").iterdir()
    assert desk.stat().st_mode & 0o777 == 0o700
    elsewhere.let_go(cache)
    driver = make_driver(tmp_path / "fake", FakeRuns(), study=SMALL)
    assert sweep(driver, cache) == "complete"
    numbers = [asked.number for asked in driver.sampler.trials("complete")]
    assert Counter(numbers) == Counter(range(SMALL.trials)) == Counter(ledger.numbers(tmp_path / "fake"))
    assert not driver.sampler.trials("failed") and not driver.sampler.trials("running")


COMMANDS = {
    "srun": "",
    "sbatch": 'cp "$1" {folder}/asked; {sbatch}',
    "sacct": "echo 'JobID|State|NodeList'; echo '7|{state}|node3'",
    "scancel": "echo $* >> {folder}/cancelled",
}
"""A Slurm that queues nothing and says what it is told to."""


def pretend(folder: Path, monkeypatch: pytest.MonkeyPatch, *, sbatch: str, state: str = "PENDING") -> None:
    """Put such a Slurm on the path."""
    (folder / "bin").mkdir()
    for name, text in COMMANDS.items():
        file = folder / "bin" / name
        file.write_text("#!/bin/sh\n" + text.format(folder=folder, sbatch=sbatch, state=state) + "\n")
        file.chmod(0o700)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")


def test_slurm_is_told_what_the_options_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(tmp_path, monkeypatch, sbatch="echo Submitted batch job 7", state="NODE_FAIL")
    said = {"partition": "long", "account": "us", "time": "90", "cpus": "2", "gpus": "1", "memory": "8GiB"}
    executor = Slurm(1, tmp_path, "auto", tmp_path / "mine" / "worker.log", {**said, "setup": "module load cuda"})
    executor.submit("teacher", {"specs": []})
    executor.submit("cohort", {"folders": []})
    assert (executor.num_waiting, executor.num_pending) == (1, 2)
    lines = (tmp_path / "asked").read_text().splitlines()
    asked = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    assert {
        "partition=long", "account=us", "time=90", "cpus-per-task=2", "gpus-per-node=1", "mem=8GB",
        "job-name=harness-mine",
    } <= asked  # fmt: skip
    assert "export OMP_NUM_THREADS=1" in lines and "module load cuda" in lines
    monkeypatch.setitem(slurm_module.ASKED_EVERY, "slurm", 0.0)
    assert executor.poll(0.0) == []  # its last word may be on its way
    [event] = executor.poll(2.0)
    assert (event.job.kind, event.kind) == ("teacher", "failed")
    assert event.data == {"reason": "Slurm job 7 is node_fail", "unbegun": True}
    executor.close()
    assert (tmp_path / "cancelled").read_text().split() == ["7", "7"]  # the one that failed, and the next


def test_a_slurm_that_takes_no_job_is_said_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(tmp_path, monkeypatch, sbatch="echo 'invalid partition' >&2; exit 1")
    executor = Slurm(1, tmp_path, "cpu", tmp_path / "mine" / "worker.log", {})
    with pytest.raises(ValueError, match=r"Slurm does not take the job: .*invalid partition"):
        executor.submit("teacher", {"specs": []})
    executor.close()
    assert not (tmp_path / "mine" / "jobs").exists()
