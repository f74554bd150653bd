"""Every trial as an MLflow run. It imports mlflow, as `registry.py` alone does beside it, when a tracker is opened.

One experiment a study, one parent run a sweep, one child run a trial, found again by its tag `harness.key`. Logging the
same trial twice changes nothing: the run is looked up first, and timestamps are those of the trial's own clock.
"""

from __future__ import annotations

import getpass
import json
import logging
import math
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.ledger import TrialSpec, now_ms
from harness.locks import is_server, making_tables, probe
from harness.outages import StoreError
from harness.runs import Sweep, failure_tags, run_name, trial_metrics, trial_params, trial_tags
from harness.spec import Record
from harness.urls import redact, sqlite_file

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # its seven take minutes; the driver tries again anyway
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
METRICS_A_BATCH = 1000  # MLflow's own limit
AT_A_TIME = 8  # requests for curves
KNOBS = ("form", "width", "alpha", "temperature", "lr")


@dataclass(frozen=True)
class View:
    """A view of the runs table that is kept with the experiment: which runs, sorted by its first metric, highest first,
    and the columns that it shows."""

    filter: str
    metrics: tuple[str, ...]
    params: tuple[str, ...] = KNOBS
    tags: tuple[str, ...] = ("arm", "stage")


VIEWS: Mapping[str, View] = {
    "trials": View("tags.stage = 'search'", ("val_accuracy", "val_accuracy_sd", "num_params")),
    "confirmed": View(
        "tags.stage = 'confirm'", ("test_accuracy", "val_accuracy", "num_params", "test_agreement", "test_ece")
    ),
}
"""The views by name: what the search tried, and what was confirmed on fresh seeds."""


class Tracker:
    """A live connection to one study's experiment. Only the driver has one.

    Whatever the store does not do raises `harness.outages.StoreError`: it may be away, or somebody has deleted what is
    written to.
    """

    def __init__(self, uri: str, study: str, artifacts: Path | None) -> None:
        """Open or create the experiment. `artifacts` is the embedded store's folder, None on a tracking server.

        Raises `ValueError` in one line when the store cannot be reached.
        """
        reachable(uri)
        import mlflow

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of each table that it makes
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # a store that is away is said in a line
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # of a server that is away the driver tells
        logging.getLogger("alembic").setLevel(logging.WARNING)
        self._uri, self._study, self._artifacts = uri, study, artifacts
        self._parent, self._params = "", dict[str, Any]()
        self._sweep: Sweep | None = None
        try:
            with _answering():
                if (file := sqlite_file(uri)) is not None:
                    _make_store(file)
                    _do_not_wait_for_the_disk(file)
                with making_tables(uri) if is_server(uri) else nullcontext():
                    self._client = mlflow.MlflowClient(tracking_uri=uri)
                    self._experiment = self._find_experiment(study, artifacts)
        except (StoreError, ImportError) as error:
            raise ValueError(f"cannot open the tracking store {redact(uri)}: {error}") from None

    def page_of(self, view: str) -> str:
        """Where the UI shows a view of `VIEWS`: a path below the server's URL."""
        return f"/#/experiments/{self._experiment}/runs?workflowType=machine_learning&viewStateShareKey={view}"

    @property
    def parent_id(self) -> str:
        """The sweep's own run."""
        return self._parent

    def begin(self, sweep: Sweep, params: Mapping[str, Any]) -> set[str]:
        """Open the sweep's parent run, or the one it had before; gives the keys of trials already logged."""
        self._sweep, self._params = sweep, dict(params)
        with _answering():
            self._open_parent()
            for name, view in VIEWS.items():
                self._client.set_experiment_tag(self._experiment, f"mlflow.sharedViewState.{name}", _state(view))
            return self._logged_keys()

    def reopen(self) -> None:
        """Find out whether the store answers, and have the sweep's experiment and its own run where they were deleted:
        out of the UI's bin, or made anew."""
        self._be_reachable()
        with _answering():
            self._experiment = self._find_experiment(self._study, self._artifacts)
            known = {run.info.run_id for run in self._client.search_runs([self._experiment], self._own("sweep"))}
            if self._parent not in known:
                self._open_parent()

    def _be_reachable(self) -> None:
        try:
            reachable(self._uri)
        except ValueError as error:
            raise StoreError(str(error)) from None

    def attach(self, sweep: Sweep) -> None:
        """As `begin`, for who mends runs and does not sweep: the parent run stays as it is, and none is made."""
        self._sweep = sweep
        with _answering():
            self._parent = self._find_run(f"{sweep.study}/sweep") or ""

    def make_parent(self) -> None:
        """A parent run where there is none, as of a sweep that was stopped."""
        assert self._sweep is not None
        with _answering():
            self._parent = self._create_run(f"{self._sweep.study}/sweep", f"sweep {self._sweep.study}", now_ms(), {})
        self.leave()

    def delete(self, run: str) -> None:
        """Put a run where the UI shows deleted ones; it can be restored there."""
        with _answering():
            self._client.delete_run(run)

    def restore(self, run: str) -> None:
        """Bring a deleted run back."""
        with _answering():
            self._client.restore_run(run)

    def log(self, trial: TrialSpec, records: Sequence[Record], *, maybe_there: bool) -> None:
        """One trial's run: parameters, whole curves (mean over seeds), final metrics, tags, dataset; then finished.

        `maybe_there` says that an earlier attempt may have begun the run, so it is looked for first.
        """
        with _answering():
            metrics = trial_metrics(records)
            run = self._run_of(trial, trial_tags(trial, records), maybe_there, metrics["seconds"][0])
            self._log(run, metrics, trial_params(trial), trial.started_ms)
            self._finish(run, "FINISHED", trial.started_ms + int(1000 * sum(r.cost.seconds for r in records)))

    def log_failure(self, trial: TrialSpec, reason: str, *, maybe_there: bool) -> None:
        """The run of a trial that was given up: its parameters, the reason as a tag, status FAILED."""
        with _answering():
            run = self._run_of(trial, failure_tags(trial, reason), maybe_there)
            self._log(run, {}, trial_params(trial), trial.started_ms)
            self._finish(run, "FAILED", max(now_ms(), trial.started_ms))  # the clock may have been set back

    def _run_of(
        self, trial: TrialSpec, tags: Mapping[str, str], maybe_there: bool, seconds: float | None = None
    ) -> str:
        """The run of a trial, begun before or now, with its tags. One of other parameters is that of a trial of which
        its storage has lost the last writes, one of other `seconds` that of a result that was lost; it goes into the
        bin."""
        known = self._find_run(trial.key) if maybe_there else None
        if known is not None:
            theirs, ours = self._client.get_run(known).data, trial_params(trial)
            same = all(value == str(ours.get(name)) for name, value in theirs.params.items())
            if same and (seconds is None or math.isclose(theirs.metrics.get("seconds", seconds), seconds)):
                self._tag_again(known, theirs.tags, tags)
                return known
            self._client.delete_run(known)
        return self._create_run(trial.key, run_name(trial), trial.started_ms, tags)

    def _tag_again(self, run: str, theirs: Mapping[str, str], ours: Mapping[str, str]) -> None:
        """Give a run that was found the tags of what has become of its trial, which may have failed before."""
        for name, value in ours.items():
            if theirs.get(name) != value:
                self._client.set_tag(run, name, value)
        if "failure" in theirs and "failure" not in ours:
            self._client.delete_tag(run, "failure")

    def leave(self) -> None:
        """The sweep was asked to stop: its parent run does not go on until it does."""
        if not self._parent:
            return
        self._be_reachable()  # a server that hangs is found out in seconds
        with _answering():
            self._client.set_terminated(self._parent, "KILLED")

    def end(self, folder: Path, files: Sequence[Path], note: str, metrics: Mapping[str, float], status: str) -> None:
        """The parent's last word: the report's files as artifacts, a Markdown note, and the sweep's figures."""
        with _answering():
            for file in files:
                inside = file.parent.relative_to(folder).as_posix()
                self._client.log_artifact(self._parent, str(file), None if inside == "." else inside)
            self._client.set_tag(self._parent, "mlflow.note.content", note)
            self._log(self._parent, {name: {0: value} for name, value in metrics.items()}, {}, now_ms())
            self._client.set_terminated(self._parent, status)

    def _open_parent(self) -> None:
        assert self._sweep is not None
        key = f"{self._sweep.study}/sweep"
        self._parent = self._find_run(key) or self._create_run(key, f"sweep {self._sweep.study}", now_ms(), {})
        self._client.update_run(self._parent, status="RUNNING")
        self._log(self._parent, {}, self._params)

    def _find_experiment(self, study: str, artifacts: Path | None) -> str:
        found = self._client.get_experiment_by_name(study)
        if found is None:
            location = (artifacts / study).resolve().as_uri() if artifacts else None
            made = str(self._client.create_experiment(study, artifact_location=location))
        else:
            made = str(found.experiment_id)
            if found.lifecycle_stage == "deleted":
                self._client.restore_experiment(made)
        self._client.set_experiment_tag(made, "mlflow.experimentKind", "custom_model_development")
        return made

    def _find_run(self, key: str) -> str | None:
        runs = self._client.search_runs([self._experiment], self._own(key.rpartition("/")[2]), max_results=1)
        return str(runs[0].info.run_id) if runs else None

    def _own(self, name: str) -> str:
        """The filter for the run of a trial, by its number, or of the `sweep`."""
        assert self._sweep is not None
        study_id = self._sweep.study_id
        return f"tags.`harness.key` = '{self._sweep.study}/{name}' and tags.`harness.study_id` = '{study_id}'"

    def _logged_keys(self) -> set[str]:
        assert self._sweep is not None
        wanted = f"tags.`harness.study_id` = '{self._sweep.study_id}' and attributes.status != 'RUNNING'"
        found = _search(self._client, self._experiment, wanted)
        return {run.data.tags["harness.key"] for run in found if "harness.key" in run.data.tags}

    def _create_run(self, key: str, name: str, started_ms: int, tags: Mapping[str, str]) -> str:
        assert self._sweep is not None
        common = {
            "harness.key": key,
            "harness.study_id": self._sweep.study_id,
            "study": self._sweep.study,
            "mlflow.user": _user(),
            "mlflow.source.name": self._sweep.file,
            "mlflow.source.type": "LOCAL",
        }
        nested = {"mlflow.parentRunId": self._parent} if self._parent else {}
        every = {**common, **self._sweep.tags, **tags, **nested}
        return str(self._client.create_run(self._experiment, started_ms, every, run_name=name).info.run_id)

    def _log(
        self, run: str, metrics: Mapping[str, Mapping[int, float]], params: Mapping[str, Any], started_ms: int = 0
    ) -> None:
        """Log in as few atomic batches as MLflow allows."""
        from mlflow.entities import Metric, Param

        points = [
            Metric(name, value, started_ms + step, step)
            for name, curve in metrics.items()
            for step, value in curve.items()
        ]
        texts = [Param(name, str(value)) for name, value in params.items()]
        assert self._sweep is not None
        splits = "train, val, test" if "test_accuracy" in metrics else "train, val"
        self._client.log_inputs(run, datasets=[_dataset_input(self._sweep.dataset, splits)])  # once, however often said
        for start in range(0, max(1, len(points)), METRICS_A_BATCH):
            batch = points[start : start + METRICS_A_BATCH]
            self._client.log_batch(run, metrics=batch, params=texts if start == 0 else [])

    def _finish(self, run: str, status: str, end_ms: int) -> None:
        self._client.set_terminated(run, status, end_ms)


def _user() -> str:
    """Who runs this; a container's user may have no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return f"uid {os.getuid()}" if hasattr(os, "getuid") else "unknown"


@contextmanager
def _answering() -> Iterator[None]:
    """Whatever a store may raise becomes `StoreError`, with one line of it and no password."""
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, requests.RequestException, SQLAlchemyError, OSError, sqlite3.Error) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise StoreError(redact(lines[0])) from error


def _make_store(path: Path) -> None:
    """Make a SQLite store where there is none: aside, and put in place whole.

    MLflow takes a second to make its tables. A kill meanwhile would leave a database that it refuses for ever.
    """
    import mlflow

    with making_tables(f"sqlite:///{path}"):
        if path.exists():
            with closing(sqlite3.connect(path)) as connection:
                connection.execute("SELECT count(*) FROM sqlite_master")  # MLflow tries a damaged one for minutes
            return
        fresh = path.with_name(f".{path.name}.new")
        fresh.unlink(missing_ok=True)
        mlflow.MlflowClient(tracking_uri=f"sqlite:///{fresh}").get_experiment("0")
        fresh.rename(path)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")


def _do_not_wait_for_the_disk(path: Path) -> None:
    """Let this process's connections to a SQLite store in WAL mode leave it to the system when a commit is on disk.

    A kill loses nothing then, and a power cut at most the last runs, which the next sweep logs again from the trial
    directories. MLflow has no option for it, so it is said to each connection that SQLAlchemy opens.
    """
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def opened(connection: Any, _: Any) -> None:
        if not isinstance(connection, sqlite3.Connection):
            return
        _, _, file = connection.execute("PRAGMA database_list").fetchone()
        in_wal = connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        if in_wal and file and path.exists() and path.samefile(file):
            connection.execute("PRAGMA synchronous=NORMAL")

    event.listen(Engine, "connect", opened)


def reachable(uri: str) -> None:
    """Raise `ValueError` in seconds when no tracking server, or no database server, answers; MLflow would try for
    minutes."""
    if is_server(uri):
        probe(uri)
    if not uri.startswith(("http://", "https://")):
        return
    import requests

    try:
        requests.get(uri.rstrip("/") + "/health", timeout=5).raise_for_status()
    except (requests.RequestException, ValueError) as error:
        raise ValueError(f"cannot reach the tracking server {redact(uri)}: {redact(str(error))}") from None


def _state(view: View) -> str:
    """The UI's own form of a shared view."""
    columns = {"metrics": view.metrics, "params": view.params, "tags": view.tags}
    quoted = [f"{kind}.`{name}`" for kind, names in columns.items() for name in names]
    facets = {"searchFilter": view.filter, "orderByKey": quoted[0], "orderByAsc": False}
    return json.dumps({**facets, "selectedColumns": quoted})


def _dataset_input(dataset: Mapping[str, str], splits: str) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"source": dataset["source"]})
    entity = Dataset(name=dataset["name"], digest=dataset["digest"], source_type="code", source=source)
    return DatasetInput(entity, [InputTag("mlflow.data.context", splits)])


def _search(client: Any, experiment: str, wanted: str, *, deleted: bool = False) -> Iterator[Any]:
    """The runs that a filter finds, page by page; those that were `deleted` too."""
    from mlflow.entities import ViewType

    view, token = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY, None
    while True:
        page = client.search_runs([experiment], wanted, view, max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


class Reader:
    """A study's runs, those deleted too, by MLflow's client: for tracking servers, a request for each curve."""

    def __init__(self, uri: str, study: str, study_id: str) -> None:
        """Find the runs. Raises `ValueError` in one line when the server cannot be reached."""
        reachable(uri)
        import mlflow

        self._uri = uri
        with self._in_one_line():
            self._client = mlflow.MlflowClient(tracking_uri=uri)
            experiment = self._client.get_experiment_by_name(study)
            wanted = f"tags.`harness.study_id` = '{study_id}'"
            found = list(_search(self._client, experiment.experiment_id, wanted, deleted=True)) if experiment else []
        self._runs = {str(run.info.run_id): run for run in found}

    def heads(self) -> list[Head]:
        """Every run, in no order."""
        return [
            Head(number, run.data.tags.get("harness.key", ""), run.info.status, run.info.lifecycle_stage != "active")
            for number, run in self._runs.items()
        ]

    def bodies(self, ids: Sequence[str]) -> dict[str, Body]:
        """What is in the runs of these ids."""
        wanted = [(number, name) for number in ids for name in self._runs[number].data.metrics]
        curves: dict[str, dict[str, list[tuple[int, float]]]] = {number: {} for number in ids}
        with self._in_one_line(), ThreadPoolExecutor(AT_A_TIME) as pool:
            histories = pool.map(lambda each: self._client.get_metric_history(*each), wanted)
            for (number, name), points in zip(wanted, histories, strict=True):
                curves[number][name] = [(point.step, point.value) for point in points]
        data = {number: self._runs[number].data for number in ids}
        return {number: Body(dict(data[number].params), dict(data[number].tags), curves[number]) for number in ids}

    def close(self) -> None:
        """There is nothing to close."""

    @contextmanager
    def _in_one_line(self) -> Iterator[None]:
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            raise ValueError(f"cannot read the runs in {redact(self._uri)}: {str(error).splitlines()[0]}") from None


@dataclass(frozen=True)
class Head:
    """A run: `key` is the trial's or the sweep's own, `status` MLflow's word."""

    id: str
    key: str
    status: str
    deleted: bool


@dataclass(frozen=True)
class Body:
    """What is in a run. `curves` has every point of a metric, step and value, in no order."""

    params: Mapping[str, str]
    tags: Mapping[str, str]
    curves: Mapping[str, Sequence[tuple[int, float]]]
