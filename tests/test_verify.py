"""`harness.verify`: every fault made by hand is found and said, mended where that takes no training, and nothing else
is touched."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from harness import ledger
from harness.driver import Driver
from harness.executors.trials import Training
from harness.sampler import Sampler, Teller
from harness.space import Choice, Halving
from harness.spec import StudentSpec, digest
from harness.tracking import Reader, Tracker, in_common
from harness.verify.__main__ import app
from harness.verify.runs import Tables
from tests.fakes import STUDY, FakeTraining, make_driver
from tests.test_driver import Killed

SMALL = replace(
    STUDY,
    space={**STUDY.space, "width": Choice(2, 4)},
    trials=4,
    batch=4,
    pruning=Halving(rungs=(2,)),
    objectives=("val_accuracy", "macs"),
)
MANIFEST: Mapping[str, Any] = {
    "study": "fake",
    "file": "fake.py",
    "config_hash": digest(SMALL.identity()),
    "git_commit": "f00",
    "seeds": [0, 1],
    "versions": {"harness": "0"},
    "task": {"name": "digits", "hashes": {"train": "abc"}, "source": "scikit-learn"},
}
CLEAN = "9 trials, 10 runs, 16 students: no fault"


def open_tracker(out: Path) -> Tracker:
    return Tracker(f"sqlite:///{out / 'mlflow.db'}", "fake", out / "mlartifacts")


def begin(out: Path, parts: Training[int] | None = None, *, deterministic: bool = True) -> tuple[Driver, set[str]]:
    """A driver that logs to MLflow, and what is logged."""
    tracker = open_tracker(out)
    driver = make_driver(out / "fake", tracker, study=SMALL, parts=parts, deterministic=deterministic)
    return driver, tracker.begin(in_common(MANIFEST, driver.sampler.study_id), {"family": "mlp"})


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with complete and pruned trials and one that was given up, as a sweep leaves it."""
    out = tmp_path_factory.mktemp("swept")
    ledger.write_json(out / "fake" / "study.json", MANIFEST)
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


def sql(file: Path, statement: str, *values: Any) -> list[Any]:
    with closing(sqlite3.connect(file)) as connection, connection:
        return connection.execute(statement, values).fetchall()


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


def states(out: Path) -> dict[int, str]:
    return dict(sql(out / "fake" / "study.db", "SELECT number, state FROM trials"))


def one(out: Path, word: str) -> int:
    """The first trial in a state."""
    return min(number for number, state in states(out).items() if state == word)


def run_of(out: Path, name: int | str) -> str:
    """The id of a trial's run, or the sweep's own."""
    [[found]] = sql(
        out / "mlflow.db", "SELECT run_uuid FROM tags WHERE key = 'harness.key' AND value = ?", f"fake/{name}"
    )
    return str(found)


def in_mlflow(statement: str, name: str = "COMPLETE") -> Callable[[Path], str]:
    """Do something to the run of a trial in that state, or to the sweep's own."""

    def break_it(out: Path) -> str:
        number: int | str = "sweep" if name == "sweep" else one(out, name)
        sql(out / "mlflow.db", statement, run_of(out, number))
        return "study" if name == "sweep" else f"trial {number}"

    return break_it


def in_optuna(statement: str, name: str = "COMPLETE") -> Callable[[Path], str]:
    """Do something to a trial in that state."""

    def break_it(out: Path) -> str:
        number = one(out, name)
        [[own]] = sql(out / "fake" / "study.db", "SELECT trial_id FROM trials WHERE number = ?", number)
        sql(out / "fake" / "study.db", statement, own)
        return f"trial {number}"

    return break_it


def in_the_ledger(change: Callable[[Path], Any], name: str = "COMPLETE") -> Callable[[Path], str]:
    """Do something to the directory of a trial in that state."""

    def break_it(out: Path) -> str:
        number = one(out, name)
        change(ledger.trial_dir(out / "fake", number))
        return f"trial {number}"

    return break_it


def lose_the_run(out: Path) -> str:
    number = one(out, "PRUNED")
    run = run_of(out, number)
    for table in ("tags", "params", "metrics", "latest_metrics", "runs"):
        sql(out / "mlflow.db", f"DELETE FROM {table} WHERE run_uuid = ?", run)
    return f"trial {number}"


def double_the_run(out: Path) -> str:
    number = one(out, "COMPLETE")
    trial = ledger.read_spec(ledger.trial_dir(out / "fake", number))
    assert trial is not None
    records = ledger.read_result(ledger.trial_dir(out / "fake", number), trial)
    assert records is not None
    tracker = open_tracker(out)
    [[study_id]] = sql(out / "mlflow.db", "SELECT DISTINCT value FROM tags WHERE key = 'harness.study_id'")
    tracker.attach(in_common(MANIFEST, study_id))
    tracker.log(trial, records, maybe_there=False)
    return f"trial {number}"


def edit(name: str, key: str, value: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        ledger.write_json(folder / name, {**ledger.read_json(folder / name), key: value})

    return change


def cut(folder: Path) -> None:
    text = (folder / "result.json").read_text()
    (folder / "result.json").write_text(text[: len(text) // 2])


def take_anothers(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        other = min(place for place in folder.parent.iterdir() if place != folder and (place / "result.json").exists())
        shutil.copy(other / name, folder / name)

    return change


def enqueue(out: Path) -> str:
    study = optuna.load_study(study_name="fake", storage=f"sqlite:///{out / 'fake' / 'study.db'}")
    study.enqueue_trial({"width": 2})
    return "trial 9"


def stray_directory(out: Path) -> str:
    shutil.copytree(out / "fake" / "trials" / "1", out / "fake" / "trials" / "70")
    return "trial 70"


def another_configuration(out: Path) -> str:
    edit("study.json", "config_hash", "c0ffee")(out / "fake")
    return "study"


def after(*steps: Callable[[Path], str]) -> Callable[[Path], str]:
    """Do one thing after the other, all to the same trial."""

    def break_it(out: Path) -> str:
        [trial] = {step(out) for step in steps}
        return trial

    return break_it


RUNNING = in_optuna("UPDATE trials SET state = 'RUNNING' WHERE trial_id = ?")
METRIC = "UPDATE metrics SET value = value + 1e-9 WHERE run_uuid = ? AND key = 'val_loss' AND step = 2"
FAULTS: Mapping[str, tuple[Callable[[Path], str], str, str]] = {
    # what is done -> what is said of it, and what of that is left after --repair (nothing, or what then is said)
    "a run deleted in the UI": (
        in_mlflow("UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = ?"),
        "was deleted in MLflow; --repair restores it", "",
    ),
    "a run that is gone": (lose_the_run, "it has no run in MLflow; --repair logs it from the ledger", ""),
    "a run twice": (double_the_run, "is the one to keep", ""),
    "a point of a curve changed": (in_mlflow(METRIC), "has val_loss 0.600000001 at step 2, the ledger 0.6", ""),
    "a point of a curve too many": (
        in_mlflow("INSERT INTO metrics SELECT key, value, timestamp + 1, run_uuid, 9, is_nan FROM metrics "
                  "WHERE run_uuid = ? AND key = 'val_loss' AND step = 2"),
        "has val_loss at step 9, the ledger does not", "",
    ),
    "a point of a curve twice": (
        in_mlflow("INSERT INTO metrics SELECT key, value, timestamp + 1, run_uuid, step, is_nan FROM metrics "
                  "WHERE run_uuid = ? AND key = 'val_loss' AND step = 2"),
        "has 3 points of val_loss at 2 steps", "",
    ),
    "a curve cut short": (
        in_mlflow("DELETE FROM metrics WHERE run_uuid = ? AND key = 'val_loss' AND step = 2"),
        "has 1 of 2 points of val_loss; --repair logs it", "",
    ),
    "a metric gone": (
        in_mlflow("DELETE FROM metrics WHERE run_uuid = ? AND key = 'macs'"), "has 0 of 1 points of macs", "",
    ),
    "a pruned trial's curve cut short": (
        in_mlflow("DELETE FROM metrics WHERE run_uuid = ? AND key = 'train_loss' AND step = 1", "PRUNED"),
        "has 1 of 2 points of train_loss", "",
    ),
    "not a number": (
        in_mlflow("UPDATE metrics SET is_nan = 1 WHERE run_uuid = ? AND key = 'val_kl'"),
        "has val_kl nan at step 2, the ledger 0.1", "",
    ),
    "a parameter changed": (
        in_mlflow("UPDATE params SET value = '7' WHERE run_uuid = ? AND key = 'lr'"), "has parameter lr '7'", "",
    ),
    "a parameter gone": (
        in_mlflow("DELETE FROM params WHERE run_uuid = ? AND key = 'lr'"), "has no parameter lr", "",
    ),
    "a tag changed": (
        in_mlflow("UPDATE tags SET value = 'failed' WHERE run_uuid = ? AND key = 'status'"),
        "has tag status 'failed', the ledger 'ok'; --repair deletes it and logs another", "",
    ),
    "a run left RUNNING": (
        in_mlflow("UPDATE runs SET status = 'RUNNING' WHERE run_uuid = ?"), "is RUNNING and not FINISHED", "",
    ),
    "a failed trial's run that is FINISHED": (
        in_mlflow("UPDATE runs SET status = 'FINISHED' WHERE run_uuid = ?", "FAIL"), "is FINISHED and not FAILED", "",
    ),
    "the sweep's own run left RUNNING": (
        in_mlflow("UPDATE runs SET status = 'RUNNING' WHERE run_uuid = ?", "sweep"),
        "the sweep's own run is RUNNING in MLflow, and no sweep is; --repair sets it KILLED", "",
    ),
    "the sweep's own run deleted": (
        in_mlflow("UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = ?", "sweep"),
        "the sweep's own run was deleted in MLflow; --repair restores it", "",
    ),
    "the sweep's own run gone": (
        in_mlflow("DELETE FROM tags WHERE run_uuid = ?", "sweep"),
        "the sweep's own run is not in MLflow; --repair makes one", "",
    ),
    "a value changed": (
        in_optuna("UPDATE trial_values SET value = 0.5 WHERE trial_id = ? AND objective = 0"),
        "val_accuracy is 0.5 in Optuna, 0.8", "nothing changes a told trial",
    ),
    "a trial gone": (
        in_optuna("DELETE FROM trials WHERE trial_id = ?"),
        "Optuna has no such trial, but there is the run", "was the storage put back to an earlier state?",
    ),
    "a told trial RUNNING": (
        in_optuna("UPDATE trials SET state = 'RUNNING' WHERE trial_id = ?"),
        "RUNNING in Optuna, and it was trained; --repair logs and tells it", "",
    ),
    "a pruned trial RUNNING": (
        in_optuna("UPDATE trials SET state = 'RUNNING' WHERE trial_id = ?", "PRUNED"),
        "RUNNING in Optuna, and it was trained; --repair logs and tells it",
        "",
    ),
    "a failed trial RUNNING": (
        in_optuna("UPDATE trials SET state = 'RUNNING' WHERE trial_id = ?", "FAIL"),
        "RUNNING in Optuna, and it was given up; --repair logs and tells it",
        "",
    ),
    "a trial RUNNING without a result": (
        after(in_the_ledger(lambda folder: (folder / "result.json").unlink()), RUNNING),
        "RUNNING in Optuna, and it has no result; python -m harness.sweep fake",
        "trains it",
    ),
    "a trial RUNNING with a damaged result": (
        after(in_the_ledger(cut), RUNNING),
        "RUNNING in Optuna, and its result is damaged",
        "RUNNING in Optuna, and it has no result; python -m harness.sweep fake",
    ),
    "a trial RUNNING with another's spec": (
        after(in_the_ledger(take_anothers("spec.json")), RUNNING),
        "RUNNING in Optuna, and its spec.json is not its own",
        "trains it",
    ),
    "a trial of somebody else": (
        enqueue, "WAITING in Optuna, and not asked for by this harness", "sweeps stop at it until it is removed",
    ),
    "a result cut in two": (
        in_the_ledger(cut), "its result is damaged: ", "COMPLETE in Optuna, and its result.json is missing",
    ),
    "another trial's result": (
        in_the_ledger(take_anothers("result.json")),
        "holds the records of other students; --repair puts the file aside",
        "COMPLETE in Optuna, and its result.json is missing",
    ),
    "another hash": (
        in_the_ledger(edit("result.json", "hash", "c0ffee")), "holds the records of other students",
        "COMPLETE in Optuna, and its result.json is missing",
    ),
    "no result": (
        in_the_ledger(lambda folder: (folder / "result.json").unlink()),
        "COMPLETE in Optuna, and its result.json is missing", "if you have a copy, put it back",
    ),
    "no reason": (
        in_the_ledger(lambda folder: (folder / "failed.json").unlink(), "FAIL"),
        "FAIL in Optuna, and its failed.json is missing", "failed.json",
    ),
    "another trial's spec": (in_the_ledger(take_anothers("spec.json")), "it is of fake/", "if you have a copy"),
    "another study's spec": (
        in_the_ledger(edit("spec.json", "study", "else")), "it is of else/", "if you have a copy of",
    ),
    "another configuration's spec": (
        in_the_ledger(edit("spec.json", "config_hash", "c0ffee")), "has the hash c0ffee", "if you have a copy of",
    ),
    "other parameters in the spec": (
        in_the_ledger(edit("spec.json", "params", {"lr": 1.0})), "its parameters are {'lr': 1.0}", "put it back",
    ),
    "a spec that is no JSON": (
        in_the_ledger(lambda folder: (folder / "spec.json").write_text("{")), "its spec.json cannot be read", "copy",
    ),
    "no spec": (
        in_the_ledger(lambda folder: (folder / "spec.json").unlink()), "it has no spec.json", "if you have a copy of",
    ),
    "a directory without a trial": (
        stray_directory, "Optuna has no such trial, but there is the directory", "put back to an earlier state?",
    ),
    "another hash of the study": (
        another_configuration,
        "study.json has the hash c0ffee, Optuna ", "study.json has the hash c0ffee",
    ),
}  # fmt: skip


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


def test_what_is_left_of_a_trial_is_said_and_is_no_fault(out: Path, verify: Verify) -> None:
    folder = ledger.trial_dir(out / "fake", 1)
    for name in ("result.json.aside-1", ".result.json.7.tmp", "student-0.json", "rung-2.safetensors"):
        (folder / name).write_text("")
    found = verify()
    assert found.code == 0 and found.lines[-1] == CLEAN
    assert found.lines[0].startswith("nothing reads these any more, they may be deleted: ")
    assert found.lines[0].count(str(folder)) == 4
    assert verify("--quiet").lines == []


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
    held = ledger.lock(out / "fake" / "driver.lock")
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
        ("fake/study.json", "no results for study 'fake'; .* holds no results yet"),
    ],
)
def test_a_store_that_is_missing_is_one_line_and_is_not_made(lost: str, said: str, out: Path, verify: Verify) -> None:
    (out / lost).unlink()
    before = state(out)
    with pytest.raises(ValueError, match=said) as error:
        verify()
    assert "\n" not in str(error.value) and state(out) == before


def test_a_tracking_store_that_is_missing_is_made_again_by_repair(out: Path, verify: Verify) -> None:
    (out / "mlflow.db").unlink()
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
