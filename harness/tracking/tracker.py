"""Every trial as an MLflow run.

One experiment a study, one parent run a sweep, one child run a trial, found again by its tag `harness.key`. Logging the
same trial twice changes nothing: the run is looked up first, and timestamps are those of the trial's own clock.
"""

from __future__ import annotations

import getpass
import json
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from harness.files import now_ms
from harness.ledger import TrialSpec
from harness.locks import is_server, making_tables
from harness.outages import DAMAGED, StoreError, way_out
from harness.records import Record
from harness.runs import Sweep, failure_tags, run_name, trial_metrics, trial_params, trial_tags
from harness.tracking.reader import search
from harness.tracking.store import answering, bring_along, do_not_wait_for_the_disk, make_store, reachable
from harness.tracking.views import VIEWS, state
from harness.urls import redact, sqlite_file

log = logging.getLogger(__name__)
UNUSABLE = (*DAMAGED, "no such table", "no such column")
"""What SQLite says of a file that is no store of MLflow's, or not a whole one."""
METRICS_A_BATCH = 1000  # MLflow's own limit
TRIES, PAUSE = 3, 1.0
"""How often a server's store is opened whose connection is cut meanwhile, and the seconds in between."""


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
        import mlflow  # noqa: F401 - its loggers are set below

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of each table that it makes
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # a store that is away is said in a line
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # of a server that is away the driver tells
        logging.getLogger("psycopg").setLevel(logging.ERROR)  # of a point that is there already: MLflow sees to it
        logging.getLogger("alembic").setLevel(logging.WARNING)
        self._uri, self._study, self._artifacts = uri, study, artifacts
        self._experiment, self._parent, self._params = "", "", dict[str, Any]()
        self._sweep: Sweep | None = None
        for left in reversed(range(1 if sqlite_file(uri) else TRIES)):
            try:
                with answering():
                    self._open()
                return
            except (StoreError, ImportError) as error:
                if left and isinstance(error, StoreError):
                    time.sleep(PAUSE)
                    reachable(uri)
                    continue
                todo = way_out(str(error), "move it away, and the sweep logs every run again, from disk", UNUSABLE)
                raise ValueError(f"cannot open the tracking store {redact(uri)}: {error}{todo}") from None

    def _open(self) -> None:
        """Make the store where there is none, connect to it, and have the experiment in it."""
        import mlflow

        uri, study, artifacts = self._uri, self._study, self._artifacts
        if (file := sqlite_file(uri)) is not None:
            make_store(file)
            if artifacts is not None and file.resolve().parent == artifacts.resolve().parent:
                bring_along(file, study)
            do_not_wait_for_the_disk(file)
        with making_tables(uri) if is_server(uri) else nullcontext():
            self._client = mlflow.MlflowClient(tracking_uri=uri)
            self._experiment = self._find_experiment(study, artifacts)

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
        with answering():
            self._open_parent()
            for name, view in VIEWS.items():
                self._client.set_experiment_tag(self._experiment, f"mlflow.sharedViewState.{name}", state(view))
            return self._logged_keys()

    def reopen(self) -> None:
        """Find out whether the store answers, and have the sweep's experiment and its own run where they were deleted:
        out of the UI's bin, or made anew."""
        self._be_reachable()
        with answering():
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
        with answering():
            self._parent = self._find_run(f"{sweep.study}/sweep") or ""

    def make_parent(self) -> None:
        """A parent run where there is none, as of a sweep that was stopped."""
        assert self._sweep is not None
        with answering():
            self._parent = self._create_run(f"{self._sweep.study}/sweep", f"sweep {self._sweep.study}", now_ms(), {})
        self.leave()

    def delete(self, run: str) -> None:
        """Put a run where the UI shows deleted ones; it can be restored there."""
        with answering():
            self._client.delete_run(run)

    def restore(self, run: str) -> None:
        """Bring a deleted run back."""
        with answering():
            self._client.restore_run(run)

    def log(self, trial: TrialSpec, records: Sequence[Record], *, maybe_there: bool) -> None:
        """One trial's run: parameters, whole curves (mean over seeds), final metrics, tags, dataset; then finished.

        `maybe_there` says that an earlier attempt may have begun the run, so it is looked for first.
        """
        with answering():
            metrics = trial_metrics(records)
            run = self._run_of(trial, trial_tags(trial, records), maybe_there, metrics["seconds"][0])
            self._log(run, metrics, trial_params(trial), trial.started_ms)
            self._finish(run, "FINISHED", trial.started_ms + int(1000 * sum(r.cost.seconds for r in records)))

    def log_failure(self, trial: TrialSpec, reason: str, *, maybe_there: bool) -> None:
        """The run of a trial that was given up: its parameters, the reason as a tag, status FAILED."""
        with answering():
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
        with answering():
            self._client.set_terminated(self._parent, "KILLED")

    def end(self, folder: Path, files: Sequence[Path], note: str, metrics: Mapping[str, float], status: str) -> None:
        """The parent's last word: the report's files as artifacts, a Markdown note, and the sweep's figures."""
        with answering():
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
        location = (artifacts / study).resolve().as_uri() if artifacts else None
        found = self._client.get_experiment_by_name(study)
        if found is None:
            made = str(self._client.create_experiment(study, artifact_location=location))
        else:
            made = str(found.experiment_id)
            if found.lifecycle_stage == "deleted":
                self._client.restore_experiment(made)
                log.warning("the experiment %s was deleted in MLflow; it is brought back, with its runs", study)
            if location not in (None, found.artifact_location) and not self._experiment:
                log.warning("artifacts go to %s, where the experiment was made", redact(found.artifact_location))
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
        found = search(self._client, self._experiment, wanted)
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


def _dataset_input(dataset: Mapping[str, str], splits: str) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"source": dataset["source"]})
    entity = Dataset(name=dataset["name"], digest=dataset["digest"], source_type="code", source=source)
    return DatasetInput(entity, [InputTag("mlflow.data.context", splits)])
