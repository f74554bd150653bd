"""A small swept study, and everything that can be wrong with one, made by hand: for `test_verify`."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna

from harness import files, ledger
from harness.driver import Driver
from harness.executors.trials import Training
from harness.runs import in_common
from harness.space import Choice, Halving
from harness.tracking import Tracker
from harness.values import digest
from tests.fakes import STUDY, make_driver

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


def open_tracker(out: Path) -> Tracker:
    return Tracker(f"sqlite:///{out / 'mlflow.db'}", "fake", out / "mlartifacts")


def begin(out: Path, parts: Training[int]) -> tuple[Driver, set[str]]:
    """A driver that logs to MLflow, and what is logged."""
    tracker = open_tracker(out)
    driver = make_driver(out / "fake", tracker, study=SMALL, parts=parts)
    return driver, tracker.begin(in_common(MANIFEST, driver.sampler.study_id), {"family": "mlp"})


def sql(file: Path, statement: str, *values: Any) -> list[Any]:
    with closing(sqlite3.connect(file)) as connection, connection:
        return connection.execute(statement, values).fetchall()


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


def another_arm(out: Path) -> str:
    """Put a control into the arm of another width."""
    arms = "SELECT number, trial_id, value_json FROM trials NATURAL JOIN trial_user_attributes WHERE key = 'arm'"
    number, own, _ = min(row for row in sql(out / "fake" / "study.db", arms) if row[2].startswith('"control-'))
    sql(out / "fake" / "study.db", """UPDATE trial_user_attributes SET value_json = '"control-99"' """
                                   "WHERE trial_id = ? AND key = 'arm'", own)  # fmt: skip
    return f"trial {number}"


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


def foreign_run(out: Path) -> str:
    double_the_run(out)
    [[added]] = sql(out / "mlflow.db", "SELECT run_uuid FROM runs ORDER BY rowid DESC LIMIT 1")
    sql(out / "mlflow.db", "UPDATE tags SET value = 'else/7' WHERE run_uuid = ? AND key = 'harness.key'", added)
    return "study"


def edit(name: str, key: str, value: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        files.write_sealed(folder / name, {**(files.read_sealed(folder / name) or {}), key: value})

    return change


def cut(folder: Path) -> None:
    text = (folder / "result.json").read_text()
    (folder / "result.json").write_text(text[: len(text) // 2])


def give_up(folder: Path) -> None:
    trial = ledger.read_spec(folder)
    assert trial is not None
    (folder / "result.json").unlink()
    ledger.publish_failure(folder, trial, "its training was begun 12 times")


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
    "a metric that the table of runs shows otherwise": (
        in_mlflow("UPDATE latest_metrics SET value = 0.9 WHERE run_uuid = ? AND key = 'val_loss'"),
        "shows val_loss 0.9 in the table of runs, and its last point is 0.6; --repair deletes it and logs another", "",
    ),
    "a metric that the table of runs does not show": (
        in_mlflow("DELETE FROM latest_metrics WHERE run_uuid = ? AND key = 'val_loss'"),
        "shows no val_loss in the table of runs", "",
    ),
    "a told trial WAITING": (
        in_optuna("UPDATE trials SET state = 'WAITING' WHERE trial_id = ?"),
        "WAITING in Optuna, which no trial of a sweep ever is; put an earlier copy", "put an earlier copy",
    ),
    "a run twice": (double_the_run, "is the one to keep", ""),
    "a point of a curve changed": (in_mlflow(METRIC), "has val_loss 0.600000001 at step 2, the ledger 0.6", ""),
    "a point of a curve that is no number": (
        in_mlflow("UPDATE metrics SET value = 'x' WHERE run_uuid = ? AND key = 'val_loss' AND step = 2"),
        "has val_loss 'x' at step 2, the ledger 0.6; --repair deletes it and logs another", "",
    ),
    "a step that is no number": (
        in_mlflow("UPDATE metrics SET step = 'x' WHERE run_uuid = ? AND key = 'val_loss' AND step = 2"),
        "has val_loss at step x, the ledger does not", "",
    ),
    "text for a number in the table of runs": (
        in_mlflow("UPDATE latest_metrics SET value = 'x' WHERE run_uuid = ? AND key = 'val_loss'"),
        "shows val_loss 'x' in the table of runs", "",
    ),
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
    "a run that is of no trial": (
        foreign_run,
        "of 'else/7', which is no trial of this study; it can be deleted in the UI",
        "of 'else/7', which is no trial of this study",
    ),
    "the sweep's own run gone": (
        in_mlflow("DELETE FROM tags WHERE run_uuid = ?", "sweep"),
        "the sweep's own run is not in MLflow; --repair makes one", "",
    ),
    "a control's arm changed": (
        another_arm, "its spec.json is not its own: its width is 2, and Optuna's arm control-99", "not its own",
    ),
    "a value changed": (
        in_optuna("UPDATE trial_values SET value = 0.5 WHERE trial_id = ? AND objective = 0"),
        "val_accuracy is 0.5 in Optuna, 0.8", "nothing changes a told trial",
    ),
    "a pruned trial's rung changed": (
        in_optuna(
            "UPDATE trial_user_attributes SET value_json = '7' WHERE trial_id = ? AND key = 'pruned_at'", "PRUNED"
        ),
        "pruned after 7 epochs in Optuna, after 2 in the ledger", "put an earlier copy of the storage back",
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
        "is another trial's; --repair puts the file aside",
        "COMPLETE in Optuna, and its result.json is missing",
    ),
    "another hash": (
        in_the_ledger(edit("result.json", "hash", "c0ffee")), "is another trial's",
        "COMPLETE in Optuna, and its result.json is missing",
    ),
    "no result": (
        in_the_ledger(lambda folder: (folder / "result.json").unlink()),
        "COMPLETE in Optuna, and its result.json is missing", "if you have a copy, put it back",
    ),
    "no result, and given up when it was trained again": (
        in_the_ledger(give_up), "its result.json is missing, and then it was given up", "without its begun.json",
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
