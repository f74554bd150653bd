"""`harness.verify`: every fault made by hand is found and said, mended where that takes no training, and nothing else
is touched."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from harness import files, ledger
from harness.kept import Asked, Kept
from harness.sampler import Sampler
from harness.spec import StudentSpec
from harness.storage import Teller
from harness.tracking import Reader, Tracker
from harness.verify import compare
from harness.verify.__main__ import app
from harness.verify.runs import Tables
from harness.verify.trials import look
from tests.fakes import FakeTraining, Killed
from tests.faults import (
    FAULTS,
    MANIFEST,
    METRIC,
    RUNNING,
    after,
    begin,
    in_mlflow,
    open_tracker,
    sql,
    states,
    stray_directory,
)

CLEAN = "9 trials, 10 runs, 16 students: no fault"


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with complete and pruned trials and one that was given up, as a sweep leaves it."""
    out = tmp_path_factory.mktemp("swept")
    files.write_json(out / "fake" / "study.json", MANIFEST)
    open_tracker(out)
    sql(out / "mlflow.db", "PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(out / "mlflow.db", out / "empty.db")  # making one takes seconds
    parts, guilty = FakeTraining().parts, dict[str, float]()

    def train(specs: Sequence[StudentSpec], *rest: Any) -> Any:
        if any(spec.form != "ce" and guilty.setdefault("lr", spec.lr) == spec.lr for spec in specs):
            raise RuntimeError("out of memory")
        return parts.train(specs, *rest)

    driver, logged = begin(out, replace(parts, train=train))
    assert driver.run(logged) == "complete"
    assert isinstance(driver.tracker, Tracker)
    driver.tracker.end(out, [], "the end", {}, "FINISHED")
    for file in (out / "mlflow.db", out / "fake" / "study.db"):
        sql(file, "PRAGMA wal_checkpoint(TRUNCATE)")
    return out


@pytest.fixture
def out(swept: Path, tmp_path: Path) -> Path:
    """A copy of it, as a process that has ended leaves it."""
    kept = shutil.ignore_patterns("*-wal", "*-shm")
    return Path(shutil.copytree(swept, tmp_path / "results", ignore=kept))


@dataclass(frozen=True)
class Said:
    """What a call of `verify` printed and returned."""

    code: int
    lines: list[str]

    @property
    def faults(self) -> list[str]:
        return [line for line in self.lines if line.startswith(("trial ", "study:"))]


Verify = Callable[..., Said]


@pytest.fixture
def verify(out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Verify:
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def run(*options: str) -> Said:
        capsys.readouterr()
        code = app(["fake", "--out", str(out), *options], standalone_mode=False)
        return Said(code, capsys.readouterr().out.splitlines())

    return run


def state(out: Path) -> dict[str, tuple[str, int]]:
    """Every file's content and time, and every folder's."""
    return {
        str(path): (hashlib.md5(path.read_bytes()).hexdigest() if path.is_file() else "", path.stat().st_mtime_ns)
        for path in sorted(out.rglob("*"))
        if path.suffix != ".db-shm"  # memory that all who have a database open share
    }


def test_a_study_that_was_swept_has_no_fault(verify: Verify) -> None:
    assert verify() == Said(0, [CLEAN])
    assert verify("--quiet") == Said(0, [])
    assert verify("--repair") == Said(0, [CLEAN])


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_one_line_and_repair_leaves_what_it_says(name: str, out: Path, verify: Verify) -> None:
    break_it, said, left = FAULTS[name]
    trial = break_it(out)
    before = state(out)
    found = verify()
    assert len(found.faults) == 1 and found.code == 1, found
    assert found.faults[0].startswith(f"{trial}: ") and said in found.faults[0]
    assert found.lines[-1].endswith(": 1 fault")
    assert state(out) == before, "nothing is written"
    mended = verify("--repair")
    if left:
        assert mended.code == 1 and mended.faults[-1].startswith(f"{trial}: ") and left in mended.faults[-1], mended
    else:
        assert mended.code == 0 and len(mended.faults) == 1 and mended.faults[0].startswith(f"{trial}: "), mended
        assert mended.lines[-1] == CLEAN.replace("no fault", "1 mended, no fault left")


def test_a_number_that_optuna_has_twice_is_said(out: Path, verify: Verify) -> None:
    sql(out / "fake" / "study.db", "UPDATE trials SET number = 0 WHERE number = 1")
    found = verify()
    assert found.code == 1
    assert found.faults[0].startswith(
        "study: Optuna has trial 0 more than once; put an earlier copy of the storage back"
    )


def test_a_number_beyond_all_bounds_is_a_fault_as_any_other(out: Path, verify: Verify) -> None:
    sql(out / "fake" / "study.db", "UPDATE trials SET number = 10000000000000 WHERE number = 1")
    found = verify()
    assert found.code == 1
    assert found.faults[0].startswith("trial 1: Optuna has no such trial, but there is the run ")
    assert found.faults[1].startswith("trial 10000000000000: Optuna has 9 trials, and none has such a number; put an")


def test_of_points_that_differ_the_earliest_is_told() -> None:
    [found] = compare._curve("loss", dict.fromkeys(range(12), 0.0), [(10, 1.0), (2, 3.0), (0, 0.0)])
    assert found.what == "has loss 3 at step 2, the ledger 0"


def test_a_run_whose_key_is_written_otherwise_is_no_trials(out: Path, verify: Verify) -> None:
    sql(out / "mlflow.db", "UPDATE tags SET value = 'fake/01' WHERE key = 'harness.key' AND value = 'fake/1'")
    found = verify()
    assert found.code == 1 and len(found.faults) == 2
    assert "of 'fake/01', which is no trial of this study" in found.faults[0]
    assert found.faults[1].startswith("trial 1: it has no run in MLflow")


def test_what_is_left_of_a_trial_is_said_and_is_no_fault(out: Path, verify: Verify) -> None:
    folder = ledger.trial_dir(out / "fake", 1)
    for name in ("result.json.aside-1", ".result.json.7.tmp", "student-0.json", "rung-2.safetensors"):
        (folder / name).write_text("")
    found = verify()
    assert found.code == 0 and found.lines[-1] == CLEAN
    assert found.lines[0].startswith("nothing reads these any more, they may be deleted: ")
    assert found.lines[0].count(str(folder)) == 4
    assert verify("--quiet").lines == []


def test_trials_that_a_storage_did_not_know_are_not_said_to_be_of_no_use(out: Path, verify: Verify) -> None:
    (out / "fake" / "trials.aside-1").mkdir()
    found = verify()
    assert found.code == 0 and found.lines[-1] == CLEAN and len(found.lines) == 2
    assert found.lines[0].startswith(f"{out / 'fake' / 'trials.aside-1'}: its storage did not know these trials")


def test_many_faults_are_said_in_order_and_mended_at_once(out: Path, verify: Verify) -> None:
    broken = [
        in_mlflow("UPDATE runs SET status = 'RUNNING' WHERE run_uuid = ?", "sweep")(out),
        in_mlflow("UPDATE runs SET status = 'FINISHED' WHERE run_uuid = ?", "FAIL")(out),
        after(in_mlflow(METRIC), in_mlflow("UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = ?"))(out),
        RUNNING(out),
        in_mlflow("UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = ?")(out),
        after(
            in_mlflow("DELETE FROM metrics WHERE run_uuid = ? AND step = 2", "PRUNED"),
            in_mlflow("UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = ?", "PRUNED"),
        )(out),
    ]
    found = verify()
    assert found.code == 1 and found.lines[-1].endswith("5 faults")
    own = sorted(set(broken), key=lambda where: int(where[6:]) if where.startswith("trial") else -1)
    assert [line.partition(":")[0] for line in found.faults] == own
    mended = verify("--repair")
    assert mended.code == 0 and {line.partition(":")[0] for line in mended.faults} == set(broken)
    assert any("restored" in line for line in mended.faults)
    assert verify() == Said(0, [CLEAN])
    assert verify("--repair") == Said(0, [CLEAN]), "there is nothing more to mend"


def test_a_kill_between_logging_and_telling_is_finished_in_the_drivers_order(
    out: Path, verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(out / "fake" / "trials")
    (out / "fake" / "study.db").unlink()

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Sampler, "tell", die)
        driver, logged = begin(out, FakeTraining().parts)
        driver.run(logged)
    found = verify()
    trained = [line for line in found.faults if "it was trained" in line]
    waiting = [number for number, word in states(out).items() if word == "RUNNING"]
    assert found.code == 1 and len(trained) == len(waiting) > 1
    assert "study: the sweep's own run is RUNNING in MLflow, and no sweep is" in found.faults[0]

    order: list[str] = []

    def noted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            order.append(name)
            return real(*args, **kwargs)

        return run

    with monkeypatch.context() as patch:
        for owner, name in ((Tracker, "log"), (Teller, "tell"), (Teller, "prune")):
            patch.setattr(owner, name, noted(name, getattr(owner, name)))
        assert verify("--repair").code == 0
    assert order[::2] == ["log"] * len(waiting) and "log" not in order[1::2]
    assert set(states(out).values()) == {"COMPLETE", "PRUNED"}
    driver, logged = begin(out, FakeTraining().parts)
    assert len(logged) == 8 and driver.run(logged) == "complete"


def test_while_a_sweep_runs_what_it_told_is_checked_and_repair_is_refused(out: Path, verify: Verify) -> None:
    RUNNING(out)
    in_mlflow("UPDATE runs SET status = 'RUNNING' WHERE run_uuid = ?", "sweep")(out)
    stray_directory(out)
    held = files.lock(out / "fake" / "driver.lock")
    assert held is not None
    before = state(out)
    found = verify()
    assert found.code == 0 and found.faults == []
    assert "a sweep is running: what it has told so far was checked" in found.lines
    trial = in_mlflow(METRIC)(out)
    assert [line.partition(":")[0] for line in verify().faults] == [trial]
    assert state(out).keys() == before.keys()
    with pytest.raises(ValueError, match="another sweep is running study 'fake'"):
        verify("--repair")
    held.release()
    assert len(verify().faults) == 4, "the lock went with its holder"


def test_what_a_kill_left_in_the_write_ahead_log_is_read_and_stays_there(out: Path, verify: Verify) -> None:
    """A reader that may write would take it into the database, and delete it, on closing."""
    for file in (out / "mlflow.db", out / "fake" / "study.db"):
        with closing(sqlite3.connect(file)) as first, closing(sqlite3.connect(file)) as second:
            first.execute("SELECT * FROM alembic_version").fetchall()
            second.execute("UPDATE alembic_version SET version_num = version_num")
            second.commit()
            for name in ("-wal", "-shm"):
                shutil.copy(f"{file}{name}", f"{file}{name}.kept")
        for name in ("-wal", "-shm"):
            Path(f"{file}{name}.kept").rename(f"{file}{name}")
    before = state(out)
    assert any(name.endswith("-wal") for name in before)
    assert verify() == Said(0, [CLEAN])
    assert state(out) == before


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("mlflow.db", "there is no database at .*mlflow.db"),
        ("fake/study.db", "there is no database at .*study.db"),
        ("fake/study.json", "no results for study 'fake'; its study.json is gone, and the study's sweep"),
    ],
)
def test_a_store_that_is_missing_is_one_line_and_is_not_made(lost: str, said: str, out: Path, verify: Verify) -> None:
    (out / lost).unlink()
    before = state(out)
    with pytest.raises(ValueError, match=said) as error:
        verify()
    assert "\n" not in str(error.value) and state(out) == before


def test_a_tracking_store_that_is_lost_is_filled_again_by_repair(out: Path, verify: Verify) -> None:
    (out / "empty.db").rename(out / "mlflow.db")
    mended = verify("--repair")
    assert mended.code == 0 and len(mended.faults) == 10
    assert verify() == Said(0, [CLEAN])


@pytest.mark.parametrize("content", [b"", b"no database" * 99])
@pytest.mark.parametrize("name", ["mlflow.db", "fake/study.db"])
def test_a_store_that_is_none_is_one_line(name: str, content: bytes, out: Path, verify: Verify) -> None:
    (out / name).write_bytes(content)
    before = state(out)
    with pytest.raises(ValueError, match="cannot read the ") as error:
        verify()
    assert "\n" not in str(error.value) and state(out) == before


def test_a_storage_without_the_study_is_one_line_without_its_password(out: Path, verify: Verify) -> None:
    shutil.copytree(out / "fake", out / "else")
    with pytest.raises(ValueError, match="holds no study 'else'"):
        app(["else", "--out", str(out)], standalone_mode=False)
    with pytest.raises(ValueError, match=r"me:\*\*\*@nowhere") as error:
        verify("--storage", "postgresql+psycopg://me:secret@nowhere.invalid/x")
    assert "secret" not in str(error.value) and "\n" not in str(error.value)


def test_a_server_tells_of_runs_what_the_tables_do(out: Path) -> None:
    """By MLflow's client, here on the same file."""
    in_mlflow("UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = ?")(out)
    uri = f"sqlite:///{out / 'mlflow.db'}"
    [[study_id]] = sql(out / "mlflow.db", "SELECT DISTINCT value FROM tags WHERE key = 'harness.study_id'")
    tables, reader = Tables(uri, "fake", study_id), Reader(uri, "fake", study_id)
    heads = sorted(tables.heads(), key=lambda head: head.id)
    assert sorted(reader.heads(), key=lambda head: head.id) == heads and len(heads) == 10
    ids = [head.id for head in heads]
    ours, theirs = tables.bodies(ids), reader.bodies(ids)
    for number in ids:
        assert ours[number].params == theirs[number].params and ours[number].tags == theirs[number].tags
        assert {name: sorted(points) for name, points in ours[number].curves.items()} == {
            name: sorted(points) for name, points in theirs[number].curves.items()
        }
    tables.close()


def test_a_confirming_trial_has_as_many_students_as_its_arm_has_seeds(tmp_path: Path) -> None:
    specs = tuple(StudentSpec(task="digits", family="mlp", width=4, form="mse", seed=seed) for seed in range(3))
    trial = ledger.TrialSpec("fake", 9, "search", {"lr": 0.1}, specs, "c0ffee", 0, stage="confirm", source=2)
    ledger.write_spec(tmp_path, trial)
    for arm, wrong in (("confirm-search-2-3", 0), ("confirm-search-2-5", 1)):
        kept = Kept(Asked(9, arm, {"lr": 0.1}), "complete", ())
        found = look(ledger.trial_dir(tmp_path, 9), "fake", "c0ffee", kept)
        assert len(found.faults) == wrong
    assert "it has 3 students, and Optuna's arm confirm-search-2-5" in found.faults[0].what
