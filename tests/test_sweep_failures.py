"""What a sweep meets in days of running: several drivers, a changed study, a database that has lost its last writes."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import optuna
import pytest

from harness import course, errands, ledger
from harness.executors.inline import Inline
from harness.locks import driver_of
from harness.outages import StoreError
from harness.records import Record
from harness.runs import Sweep
from harness.spec import StudentSpec
from harness.stopping import Halt
from harness.storage import open_study
from harness.tracking import Reader, Tracker
from harness.tracking.store import make_store
from harness.verify.check import Place, check
from tests.fakes import STUDY as FAKE
from tests.fakes import FakeRuns, fake_train, make_driver
from tests.inline import sweep_here

ROOT = Path(__file__).parents[1]
STUDY = """
from harness.space import Choice, Float, Study
STUDY = Study(
    task="digits", family="mlp",
    space={{"width": Choice(4, 8), "alpha": Float(0.0, {high})}},
    fixed={{"form": "mse", "epochs": 2, "lr": 0.01}},
    trials=4, seeds=1, other_controls=(), confirm=0,
)
"""


def begin(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "harness.sweep", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def study(tmp_path: Path, digits_cache: Path) -> tuple[Path, Path]:
    """A study's file, and a folder for its results that has the teacher."""
    file, out = tmp_path / "mine.py", tmp_path / "out"
    file.write_text(STUDY.format(high=1.0))
    shutil.copytree(digits_cache, out / "teachers")
    return file, out


def test_of_drivers_started_at_once_one_runs_and_the_others_leave_with_a_line(study: tuple[Path, Path]) -> None:
    file, out = study
    drivers = [begin(file, "--out", out, "--deterministic", "--jobs", 1) for _ in range(3)]
    ended = [(driver.communicate(), driver.returncode) for driver in drivers]
    assert sorted(code for _, code in ended) == [0, 2, 2]
    for (_, errors), code in ended:
        if code:
            assert errors.splitlines() == [
                f"error: another sweep is running study 'mine' in {out}; wait for it or stop it"
            ]
    told = optuna.load_study(study_name="mine", storage=f"sqlite:///{out / 'mine' / 'study.db'}")
    assert Counter(trial.state.name for trial in told.trials) == {"COMPLETE": 8}


def test_a_changed_study_is_begun_anew_only_when_asked_and_the_old_one_is_kept(
    study: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    file, out = study
    before = make_driver(out / "mine", FakeRuns(), name="mine")
    before._ask_rounds(1)
    numbers = ledger.numbers(out / "mine")
    with pytest.raises(ValueError, match=r"^[^\n]*--new[^\n]*$"):
        sweep_here(file, out, deterministic=True, quiet=True)
    assert sweep_here(file, out, deterministic=True, quiet=True, new=True) == 0
    [kept] = out.glob("mine.aside-*")
    said = f"study 'mine' begins anew, and there is an earlier one; it is kept as {kept.name}"
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [said]
    assert ledger.numbers(kept) == numbers and ledger.numbers(out / "mine") == list(range(8))
    assert len(make_driver(kept, FakeRuns(), name="mine").sampler.trials("running")) == len(numbers)


def test_all_searches_begin_anew_at_once_so_that_the_command_which_goes_on_is_taken(
    study: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = study
    assert sweep_here(file, out, deterministic=True, quiet=True, searches=2, trials=1) == 0
    file.write_text(STUDY.format(high=0.5))
    monkeypatch.setattr(errands, "prepare", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    assert sweep_here(file, out, deterministic=True, quiet=True, searches=2, trials=1, new=True) == 130
    monkeypatch.undo()
    assert len([*out.glob("mine.aside-*")]) == len([*out.glob("mine-seed1.aside-*")]) == 1
    assert sweep_here(file, out, deterministic=True, quiet=True, searches=2, trials=1) == 0
    assert len([*out.glob("*.aside-*")]) == 2


@pytest.mark.parametrize("fails", [False, True])
def test_a_signal_as_the_executor_opens_is_taken_after_it_and_the_command_still_begins_anew(
    fails: bool, study: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray that is cut off as it starts crashes as the program ends; and nothing has been set aside by then."""
    file, out = study
    opened = []

    def interrupted(_: Inline) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        opened.append("to its end")
        if fails:  # as the signal has ended what was to be started, too
            raise ValueError("cannot use a Ray cluster")

    assert sweep_here(file, out, deterministic=True, quiet=True, searches=2, trials=1) == 0
    monkeypatch.setattr(Inline, "open", interrupted)
    assert sweep_here(file, out, deterministic=True, searches=2, trials=1, new=True) == 130
    said = capsys.readouterr().out
    assert opened == ["to its end"] and "stopped; nothing is lost" in said and said.rstrip().endswith(" --new")
    assert not [*out.glob("*.aside-*")]


def test_of_searches_one_of_which_is_being_run_none_is_set_aside(study: tuple[Path, Path]) -> None:
    file, out = study
    assert sweep_here(file, out, deterministic=True, quiet=True, searches=2, trials=1) == 0
    said = "another sweep is running study 'mine'"
    with driver_of("mine", out / "mine", None), pytest.raises(ValueError, match=said):
        sweep_here(file, out, deterministic=True, quiet=True, searches=2, trials=1, new=True)
    assert not [*out.glob("*.aside-*")] and (out / "mine-seed1" / "study.json").exists()


def test_a_kill_as_a_study_that_came_to_no_trial_makes_room_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Stands for kill -9."""

    def killed(**given: Any) -> Any:
        if given.get("load_if_exists"):
            raise Killed
        return create(**given)

    create, url = optuna.create_study, f"sqlite:///{tmp_path / 'study.db'}"
    open_study(url, "mine", FAKE, "one", shared=False)
    monkeypatch.setattr(optuna, "create_study", killed)
    with pytest.raises(Killed):
        open_study(url, "mine", FAKE, "two", shared=False)
    monkeypatch.undo()
    open_study(url, "mine", FAKE, "two", shared=False)
    kept, own = sorted(optuna.get_all_study_names(url), reverse=True)
    assert own == "mine" and kept.startswith("mine.aside-")
    with pytest.raises(ValueError, match=r"is the database of study 'mine.*, not 'other'"):
        open_study(url, "other", FAKE, "one", shared=False)


def cut_off(folder: Path, runs: FakeRuns, after: int) -> None:
    """Run a study until so many cohorts were trained, and leave it as it stands, its database open."""

    class Killed(BaseException):
        """Stands for kill -9."""

    calls = 0

    def train(specs: Sequence[StudentSpec]) -> list[Record]:
        nonlocal calls
        calls += 1
        if calls > after:
            raise Killed
        return fake_train(specs)

    with pytest.raises(Killed):
        make_driver(folder, runs, train=train).run(set())


def told(folder: Path) -> Any:
    sampler = make_driver(folder, FakeRuns()).sampler
    return {state: sampler.trials(state) for state in ("complete", "failed", "running")}


@pytest.mark.parametrize(
    ("left", "tail"),
    [(0.0, b""), (0.3, b"\xff\x37" * 3000), (0.6, b""), (0.9, b"\x00" * 500), (0.99, b"")],
    ids=["lost", "noise", "cut", "zeros", "its last page"],
)
def test_a_write_ahead_log_that_is_half_written_loses_no_trial(left: float, tail: bytes, tmp_path: Path) -> None:
    calm, torn, runs = tmp_path / "calm", tmp_path / "torn", FakeRuns()
    assert make_driver(calm, FakeRuns()).run(set()) == "complete"
    cut_off(tmp_path / "cut", runs, after=5)
    shutil.copytree(tmp_path / "cut", torn)
    log = torn / "study.db-wal"
    whole = log.read_bytes()
    assert len(whole) > 10_000
    log.write_bytes(whole[: int(left * len(whole))] + tail)
    (torn / "study.db-shm").unlink(missing_ok=True)
    assert make_driver(torn, runs).run(set(runs.runs)) == "complete"
    assert told(torn) == told(calm)
    assert set(Counter(runs.runs).values()) == {1}


def test_a_database_that_is_none_is_refused_in_a_line_and_kept(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(ValueError, match="cannot open the storage") as caught:
        make_driver(tmp_path, FakeRuns())
    assert "\n" not in str(caught.value)
    assert (tmp_path / "study.db").read_bytes() == b"no database at all" * 100


@dataclass
class Parent:
    """A tracker whose sweep's own run is left once."""

    left: int = 0

    def leave(self) -> None:
        self.left += 1
        raise StoreError("gone as well")


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit, Halt, ValueError, KeyError, OSError])
def test_however_a_sweep_ends_early_its_own_run_does_not_stay_running(end: type[BaseException]) -> None:
    tracker = Parent()
    with pytest.raises(end), course._leaving(tracker):  # type: ignore[arg-type]
        raise end
    assert tracker.left == 1
    with course._leaving(tracker):  # type: ignore[arg-type]
        pass
    assert tracker.left == 1


def test_a_run_that_the_store_refuses_ends_a_sweep_with_a_line_and_nothing_running(
    study: tuple[Path, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    file, out = study
    make_store(out / "mlflow.db")
    with closing(sqlite3.connect(out / "mlflow.db")) as store, store:
        store.execute("CREATE TRIGGER refuse BEFORE INSERT ON runs WHEN new.name LIKE '#3 %' "
                      "BEGIN SELECT raise(abort, 'not this one'); END")  # fmt: skip
    assert sweep_here(file, out, deterministic=True, quiet=True) == 1
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(said) == 1 and "1 run is not in MLflow yet: trial 3 is not taken (" in said[0]
    assert "not this one" in said[0] and said[0].endswith("; the same command logs what is missing")
    with closing(sqlite3.connect(out / "mlflow.db")) as store, store:
        assert Counter(status for (status,) in store.execute("SELECT status FROM runs")) == {"FINISHED": 7, "KILLED": 1}
        store.execute("DROP TRIGGER refuse")
    assert sweep_here(file, out, deterministic=True, quiet=True) == 0
    place = Place(out / "mine", f"sqlite:///{out / 'mine' / 'study.db'}", f"sqlite:///{out / 'mlflow.db'}", "")
    assert not check(place, lambda *_: None).faults


def test_a_folder_that_becomes_read_only_stops_the_sweep_with_a_line_and_loses_nothing(
    study: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file, out = study
    written = itertools.count()

    def read_only(_: int) -> None:
        if next(written) >= 12:  # the manifest, and the first files of the trials
            raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", read_only)
        assert sweep_here(file, out, deterministic=True, quiet=True) == 1
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(said) == 1 and said[0].startswith("error: stopped: [Errno 30] Read-only file system: ")
    assert list(out.glob("mine/trials/*/spec.json")) and not list(out.glob("mine/**/.*.tmp"))
    assert sweep_here(file, out, deterministic=True, quiet=True) == 0
    told = optuna.load_study(study_name="mine", storage=f"sqlite:///{out / 'mine' / 'study.db'}")
    assert Counter(trial.state.name for trial in told.trials) == {"COMPLETE": 8}
    place = Place(out / "mine", f"sqlite:///{out / 'mine' / 'study.db'}", f"sqlite:///{out / 'mlflow.db'}", "")
    assert not check(place, lambda *_: None).faults


def test_a_tracking_database_that_is_none_is_refused_in_a_line_and_soon(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(os.urandom(3000))
    started = time.monotonic()
    with pytest.raises(
        ValueError, match=r"cannot open the tracking store .*; move it away, and the sweep logs"
    ) as caught:
        Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", "mine", tmp_path)
    assert "\n" not in str(caught.value) and time.monotonic() - started < 30


def test_a_storage_that_is_no_database_is_refused_in_a_line_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(os.urandom(3000))
    with pytest.raises(
        ValueError, match=r"cannot open the storage .*; put an earlier copy back, or begin .* --new"
    ) as said:
        make_driver(tmp_path, FakeRuns())
    assert "\n" not in str(said.value)


def test_a_run_that_has_lost_its_key_is_nobodys(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    common = Sweep("fake", "id", {"name": "digits", "digest": "d", "source": "s"}, {}, "fake.py")
    tracker = Tracker(uri, "fake", tmp_path)
    tracker.begin(common, {})
    make_driver(tmp_path / "fake", tracker).run(set())
    client = mlflow.MlflowClient(uri)
    [run] = client.search_runs(["1"], "tags.`harness.key` = 'fake/3'")
    client.delete_tag(run.info.run_id, "harness.key")
    logged = Tracker(uri, "fake", tmp_path).begin(common, {})
    assert logged == {f"fake/{number}" for number in range(24) if number != 3}
    assert len(Reader(uri, "fake", "id").heads()) == 25
