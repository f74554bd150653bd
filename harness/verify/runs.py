"""A study's runs in bulk: from MLflow's tables where they can be reached, else by its client.

The tables give whole curves of hundreds of runs in one query, and can be read with nothing written. A server is asked
for each curve (see `harness.tracking.Reader`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import sqlalchemy
from sqlalchemy import and_, column, select, table
from sqlalchemy.exc import SQLAlchemyError

from harness.tracking import Body, Head, Reader
from harness.urls import read_only, redact

EXPERIMENTS = table("experiments", column("experiment_id"), column("name"))
RUNS = table("runs", column("run_uuid"), column("experiment_id"), column("status"), column("lifecycle_stage"))
PARAMS = table("params", column("run_uuid"), column("key"), column("value"))
TAGS = table("tags", column("run_uuid"), column("key"), column("value"))
METRICS = table("metrics", *(column(name) for name in ("run_uuid", "key", "value", "is_nan", "step")))
SHOWN = table("latest_metrics", *(column(name) for name in ("run_uuid", "key", "value", "is_nan")))


class Runs(Protocol):
    """Where a study's runs are read from, those deleted too."""

    def heads(self) -> list[Head]:
        """Every run, in no order."""

    def bodies(self, ids: Sequence[str]) -> dict[str, Body]:
        """What is in the runs of these ids."""

    def close(self) -> None:
        """Let go of the store."""


@contextmanager
def reading(uri: str, study: str, study_id: str) -> Iterator[Runs]:
    """A study's runs. Raises `ValueError` in one line where they cannot be read."""
    in_database = re.match(r"(sqlite|postgresql|mysql|mssql)(\+\w+)?://", uri) is not None
    runs: Runs | None = None
    try:
        runs = Tables(uri, study, study_id) if in_database else Reader(uri, study, study_id)
        yield runs
    except (SQLAlchemyError, ImportError) as error:
        raise ValueError(f"cannot read the runs in {redact(uri)}: {redact(str(error)).splitlines()[0]}") from None
    finally:
        if runs is not None:
            runs.close()


class Tables:
    """Runs from MLflow's own tables."""

    def __init__(self, uri: str, study: str, study_id: str) -> None:
        """Connect to the database; of SQLite and PostgreSQL for reading only."""
        self._study, self._study_id = study, study_id
        self._engine = sqlalchemy.create_engine(read_only(uri), execution_options={"postgresql_readonly": True})

    def heads(self) -> list[Head]:
        """As `Runs.heads`."""
        key, owner = TAGS.alias("key"), TAGS.alias("owner")
        found = (
            select(RUNS.c.run_uuid, key.c.value, RUNS.c.status, RUNS.c.lifecycle_stage)
            .join_from(RUNS, EXPERIMENTS, RUNS.c.experiment_id == EXPERIMENTS.c.experiment_id)
            .join(key, and_(key.c.run_uuid == RUNS.c.run_uuid, key.c.key == "harness.key"))
            .join(owner, and_(owner.c.run_uuid == RUNS.c.run_uuid, owner.c.key == "harness.study_id"))
            .where(EXPERIMENTS.c.name == self._study, owner.c.value == self._study_id)
        )
        return [Head(number, str(name), status, stage != "active") for number, name, status, stage in self._rows(found)]

    def bodies(self, ids: Sequence[str]) -> dict[str, Body]:
        """As `Runs.bodies`."""
        params: dict[str, dict[str, str]] = {number: {} for number in ids}
        tags: dict[str, dict[str, str]] = {number: {} for number in ids}
        curves: dict[str, dict[str, list[tuple[int, float]]]] = {number: {} for number in ids}
        for texts, found in ((PARAMS, params), (TAGS, tags)):
            wanted = select(texts.c.run_uuid, texts.c.key, texts.c.value).where(texts.c.run_uuid.in_(ids))
            for number, key, value in self._rows(wanted):
                found[number][key] = value
        points = select(*METRICS.c).where(METRICS.c.run_uuid.in_(ids))
        for number, key, value, is_nan, step in self._rows(points):
            curves[number].setdefault(key, []).append((step, float("nan") if is_nan else value))
        shown: dict[str, dict[str, float]] = {number: {} for number in ids}
        for number, key, value, is_nan in self._rows(select(*SHOWN.c).where(SHOWN.c.run_uuid.in_(ids))):
            shown[number][key] = float("nan") if is_nan else value
        return {number: Body(params[number], tags[number], curves[number], shown[number]) for number in ids}

    def close(self) -> None:
        """As `Runs.close`."""
        self._engine.dispose()

    def _rows(self, wanted: sqlalchemy.Select[Any]) -> Sequence[Any]:
        with self._engine.connect() as connection:
            return connection.execute(wanted).all()
