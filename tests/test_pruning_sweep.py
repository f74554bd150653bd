"""A study that prunes, trained for real: told and logged alike, reported, killed with -9 and resumed to the same."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import optuna
import pandas as pd
import pytest

from harness import files, ledger
from harness.report.drawings import drawings
from harness.report.findings import judge
from tests.inline import sweep_here

ROOT = Path(__file__).parents[1]
STUDY = """
from harness.space import Choice, Float, Halving, Study
STUDY = Study(
    task="digits",
    family="mlp",
    space={
        "width": Choice(4, 7),
        "form": Choice("kl", "ctkd", "mse"),
        "alpha": Float(0.0, 1.0),
        "lr": Float(1e-3, 1e-1, log=True),
    },
    fixed={"epochs": 24, "patience": 5},
    trials=12,
    seeds=2,
    batch=12,
    other_controls=(),
    confirm=0,
    pruning=Halving(rungs=(2, 8)),
)
"""
TOTAL = 12 + 2 * 6


def command(home: Path, out: Path) -> list[str]:
    options = ["--out", str(out), "--deterministic", "--quiet", "--jobs", "2"]
    return [sys.executable, "-m", "harness.sweep", str(home / "mine.py"), *options]


@pytest.fixture(scope="module")
def home(digits_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small study that prunes and its undisturbed, deterministic results."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "mine.py").write_text(STUDY)
    shutil.copytree(digits_cache, folder / "results" / "teachers")
    assert sweep_here(folder / "mine.py", folder / "results", deterministic=True, quiet=True, jobs=2) == 0
    return folder


def told(out: Path) -> Mapping[int, Any]:
    """State, values and parameters of every trial in Optuna; MLflow has one run of each, and says the same."""
    study = optuna.load_study(study_name="mine", storage=f"sqlite:///{out / 'mine' / 'study.db'}")
    client = mlflow.MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("mine")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    assert {run.info.status for run in runs} == {"FINISHED"} and len(runs) == TOTAL + 1
    status = {run.data.tags["harness.key"]: run.data.tags.get("status") for run in runs}
    for trial in study.trials:
        assert (status[f"mine/{trial.number}"] == "pruned") == (trial.state.name == "PRUNED")
    return {
        trial.number: (trial.state.name, trial.values, trial.params)  # noqa: PD011 - Optuna's, not pandas'
        for trial in study.trials
    }


def measured(result: Mapping[str, Any]) -> list[Any]:
    """What a result says of its students, but for what their training cost."""
    return [{name: value for name, value in record.items() if name != "cost"} for record in result["records"]]


def written(out: Path) -> int:
    """How much of a sweep is on disk: the rungs that trials have reached, and their results."""
    files = (out / "mine" / "trials").glob("*/*.json")
    return sum(file.name.startswith("rung-") or file.name == "result.json" for file in files)


def test_a_sweep_that_prunes_tells_logs_and_reports(home: Path) -> None:
    states = Counter(state for state, *_ in told(home / "results").values())
    assert set(states) == {"COMPLETE", "PRUNED"} and sum(states.values()) == TOTAL
    assert states["PRUNED"] >= TOTAL / 2
    folder = home / "results" / "mine"
    trials = pd.read_csv(folder / "trials.csv")
    assert Counter(trials["state"]) == {"complete": states["COMPLETE"], "pruned": states["PRUNED"]}
    assert set(trials["pruned_at"].dropna()) == {2, 8} and not trials.loc[trials["state"] == "pruned", "on_front"].any()
    assert "pruned at epoch 2" in (folder / "summary.md").read_text()
    assert not list(folder.rglob("*.safetensors"))
    assert all(drawing.draw().axes for drawing in drawings(judge(folder)))


def test_pruned_trials_that_lost_their_results_have_them_again(home: Path, tmp_path: Path) -> None:
    """From their rungs; and trained again where those are lost too, of all trials of their brackets."""
    shutil.copytree(home / "results", tmp_path / "results")
    table = pd.read_csv(tmp_path / "results" / "mine" / "trials.csv")
    pruned = table[table["state"] == "pruned"]
    folders = {
        epoch: [ledger.trial_dir(tmp_path / "results" / "mine", number) for number in own["number"]]
        for epoch, own in pruned.groupby("pruned_at")
    }
    for folder in [*folders[2], folders[8][0], folders[8][1]]:
        (folder / "result.json").unlink()
    for folder in [*folders[2][::2], folders[8][1]]:
        for rung in folder.glob("rung-*.json"):
            rung.unlink()
    assert sweep_here(home / "mine.py", tmp_path / "results", deterministic=True, quiet=True, jobs=2) == 0
    for folder in [*folders[2], *folders[8][:2]]:
        whole = home / "results" / folder.relative_to(tmp_path / "results")
        one, other = (files.read_sealed(place / "result.json") for place in (folder, whole))
        assert one and other and one["pruned_at"] == other["pruned_at"] and not list(folder.glob("*.safetensors"))
        assert measured(one) == measured(other)
    assert told(tmp_path / "results") == told(home / "results")


def test_killed_again_and_again_it_ends_as_an_undisturbed_run(home: Path, digits_cache: Path, tmp_path: Path) -> None:
    """kill -9 of the driver at random moments of the training, on real processes and real stores; its workers finish
    their part."""
    shutil.copytree(digits_cache, tmp_path / "teachers")
    moments = random.Random(int.from_bytes(os.urandom(4), "big"))
    total, kills = written(home / "results"), 0
    for most in (total // 2, total):
        enough = moments.randrange(min(written(tmp_path), most - 2) + 1, most)
        process = subprocess.Popen(command(home, tmp_path), cwd=ROOT)
        while process.poll() is None and written(tmp_path) < enough:
            time.sleep(0.01)
        if process.poll() is None:
            kills += 1
            process.send_signal(signal.SIGKILL)
        process.wait()
    assert kills
    assert sweep_here(home / "mine.py", tmp_path, deterministic=True, quiet=True, jobs=2) == 0
    assert told(tmp_path) == told(home / "results")
    for number in range(TOTAL):
        one, other = (ledger.trial_dir(out / "mine", number) for out in (tmp_path, home / "results"))
        trial = ledger.read_spec(other)
        assert trial is not None
        records = [ledger.read_result(place, trial) for place in (one, other)]
        assert records[0] is not None and records[1] is not None
        for mine, whole in zip(records[0], records[1], strict=True):
            assert (mine.curve, mine.metrics, mine.status) == (whole.curve, whole.metrics, whole.status)
