"""A study's runs as a tracking server has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from harness.tracking.store import reachable
from harness.urls import redact

AT_A_TIME = 8
"""Requests for curves."""


@dataclass(frozen=True)
class Head:
    """A run: `key` is the trial's or the sweep's own, `status` MLflow's word."""

    id: str
    key: str
    status: str
    deleted: bool


@dataclass(frozen=True)
class Body:
    """What is in a run. `curves` has every point of a metric, step and value, in no order; `shown` is each metric's
    value in the table of runs."""

    params: Mapping[str, str]
    tags: Mapping[str, str]
    curves: Mapping[str, Sequence[tuple[int, float]]]
    shown: Mapping[str, float]


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
            found = list(search(self._client, experiment.experiment_id, wanted, deleted=True)) if experiment else []
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
        return {
            number: Body(dict(own.params), dict(own.tags), curves[number], dict(own.metrics))
            for number, own in data.items()
        }

    def close(self) -> None:
        """There is nothing to close."""

    @contextmanager
    def _in_one_line(self) -> Iterator[None]:
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            raise ValueError(f"cannot read the runs in {redact(self._uri)}: {str(error).splitlines()[0]}") from None


def search(client: Any, experiment: str, wanted: str, *, deleted: bool = False) -> Iterator[Any]:
    """The runs that a filter finds, page by page; those that were `deleted` too."""
    from mlflow.entities import ViewType

    view, token = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY, None
    while True:
        page = client.search_runs([experiment], wanted, view, max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
