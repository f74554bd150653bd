"""The sweep's program: what a newcomer types, what a careless one types, and what a kill leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import optuna
import pytest
from rich.console import Console

from harness import cli, ledger, manifest, preparing, session, sweep
from harness.costs import costs_from_json
from harness.executors import Event
from harness.executors.inline import Inline
from harness.options import Options
from harness.stopping import TimeUp
from harness.study_files import load_study
from tests.inline import jobs_here, sweep_here

ROOT = Path(__file__).parents[1]
STUDY = """
from harness.space import Choice, Float, Study
STUDY = Study(
    task="digits",
    family="mlp",
    space={
        "width": Choice(4, 8),
        "form": Choice("kl", "mse"),
        "alpha": Float(0.0, 1.0),
        "temperature": Float(1.0, 10.0, when={"form": ("kl",)}),
        "lr": Float(1e-3, 1e-1, log=True),
    },
    fixed={"epochs": 6},
    trials=10,
    seeds=2,
    batch=4,
    other_controls=(),
    confirm=0,
)
"""
EPOCHS = 6
TOTAL = 10 + 2 * 5


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "harness.sweep", *map(str, arguments)]


def typed(arguments: Sequence[object], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of a sweep that is typed so, in this process."""
    monkeypatch.setattr(sys, "argv", ["harness.sweep", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop, jobs_here():
        cli.run(sweep.app)
    assert isinstance(stop.value.code, int)
    return stop.value.code


def refused(arguments: Sequence[object], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The one line of a sweep that is refused with exit code 2."""
    assert typed(arguments, monkeypatch) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    return line


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
    results = [ledger.read_json(path) for path in (home / "results" / "mine" / "trials").glob("*/result.json")]
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


def test_a_sweep_goes_on_where_steps_cannot_be_measured(caplog: pytest.LogCaptureFixture) -> None:
    name, file, study = load_study("digits", cli.STUDIES)
    options = Options(
        name, file, study, trials=4, jobs=1, out=Path("nowhere"), storage=None, tracking_uri=None,
        deterministic=False, device="cpu", timeout=None, quiet=True,
    )  # fmt: skip
    asked = []

    def work(kind: str, _: Mapping[str, Any]) -> dict[str, Any]:
        asked.append(kind)
        if kind == "calibrate":
            raise RuntimeError("out of memory")
        return {"val_accuracy": 0.9, "num_params": 5}

    console = Console(quiet=True)
    teacher, costs = preparing.prepare(options, Inline(work), console, Future())
    assert (teacher["num_params"], costs) == (5, None)
    assert "steps could not be measured (out of memory); cohorts have a fixed size" in caplog.text
    fixed = replace(options, deterministic=True)
    assert preparing.prepare(fixed, Inline(work), console, Future())[1] is None
    assert asked == ["teacher", "calibrate", "teacher"]


def test_a_second_sweep_of_a_running_study_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = ledger.lock(home / "results" / "mine" / "driver.lock")
    assert held is not None
    words = refused([home / "mine.py", "--out", home / "results"], capsys, monkeypatch)
    held.release()
    assert "another sweep is running study 'mine'" in words


def test_two_sweeps_on_one_storage_are_refused_also_from_different_folders(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = tmp_path / "shared.db"
    held = ledger.lock(tmp_path / f".{storage.name}.driver.lock")
    assert held is not None
    arguments = [home / "mine.py", "--out", tmp_path / "b", "--storage", f"sqlite:///{storage}"]
    words = refused(arguments, capsys, monkeypatch)
    held.release()
    assert "another sweep is using the storage" in words and not storage.exists()


def test_trials_of_a_storage_that_is_gone_are_kept_aside_and_not_reported(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "results"
    shutil.copytree(home / "results", out, ignore=shutil.ignore_patterns("study.db*", "mlflow.db*", ".mlflow*"))
    assert sweep_here(home / "mine.py", out, trials=1, deterministic=True) == 0
    assert "the study is new to its storage" in caplog.text and "is kept as" in caplog.text
    assert len(ledger.numbers(out / "mine")) == 1 + 2


def begin(study: Path, out: Path, *arguments: object) -> subprocess.Popen[str]:
    """A sweep that was begun and has told some trials."""
    process = subprocess.Popen(
        command(study, "--out", out, "--jobs", 1, *arguments),
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
    name, file, study = load_study("digits", cli.STUDIES)
    options = Options(
        name, file, study, trials=4, jobs=1, out=Path("nowhere"), storage=None, tracking_uri=None,
        deterministic=False, device="cpu", timeout=None, quiet=True,
    )  # fmt: skip
    if endless == "teacher":
        with pytest.raises(TimeUp):
            preparing.prepare(options, Teaching(endless), Console(quiet=True), Future(), 0.0)
    else:
        teacher, costs = preparing.prepare(options, Teaching(endless), Console(quiet=True), Future(), time.monotonic())
        assert (teacher["num_params"], costs) == (5, None)


@pytest.mark.parametrize("kind", ["teacher", "describe"])
def test_a_sweep_whose_time_is_up_waits_for_nothing_that_tells_no_progress(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a teacher that another sweep trains, whose lock a worker waits for."""
    monkeypatch.setattr(preparing, "LATE", 0.2)
    name, file, study = load_study("digits", cli.STUDIES)
    options = Options(
        name, file, study, trials=4, jobs=1, out=Path("nowhere"), storage=None, tracking_uri=None,
        deterministic=False, device="cpu", timeout=None, quiet=True,
    )  # fmt: skip
    silent = Teaching(kind)
    silent.said = []
    with pytest.raises(
        TimeUp, match="its teacher was ready" if kind == "teacher" else "the study was checked and its data"
    ):
        if kind == "teacher":
            preparing.prepare(options, silent, Console(quiet=True), Future(), time.monotonic())
        else:
            preparing.result(silent, "describe", {}, deadline=time.monotonic())


@pytest.mark.parametrize("moment", [(session, "_measure_latency"), (manifest, "sweep_metrics")])
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
    assert ("stopped; nothing is lost" in capsys.readouterr().out) is not reported
    assert reported is (moment[1] == "sweep_metrics")


def test_a_sweep_whose_time_is_up_before_its_teacher_is_ready_says_so(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def time_up(*_: Any) -> None:
        raise TimeUp("its teacher was ready")

    monkeypatch.setattr(session, "prepare", time_up)
    assert sweep_here(home / "mine.py", tmp_path, timeout=60) == 0
    said = capsys.readouterr().out
    assert "the time was up before its teacher was ready. It goes on with\npython -m harness.sweep" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonesuch"], "unknown study 'nonesuch'; studies are digits, "),
        (["digits", "--trials", "0"], "--trials 0 is out of range"),
        (["digits", "--trials", "-3"], "--trials -3 is out of range"),
        (["digits", "--trials", "many"], "many"),
        (["digits", "--jobs", "0"], "--jobs 0 is out of range"),
        (["digits", "--jobs", "100000000000"], "--jobs 100000000000 is out of range; it must be from 1 to"),
        (["digits", "--trials", f"1{30 * '0'}"], "is out of range; it must be from 1 to 1,000,000"),
        (["digits", "--timeout", "0"], "--timeout 0 is out of range"),
        (["digits", "--plan", "--deterministic"], "--plan has nothing to show with --deterministic"),
        (["digits", "--seed", "-1"], "seed -1 is out of range"),
        (["digits", "--device", "tpu"], "unknown device 'tpu'; devices are auto, cpu, cuda"),
        (["digits", "--nonsense"], "--nonsense"),
        (["digits", "--storage", "sqlite://"], "--storage 'sqlite://' is a database in memory"),
        (["digits", "--storage", "sqlite:///:memory:"], "is a database in memory, which nothing outlives"),
        (["digits", "--tracking-uri", "sqlite:///file:x?mode=memory&uri=true"], "--tracking-uri 'sqlite:///file:x?"),
        (
            ["digits", "--storage", "postgresql://u:secret@h:port/d"],
            "--storage postgresql://u:***@h:port/d has a port that",
        ),
        (["digits", "--storage", "postgres://u:secret@h/d"], "--storage 'postgres://u:***@h/d' names no store; stores"),
        (["digits", "--storage", ""], "--storage '' names no store; stores are sqlite:///FILE, postgresql://USER@HOST"),
        (["digits", "--storage", "study.db"], "--storage 'study.db' names no store"),
        (["digits", "--storage", "postgresql://u:secret@127.0.0.1:9/d"], "cannot open the storage postgresql://u:***@"),
        (["digits", "--tracking-uri", "foo://u:secret@h"], "DATABASE, http://HOST:PORT, https://HOST:PORT"),
        (["digits", "--tracking-uri", "postgresql://u@127.0.0.1:9/d"], "cannot open the tracking store postgresql://"),
        (["digits", "--storage", "sqlite:////no/such/folder/x.db"], "cannot be: there is no folder /no/such/folder"),
        (["digits", "--tracking-uri", "http://127.0.0.1:9"], "cannot reach the tracking server"),
        (["digits", "--out", "/proc/nowhere"], "--out"),
    ],
)
def test_bad_options_are_one_line(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = [] if "--out" in arguments else ["--out", str(tmp_path / "results")]
    assert words in refused([*arguments, *out], capsys, monkeypatch)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("Float(0.0, 1.0)", "Float(0.9, 0.1)"), "alpha: low 0.9 is above high 0.1"),
        (("Float(0.0, 1.0)", "Float(0.0, 1.5)"), "alpha 1.5 is out of range"),
        (("Float(1.0, 10.0", "Float(0.0, 10.0"), "temperature 0.0 is out of range"),
        (("Choice(4, 8)", "Choice(0, 8)"), "width 0 is out of range"),
        (('"kl", "mse"', '"kl", "magic"'), "unknown form 'magic'; forms are kl, soft_ce, mse, squared_norm"),
        (('task="digits"', 'task="cats"'), "unknown task 'cats'; tasks are mnist5k, digits"),
        (('family="mlp"', 'family="rnn"'), "unknown family 'rnn'"),
        (("trials=10", 'sampler="dice"'), "unknown sampler 'dice'; samplers are tpe"),
        (("trials=10", 'objectives=("test_accuracy",)'), "objective 'test_accuracy' is not allowed"),
        ((', when={"form": ("kl",)}', ', when={"form": ("kl", "mse")}'), "form 'mse' takes no temperature"),
        (("STUDY = Study(", "STUDY = Study(("), "mine.py, line"),
        (("STUDY = Study(", "OTHER = Study("), "defines no STUDY"),
        (("STUDY = Study(", "1 / 0\nSTUDY = Study("), "ZeroDivisionError"),
    ],
)
def test_bad_studies_are_one_line_and_nothing_is_written(
    change: tuple[str, str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "mine.py").write_text(STUDY.replace(*change))
    assert words in refused([tmp_path / "mine.py", "--out", tmp_path / "results"], capsys, monkeypatch)
    assert not (tmp_path / "results").exists()


def test_a_study_that_has_changed_since_its_first_sweep_is_refused_and_kept(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = check_one_to_one(home / "results")
    (tmp_path / "mine.py").write_text(STUDY.replace("Float(0.0, 1.0)", "Float(0.0, 0.5)"))
    words = refused([tmp_path / "mine.py", "--out", home / "results"], capsys, monkeypatch)
    assert "holds another study called 'mine'" in words
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


def test_what_a_job_before_it_says_is_not_taken_for_a_jobs_result() -> None:
    executor = Inline(lambda kind, _: {"kind": kind})
    executor.submit("latency", {})  # which the deadline has cut off
    assert preparing.result(executor, "teacher", {}) == {"kind": "teacher"}


def test_a_worker_that_is_lost_before_the_first_trial_costs_a_try(caplog: pytest.LogCaptureFixture) -> None:
    name, file, study = load_study("digits", cli.STUDIES)
    options = Options(
        name, file, study, trials=4, jobs=1, out=Path("nowhere"), storage=None, tracking_uri=None,
        deterministic=True, device="cpu", timeout=None, quiet=True,
    )  # fmt: skip
    left = Counter({"teacher": 2, "describe": 2})

    def work(kind: str, _: Mapping[str, Any]) -> dict[str, Any]:
        if left[kind]:
            left[kind] -= 1
            raise RuntimeError("worker killed by SIGKILL")
        return {"val_accuracy": 0.9, "num_params": 5}

    assert preparing.result(Inline(work), "describe", {})["num_params"] == 5
    assert preparing.prepare(options, Inline(work), Console(quiet=True), Future())[0]["num_params"] == 5
    assert caplog.text.count("the teacher is trained again: worker killed by SIGKILL") == 2
    left.update({"teacher": 3, "describe": 3})
    with pytest.raises(ValueError, match="worker killed by SIGKILL"):
        preparing.result(Inline(work), "describe", {})
    with pytest.raises(ValueError, match="the teacher could not be trained: worker killed by SIGKILL"):
        preparing.prepare(options, Inline(work), Console(quiet=True), Future())
