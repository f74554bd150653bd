"""The sweep's program: what a newcomer types, and what a stop leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
import optuna
import pytest

from harness import errands, files, ledger, manifest, session
from harness.costs import costs_from_json
from harness.executors.inline import Inline
from harness.locks import driver_of
from harness.options import Options
from harness.stopping import TimeUp
from tests.inline import sweep_here
from tests.typed import EPOCHS, STUDY, TOTAL, command, refused, typed

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small study and its undisturbed, deterministic results, of a process of its own."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "mine.py").write_text(STUDY)
    arguments = command(folder / "mine.py", "--out", folder / "results", "--deterministic", "--jobs", 2)
    drawn = {name: value for name, value in os.environ.items() if name != "HARNESS_FIGURES"}
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False, env=drawn)
    assert done.returncode == 0, done.stderr
    (folder / "printed.txt").write_text(done.stdout)
    return folder


def check_one_to_one(out: Path) -> dict[int, list[float]]:
    """Every trial COMPLETE once in Optuna and FINISHED once in MLflow, with equal values; gives the values."""
    study = optuna.load_study(study_name="mine", storage=f"sqlite:///{out / 'mine' / 'study.db'}")
    assert Counter(trial.state.name for trial in study.trials) == {"COMPLETE": TOTAL}
    client = mlflow.MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("mine")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    assert {run.info.status for run in runs} == {"FINISHED"}
    by_key = {run.data.tags["harness.key"]: run for run in runs}
    assert len(by_key) == len(runs) == TOTAL + 1
    for trial in study.trials:
        logged = by_key[f"mine/{trial.number}"]
        assert logged.data.metrics["val_accuracy"] == pytest.approx(trial.values[0], abs=1e-12)
        assert logged.data.metrics["num_params"] == trial.values[1]
        curve = client.get_metric_history(logged.info.run_id, "val_loss")
        assert [point.step for point in curve] == list(range(1, EPOCHS + 1))
    return {trial.number: trial.values for trial in study.trials}


def test_a_sweep_leaves_a_study_runs_and_a_report(home: Path) -> None:
    check_one_to_one(home / "results")
    folder = home / "results" / "mine"
    for name in ("trials.csv", "pareto.csv", "summary.md", "study.json"):
        assert (folder / name).stat().st_size > 0
    assert len(list((folder / "figures").glob("*.png"))) >= 5
    assert len(list((folder / "figures").glob("*.png"))) == len(list((folder / "figures").glob("*.pdf")))


def test_the_end_of_a_sweep_names_the_next_commands(home: Path) -> None:
    printed = (home / "printed.txt").read_text().replace("\n", "")
    assert "mlflow ui --backend-store-uri sqlite:///" in printed
    assert "python -m harness.report mine" in printed


def test_what_a_sweep_leaves_is_the_users_own(home: Path) -> None:
    found = list((home / "results").rglob("*"))
    assert {"mlflow.db", "study.db", "result.json", "summary.md", "worker.log", "weights.safetensors"} <= {
        path.name for path in found
    }
    assert [path for path in found if path.stat().st_mode & 0o077] == []
    assert not list((home / "results").rglob(".*.tmp"))


def test_the_search_never_reads_the_test_split(home: Path) -> None:
    results = [files.read_json(path) for path in (home / "results" / "mine" / "trials").glob("*/result.json")]
    records = [record for result in results for record in result["records"]]
    assert len(records) == 2 * TOTAL and not any(record["curve"]["test_accuracy"] for record in records)
    assert not any(name.startswith("test_") for record in records for name in record["metrics"])
    assert "the test split was not read" in (home / "results" / "mine" / "summary.md").read_text()


def test_the_same_command_again_does_nothing_and_says_the_same(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "results"
    shutil.copytree(home / "results", out)
    before, table = check_one_to_one(out), (out / "mine" / "trials.csv").read_bytes()
    of_a_killed_one = out / "mine" / "jobs" / "0123456789ab"
    of_a_killed_one.mkdir(parents=True)
    assert sweep_here(home / "mine.py", out, deterministic=True) == 0
    assert not of_a_killed_one.parent.exists()
    assert check_one_to_one(out) == before
    assert (out / "mine" / "trials.csv").read_bytes() == table


def test_a_plan_is_printed_and_the_sweep_that_follows_uses_it(
    home: Path, tmp_path: Path, digits_cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    assert typed([home / "mine.py", "--plan", "--quiet", "--out", tmp_path, "--jobs", 2], monkeypatch) == 0
    printed = capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["plans"]
    [file] = (tmp_path / "plans").glob("digits-mlp-*.json")
    measured = file.read_bytes()
    for ways in costs_from_json(json.loads(measured)).ways.values():  # a greater cohort never costs less
        assert all(f"{1e6 * timing.each:,.0f}" in printed for way in ways for timing in way)
    assert "times faster than one student at a time" in printed
    shutil.copytree(digits_cache, tmp_path / "teachers")
    assert sweep_here(home / "mine.py", tmp_path, trials=4, jobs=2) == 0
    assert file.read_bytes() == measured
    said = [json.loads((out / "mine" / "study.json").read_text())["cohorts"] for out in (tmp_path, home / "results")]
    assert said == [f"as measured on {json.loads(measured)['where']}", "by a fixed rule"]


def test_a_second_sweep_of_a_running_study_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = files.lock(home / "results" / "mine" / "driver.lock")
    assert held is not None
    words = refused([home / "mine.py", "--out", home / "results"], capsys, monkeypatch)
    held.release()
    assert "another sweep is running study 'mine'" in words


def test_two_sweeps_on_one_storage_are_refused_also_from_different_folders(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = tmp_path / "shared.db"
    held = files.lock(tmp_path / f".{storage.name}.driver.lock")
    assert held is not None
    arguments = [home / "mine.py", "--out", tmp_path / "b", "--storage", f"sqlite:///{storage}"]
    words = refused(arguments, capsys, monkeypatch)
    held.release()
    assert "another sweep is using the storage" in words and not storage.exists()


def test_the_database_of_a_running_study_is_no_storage_for_another_sweep(tmp_path: Path) -> None:
    """Not under its own name, nor by a link."""
    own, other = tmp_path / "a" / "mine", tmp_path / "b" / "mine"
    own.mkdir(parents=True)
    (tmp_path / "link.db").symlink_to(own / "study.db")
    for named in (own / "study.db", tmp_path / "link.db"):
        with driver_of("mine", own, None), pytest.raises(ValueError, match=r"another sweep is using the storage"):
            driver_of("mine", other, f"sqlite:///{named}").__enter__()
        with (
            driver_of("mine", other, f"sqlite:///{named}"),
            pytest.raises(ValueError, match=r"another sweep is using the storage .*a/mine/study.db; wait for it or"),
        ):
            driver_of("mine", own, None).__enter__()


def test_trials_of_a_storage_that_is_gone_are_kept_aside_and_not_reported(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "results"
    shutil.copytree(home / "results", out, ignore=shutil.ignore_patterns("study.db*", "mlflow.db*", ".mlflow*"))
    assert sweep_here(home / "mine.py", out, trials=1, deterministic=True) == 0
    assert "the study is new to its storage" in caplog.text and "is kept as" in caplog.text
    assert len(ledger.numbers(out / "mine")) == 1 + 2


IMPATIENT = "from harness import cli, stopping, sweep; stopping.TOGETHER = 0.0; cli.run(sweep.app)"
"""A sweep for which two signals at once are two."""


def begin(study: Path, out: Path, *arguments: object) -> subprocess.Popen[str]:
    """A sweep that was begun and has told some trials."""
    process = subprocess.Popen(
        [sys.executable, "-c", IMPATIENT, *command(study, "--out", out, "--jobs", 1, *arguments)[3:]],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not any((out / "mine" / "trials").glob("*/result.json")):
        time.sleep(0.05)
    return process


def test_a_signal_stops_a_sweep_which_says_how_to_go_on(home: Path, tmp_path: Path, digits_cache: Path) -> None:
    """SIGTERM here and Ctrl-C's below; each as the first and as the second is in `test_stopping`."""
    shutil.copytree(digits_cache, tmp_path / "teachers")
    process = begin(home / "mine.py", tmp_path, "--trials", 400)
    process.send_signal(signal.SIGTERM)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "stopped; nothing is lost" in printed
    assert f"python -m harness.sweep {home / 'mine.py'} --trials 400 --seed 0 --out {tmp_path}" in printed
    assert "Traceback" not in errors
    told = optuna.load_study(study_name="mine", storage=f"sqlite:///{tmp_path / 'mine' / 'study.db'}")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    [experiment] = [found for found in client.search_experiments() if found.name == "mine"]
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    statuses = {run.data.tags["harness.key"]: run.info.status for run in runs}
    complete = [trial.number for trial in told.trials if trial.state.name == "COMPLETE"]
    assert statuses == {"mine/sweep": "KILLED"} | {f"mine/{number}": "FINISHED" for number in complete}


def test_a_second_signal_is_immediate_and_loses_nothing(home: Path, tmp_path: Path, digits_cache: Path) -> None:
    shutil.copytree(digits_cache, tmp_path / "teachers")
    process = begin(home / "mine.py", tmp_path, "--deterministic")
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert sweep_here(home / "mine.py", tmp_path, deterministic=True) == 0
    assert check_one_to_one(tmp_path) == check_one_to_one(home / "results")


def test_a_sweep_whose_time_is_up_stops_and_goes_on_later(
    home: Path, tmp_path: Path, digits_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(digits_cache, tmp_path / "teachers")
    assert sweep_here(home / "mine.py", tmp_path, trials=400, timeout=4, deterministic=True) == 0
    assert "the time was up before the budget. It goes on with" in capsys.readouterr().out
    assert sweep_here(home / "mine.py", tmp_path, deterministic=True) == 0
    told = optuna.load_study(study_name="mine", storage=f"sqlite:///{tmp_path / 'mine' / 'study.db'}")
    assert len(told.trials) >= TOTAL and {trial.state.name for trial in told.trials} == {"COMPLETE"}


@pytest.mark.parametrize("moment", [(errands, "measure_latency"), (manifest, "sweep_metrics")])
def test_a_signal_near_the_end_ends_it_and_begins_no_other_search(
    moment: tuple[Any, str], home: Path, tmp_path: Path, digits_cache: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def interrupted(*_: Any) -> Any:
        with suppress(KeyboardInterrupt):  # as Python does in a callback of its own
            os.kill(os.getpid(), signal.SIGINT)
        return {}

    shutil.copytree(digits_cache, tmp_path / "teachers")
    monkeypatch.setattr(*moment, interrupted)
    assert sweep_here(home / "mine.py", tmp_path, searches=2, trials=2, confirm=1) == 130
    assert (tmp_path / "mine-seed1").exists() and not (tmp_path / "mine").exists()
    reported = (tmp_path / "mine-seed1" / "report.html").exists()
    assert "stopped; nothing is lost" in capsys.readouterr().out  # the other search is still to be made
    assert reported is (moment[1] == "sweep_metrics")


def test_a_signal_as_a_search_leaves_its_workers_ends_the_others_in_order(
    home: Path, tmp_path: Path, digits_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Inline, "close", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    shutil.copytree(digits_cache, tmp_path / "teachers")
    assert sweep_here(home / "mine.py", tmp_path, searches=2, trials=2, confirm=0) == 143
    assert (tmp_path / "mine-seed1" / "report.html").exists() and not (tmp_path / "mine").exists()
    said = capsys.readouterr().out
    assert said.count("stopped; nothing is lost") == 1 and "--searches 2" in said


@pytest.mark.parametrize("done", [True, False])
def test_time_that_is_up_between_two_searches_is_said(
    done: bool, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the command begins anew unless the first search has come to that."""

    def search(options: Options) -> tuple[int, bool]:
        time.sleep(options.timeout or 0)
        return 0, options.new and not done

    monkeypatch.setattr(session, "_sweep", search)
    assert sweep_here(home / "mine.py", tmp_path, searches=2, timeout=2, new=True) == 0
    said = capsys.readouterr().out
    assert "the time was up before search 2 of 2. It goes on with" in said and "--searches 2" in said
    assert ("--new" in said) is not done


def test_a_sweep_whose_time_is_up_before_its_teacher_is_ready_says_so(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def time_up(*_: Any) -> None:
        raise TimeUp("its teacher was ready")

    monkeypatch.setattr(errands, "prepare", time_up)
    assert sweep_here(home / "mine.py", tmp_path, timeout=60) == 0
    said = capsys.readouterr().out
    assert "the time was up before its teacher was ready. It goes on with\npython -m harness.sweep" in said


def test_a_study_that_has_changed_since_its_first_sweep_is_refused_and_kept(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = check_one_to_one(home / "results")
    (tmp_path / "mine.py").write_text(STUDY.replace("Float(0.0, 1.0)", "Float(0.0, 0.5)"))
    words = refused([tmp_path / "mine.py", "--out", home / "results"], capsys, monkeypatch)
    assert "holds another study called 'mine'; restore what has changed, choose another --out, or begin anew" in words
    assert words.rstrip().endswith("Changed: space.alpha.high was 1.0, and is 0.5")
    assert check_one_to_one(home / "results") == before


def test_the_environment_names_the_stores(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTUNA_STORAGE", f"sqlite:///{tmp_path / 'here.db'}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'ml.db'}")
    shutil.copytree(home / "results" / "teachers", tmp_path / "results" / "teachers")
    arguments = [home / "mine.py", "--out", tmp_path / "results", "--trials", 1, "--deterministic"]
    assert typed(arguments, monkeypatch) == 0
    assert (tmp_path / "here.db").exists() and (tmp_path / "ml.db").exists()
    assert not (tmp_path / "results" / "mine" / "study.db").exists()


def test_results_are_plain_json(home: Path) -> None:
    for path in (home / "results" / "mine" / "trials").glob("*/result.json"):
        assert {record["status"] for record in json.loads(path.read_text())["records"]} == {"ok"}
