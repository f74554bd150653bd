"""Runs in MLflow: whole curves, one run a trial however often it is logged, a store that is not there."""

from __future__ import annotations

import getpass
import json
import os
import socket
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
import sqlalchemy
from mlflow.entities import Run

from harness.ledger import TrialSpec
from harness.records import Balance, Record
from harness.runs import Sweep, run_name, trial_metrics, trial_params
from harness.space import Value
from harness.tracking import Tracker
from tests.fakes import STUDY, fake_train

PARAMS: dict[str, Value] = {"width": 4, "form": "kl", "alpha": 0.31, "temperature": 4.2, "lr": 0.01}


def trial(number: int = 12, *, plain: bool = False) -> TrialSpec:
    params = {"width": 4, "lr": 0.01} if plain else PARAMS
    specs = tuple(STUDY.specs(params, plain=plain, task="digits"))
    return TrialSpec("fake", number, "control" if plain else "search", params, specs, "c0ffee", 1_700_000_000_000)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose MLflow store exists: making one takes seconds."""
    folder = tmp_path_factory.mktemp("mlflow")
    Tracker(f"sqlite:///{folder / 'mlflow.db'}", "first", folder / "mlartifacts")
    return folder


def tracker(store: Path, study: str, study_id: str = "id-1") -> Tracker:
    made = Tracker(f"sqlite:///{store / 'mlflow.db'}", study, store / "mlartifacts")
    dataset = {"name": "digits", "digest": "abc", "source": "scikit-learn"}
    made.begin(Sweep("fake", study_id, dataset, {"git_commit": "f00"}, "studies/fake.py"), {"family": "mlp"})
    return made


def client(store: Path) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{store / 'mlflow.db'}")


def runs_of(store: Path, tracker: Tracker) -> list[Run]:
    experiment = client(store).get_run(tracker.parent_id).info.experiment_id
    return list(client(store).search_runs([experiment]))


def test_a_run_says_what_it_is() -> None:
    assert run_name(trial()) == "#12 kl alpha=.31 T=4.2 width=4"
    assert run_name(trial(3, plain=True)) == "#3 ce width=4"


def test_a_trial_is_a_run_with_whole_curves_parameters_tags_and_its_data(store: Path) -> None:
    made = tracker(store, "whole")
    records = fake_train(trial().specs)
    made.log(trial(), records, maybe_there=False)
    [run] = [r for r in runs_of(store, made) if r.data.tags["harness.key"] == "fake/12"]
    assert run.info.status == "FINISHED"
    assert run.info.start_time == 1_700_000_000_000
    assert {name: run.data.params[name] for name in ("form", "alpha", "temperature", "width")} == {
        "form": "kl",
        "alpha": "0.31",
        "temperature": "4.2",
        "width": "4",
    }
    assert run.data.tags["mlflow.parentRunId"] == made.parent_id
    assert run.data.tags["arm"] == "search" and run.data.tags["git_commit"] == "f00"
    assert run.inputs is not None and run.inputs.dataset_inputs[0].dataset.name == "digits"
    for name, curve in trial_metrics(records).items():
        history = client(store).get_metric_history(run.info.run_id, name)
        assert {point.step: point.value for point in history} == pytest.approx(curve)
    kd = client(store).get_metric_history(run.info.run_id, "train_kd")
    assert [point.step for point in kd] == [1, 2]


def test_somebody_without_a_name_may_run_a_sweep(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container, whose user is a number."""

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(getpass, "getuser", nobody)
    made = tracker(store, "nobody's")
    made.log(trial(), fake_train(trial().specs), maybe_there=False)
    assert {run.data.tags["mlflow.user"] for run in runs_of(store, made)} == {f"uid {os.getuid()}"}


def test_logging_a_trial_twice_leaves_one_run_with_one_point_a_step(store: Path) -> None:
    made = tracker(store, "twice")
    records = fake_train(trial().specs)
    made.log(trial(), records, maybe_there=False)
    made.log(trial(), records, maybe_there=True)
    [run] = [r for r in runs_of(store, made) if r.data.tags["harness.key"] == "fake/12"]
    assert len(client(store).get_metric_history(run.info.run_id, "val_accuracy")) == 2


def test_a_sweep_that_goes_on_keeps_its_parent_run_and_knows_what_it_has(store: Path) -> None:
    first = tracker(store, "resumed")
    first.log(trial(), fake_train(trial().specs), maybe_there=False)
    again = Tracker(f"sqlite:///{store / 'mlflow.db'}", "resumed", store / "mlartifacts")
    keys = again.begin(Sweep("fake", "id-1", {"name": "d", "digest": "x", "source": "s"}, {}, "f"), {"family": "mlp"})
    assert again.parent_id == first.parent_id
    assert keys == {"fake/12"}


def test_a_study_made_anew_does_not_take_up_the_runs_of_its_namesake(store: Path) -> None:
    first = tracker(store, "anew", "id-1")
    first.log(trial(), fake_train(trial().specs), maybe_there=False)
    second = tracker(store, "anew", "id-2")
    assert second.parent_id != first.parent_id
    second.log(trial(), fake_train(trial().specs), maybe_there=True)
    keys = [r.data.tags["harness.key"] for r in runs_of(store, second)]
    assert keys.count("fake/12") == 2


def test_a_trial_that_was_given_up_is_a_failed_run_that_says_why(store: Path) -> None:
    made = tracker(store, "failed")
    made.log_failure(trial(), "worker killed by SIGKILL", maybe_there=False)
    [run] = [r for r in runs_of(store, made) if r.data.tags["harness.key"] == "fake/12"]
    assert run.info.status == "FAILED"
    assert run.data.tags["failure"] == "worker killed by SIGKILL"


def test_the_end_of_a_sweep_puts_the_report_where_the_ui_shows_it(store: Path, tmp_path: Path) -> None:
    made = tracker(store, "ended")
    (tmp_path / "figures").mkdir()
    for name in ("summary.md", "figures/size.png"):
        (tmp_path / name).write_text("x")
    files = [tmp_path / "summary.md", tmp_path / "figures" / "size.png"]
    made.end(tmp_path, files, "# the front", {"hypervolume": 0.5}, "FINISHED")
    run = client(store).get_run(made.parent_id)
    assert run.info.status == "FINISHED" and run.data.tags["mlflow.note.content"] == "# the front"
    assert [a.path for a in client(store).list_artifacts(made.parent_id)] == ["figures", "summary.md"]
    tags = client(store).get_experiment(run.info.experiment_id).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert "metrics.`val_accuracy`" in json.loads(tags["mlflow.sharedViewState.trials"])["selectedColumns"]
    assert f"/#/experiments/{run.info.experiment_id}/runs?" in made.page_of("trials")


def test_curves_are_means_over_the_seeds_that_got_so_far_and_end_with_what_was_told() -> None:
    first, second = fake_train(trial().specs)
    guess = {**second.metrics, "val_accuracy": 0.1}
    broken = replace(second, status="diverged", metrics=guess, curve=replace(second.curve, val_accuracy=(0.5,)))
    metrics = trial_metrics([first, broken])
    assert metrics["val_accuracy"][1] == pytest.approx((first.curve.val_accuracy[0] + 0.5) / 2)
    assert metrics["val_accuracy"][2] == pytest.approx(first.curve.val_accuracy[1])
    assert metrics["val_accuracy"][3] == pytest.approx((first.metrics["val_accuracy"] + 0.1) / 2)


def test_a_run_names_its_feature_form_and_its_teacher_and_logs_only_the_knobs_that_are_on() -> None:
    spec = replace(
        trial().specs[0], form="dkd", knobs=(("dkd.rest", 8.0),), teacher="assistant", assistants="16>8",
        feature="hint", feature_weight=2.0, dropout=0.1,
    )  # fmt: skip
    changed = replace(trial(), specs=(spec,))
    assert run_name(changed) == "#12 dkd+hint assistant alpha=.31 T=4.2 width=4"
    params = trial_params(changed)
    assert {name: params[name] for name in ("dkd.rest", "assistants", "feature", "feature_weight", "dropout")} == {
        "dkd.rest": 8.0, "assistants": "16>8", "feature": "hint", "feature_weight": 2.0, "dropout": 0.1,
    }  # fmt: skip
    assert not {"knobs", "form_file", "clip_norm", "patience", "transform", "teacher_epochs"} & set(params)


def test_what_training_ends_with_does_not_overwrite_a_curve() -> None:
    """`train_loss` is the objective by epoch; a student that went back to its best epoch ends one step further."""
    record = fake_train(trial().specs)[0]
    curve = replace(record.curve, train_loss=(9.0, 8.0), val_accuracy=(0.7, 0.5))
    changed = replace(record, curve=curve, metrics={"val_accuracy": 0.7, "train_loss": 0.2})
    found = trial_metrics([changed])
    assert found["train_loss"] == {1: 9.0, 2: 8.0}
    assert found["final_train_loss"] == {2: 0.2}
    assert found["val_accuracy"] == {1: 0.7, 2: 0.5, 3: 0.7}


def test_how_the_losses_pull_is_three_steps_and_means_over_the_seeds_that_have_it() -> None:
    first, second, *_ = fake_train(trial().specs)
    pulls = (
        Balance(kd_ratio=(2.0, 3.0, None), kd_cosine=(1.0, 0.5, None)),
        Balance((4.0, None, None), (0.0, None, None)),
    )
    found = trial_metrics([replace(first, balance=pulls[0]), replace(second, balance=pulls[1])])
    assert found["gradient_kd_ratio"] == {0: 3.0, 1: 3.0}
    assert found["gradient_kd_cosine"] == {0: 0.5, 1: 0.5}
    assert "gradient_feature_ratio" not in found


def test_plain_training_logs_no_distillation_curve() -> None:
    records: list[Record] = fake_train(trial(plain=True).specs)
    assert "train_kd" not in trial_metrics(records)


def test_a_server_that_is_not_there_is_said_at_once_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(ValueError, match=r"cannot reach the tracking server http://127\.0\.0\.1") as error:
        Tracker(f"http://127.0.0.1:{port}", "fake", None)
    assert "\n" not in str(error.value)


def test_a_store_of_an_unknown_kind_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot open the tracking store") as error:
        Tracker("carrier-pigeon://loft", "fake", tmp_path)
    assert "\n" not in str(error.value)


def test_a_kill_while_the_store_is_made_does_not_leave_half_of_one(tmp_path: Path) -> None:
    (tmp_path / ".mlflow.db.new").write_bytes(b"half a database")  # what the kill left
    made = tracker(tmp_path, "after")
    assert client(tmp_path).get_run(made.parent_id).info.status == "RUNNING"
    assert not (tmp_path / ".mlflow.db.new").exists()


def test_a_run_whose_dataset_a_kill_cut_off_gets_it_once(store: Path) -> None:
    made = tracker(store, "dataset")
    for _ in range(2):
        made.log(trial(), fake_train(trial().specs), maybe_there=True)
    [run] = [r for r in runs_of(store, made) if r.data.tags["harness.key"] == "fake/12"]
    assert run.inputs is not None and len(run.inputs.dataset_inputs) == 1


def test_only_the_drivers_own_connections_to_its_store_do_not_wait_for_the_disk(tmp_path: Path) -> None:
    def mode(file: Path) -> int:
        with sqlalchemy.create_engine(f"sqlite:///{file}").connect() as connection:
            return int(connection.exec_driver_sql("PRAGMA synchronous").scalar_one())

    full, normal = 2, 1
    tracker(tmp_path, "fast")
    for name, journal in (("other.db", "wal"), ("plain.db", "delete")):
        with closing(sqlite3.connect(tmp_path / name)) as connection:
            connection.execute(f"PRAGMA journal_mode={journal}")
            connection.execute("CREATE TABLE x (y)")
    assert mode(tmp_path / "mlflow.db") == normal
    assert mode(tmp_path / "other.db") == full and mode(tmp_path / "plain.db") == full


def test_what_a_power_cut_takes_from_the_store_is_logged_again(tmp_path: Path) -> None:
    """The last commits are gone: one run as a whole, of another all but its beginning."""
    made = tracker(tmp_path, "cut")
    for number in (1, 2):
        made.log(trial(number), fake_train(trial(number).specs), maybe_there=False)
    begun = made._create_run("fake/3", run_name(trial(3)), trial(3).started_ms, {})
    again = Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", "cut", tmp_path / "mlartifacts")
    known = again.begin(Sweep("fake", "id-1", {"name": "digits", "digest": "abc", "source": "s"}, {}, "f"), {})
    assert known == {"fake/1", "fake/2"}
    for number in (3, 4):
        again.log(trial(number), fake_train(trial(number).specs), maybe_there=True)
    runs = {run.data.tags["harness.key"]: run for run in runs_of(tmp_path, again)}
    assert set(runs) == {"fake/sweep", "fake/1", "fake/2", "fake/3", "fake/4"}
    assert runs["fake/3"].info.run_id == begun and runs["fake/3"].info.status == "FINISHED"
    assert runs["fake/3"].data.metrics["num_params"] == runs["fake/1"].data.metrics["num_params"]


def test_a_pruned_trial_is_a_finished_run_that_says_so(store: Path) -> None:
    logger = tracker(store, "pruned")
    records = [replace(record, status="pruned") for record in fake_train(trial().specs)]
    logger.log(trial(), records, maybe_there=False)
    [run] = [run for run in runs_of(store, logger) if run.data.tags["harness.key"] == trial().key]
    assert (run.info.status, run.data.tags["status"]) == ("FINISHED", "pruned")
    assert [point.step for point in client(store).get_metric_history(run.info.run_id, "val_loss")] == [1, 2]
