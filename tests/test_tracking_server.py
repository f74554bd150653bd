"""A real MLflow tracking server that goes away in mid-sweep: the sweep goes on, and nothing is lost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from safetensors.numpy import load_file

from harness import export, ledger, outages
from harness.models import MLP
from harness.outages import Owed, StoreError
from harness.records import Record
from harness.registry import register
from harness.runs import Sweep, trial_metrics
from harness.spec import StudentSpec
from harness.tracking import Tracker
from tests.fakes import FakeRuns, fake_train, make_driver
from tests.handed import made_task, trained
from tests.servers import TrackingServer, tracking_server

SWEEP = Sweep("fake", "id", {"name": "digits", "digest": "d", "source": "s"}, {}, "fake.py")
TOTAL = 24


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    with tracking_server(tmp_path_factory.mktemp("server")) as running:
        yield running


def logged(server: TrackingServer, study: str, folder: Path) -> dict[str, str]:
    """The status of every run by its key, after checking each trial's metrics and whole curves."""
    client = mlflow.MlflowClient(server.uri)
    experiment = client.get_experiment_by_name(study)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert set(Counter(run.data.tags["harness.key"] for run in runs).values()) == {1}
    for run in runs:
        name = run.data.tags["harness.key"].rpartition("/")[2]
        if name == "sweep":
            continue
        trial = ledger.read_spec(ledger.trial_dir(folder, int(name)))
        assert trial is not None
        records = ledger.read_result(ledger.trial_dir(folder, int(name)), trial)
        assert records is not None
        expected = trial_metrics(records)
        assert set(run.data.metrics) == set(expected)
        points = client.get_metric_history(run.info.run_id, "val_loss")
        assert {point.step: point.value for point in points} == pytest.approx(expected["val_loss"])
    return {run.data.tags["harness.key"]: run.info.status for run in runs}


def test_a_server_that_goes_away_stops_nothing_and_loses_nothing(
    server: TrackingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outages, "AGAIN_AFTER", 0.5)
    tracker = Tracker(server.uri, "fake", None)
    logged_before = tracker.begin(SWEEP, {"seed": 0})
    calls = 0

    def train(specs: Sequence[StudentSpec]) -> list[Record]:
        nonlocal calls
        calls += 1
        if calls == 2:
            server.stop()
        if calls == 5:
            server.start()
            time.sleep(0.6)
        return fake_train(specs)

    owed = Owed(tracker)
    started = time.monotonic()
    driver = make_driver(tmp_path, owed, train=train, deterministic=False)
    assert driver.run(logged_before) == "complete"
    assert calls >= 5
    assert owed.settle()
    assert len(driver.sampler.trials("complete")) == TOTAL
    statuses = logged(server, "fake", tmp_path)
    assert statuses == {"fake/sweep": "RUNNING"} | {f"fake/{number}": "FINISHED" for number in range(TOTAL)}
    assert time.monotonic() - started < 120


def test_what_is_deleted_in_the_ui_comes_back(
    server: TrackingServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = mlflow.MlflowClient(server.uri)
    tracker = Tracker(server.uri, "deleted", None)
    tracker.begin(SWEEP, {"seed": 0})
    owed = Owed(tracker)
    driver = make_driver(tmp_path, FakeRuns())
    driver._ask_rounds(1)
    trials = [trial for _, trial in driver._open.values()]
    experiment = client.get_experiment_by_name("deleted")
    assert experiment is not None

    def log(place: int) -> None:
        owed.log(trials[place], fake_train(trials[place].specs), maybe_there=False)

    log(0)
    client.delete_run(tracker.parent_id)
    log(1)
    client.delete_experiment(experiment.experiment_id)
    log(2)
    assert len(owed) == 0
    said = "the experiment deleted was deleted in MLflow; it is brought back, with its runs"
    assert [record.getMessage() for record in caplog.records].count(said) == 1
    runs = client.search_runs([experiment.experiment_id])
    parents = {run.data.tags.get("mlflow.parentRunId") for run in runs}
    assert {"fake/1", "fake/2"} <= {run.data.tags["harness.key"] for run in runs}
    tracker.reopen()
    assert tracker.parent_id in {run.info.run_id for run in client.search_runs([experiment.experiment_id])}
    assert len(parents) <= 3


def test_a_student_is_registered_on_a_server_and_loaded_from_it(server: TrackingServer, tmp_path: Path) -> None:
    client: Any = mlflow.MlflowClient(server.uri)
    run = client.create_run(client.create_experiment("registered")).info.run_id
    export.write(trained(made_task(MLP, (4,)), MLP), tmp_path / "student")
    found = [register(tmp_path / "student", server.uri, run, "clouds", {"width": "3"}) for _ in range(2)]
    assert [each.uri for each in found] == ["models:/clouds/1"] * 2
    source = client.get_model_version("clouds", "1").source
    model = mlflow.artifacts.download_artifacts(source, dst_path=str(tmp_path), tracking_uri=server.uri)
    sample = load_file(tmp_path / "student" / "sample.safetensors")
    logits = mlflow.pyfunc.load_model(model).predict(sample["inputs"])["logits"]
    assert np.abs(logits - sample["logits"]).max() < 1e-5


def test_a_server_that_is_not_there_is_one_line_and_soon(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(ValueError, match="cannot reach the tracking server") as caught:
        Tracker("http://me:secret@127.0.0.1:9", "fake", None)
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)
    assert time.monotonic() - started < 20
    assert not list(tmp_path.iterdir())


def test_a_tracker_whose_server_is_gone_says_so(server: TrackingServer) -> None:
    tracker = Tracker(server.uri, "gone", None)
    tracker.begin(SWEEP, {"seed": 0})
    server.stop()  # the last of these tests
    with pytest.raises(StoreError, match="cannot reach the tracking server") as caught:
        tracker.reopen()
    assert "\n" not in str(caught.value)
    with pytest.raises(StoreError):
        tracker.leave()
