"""The store behind the tracker: made whole or not at all, reached in seconds, and never heard with a password.

Importing this says to MLflow, before it is imported, how it is to behave.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from harness.locks import is_server, making_tables, probe
from harness.outages import StoreError
from harness.urls import redact, sqlite_url

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # its seven take minutes; the driver tries again anyway
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

PLACES = (
    ("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"),
    ("model_versions", "source"), ("model_versions", "storage_location"),
)  # fmt: skip
"""The tables and columns in which MLflow keeps where artifacts are."""

ADVICE = "(raised as a result of Query-invoked autoflush"
"""How a line begins that SQLAlchemy puts before what went wrong."""


def reachable(uri: str) -> None:
    """Raise `ValueError` in seconds when no tracking server, or no database server, answers; MLflow would try for
    minutes."""
    if is_server(uri):
        probe(uri, "tracking store")
    if not uri.startswith(("http://", "https://")):
        return
    import requests

    try:
        requests.get(uri.rstrip("/") + "/health", timeout=5).raise_for_status()
    except (requests.RequestException, ValueError) as error:
        raise ValueError(f"cannot reach the tracking server {redact(uri)}: {redact(str(error))}") from None


@contextmanager
def answering() -> Iterator[None]:
    """Whatever a store may raise becomes `StoreError`, with one line of it and no password."""
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, requests.RequestException, SQLAlchemyError, OSError, sqlite3.Error) as error:
        lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith(ADVICE)]
        raise StoreError(redact(lines[0].strip() if lines else type(error).__name__)) from error


def make_store(path: Path) -> None:
    """Make a SQLite store where there is none: aside, and put in place whole.

    MLflow takes a second to make its tables. A kill meanwhile would leave a database that it refuses for ever.
    """
    import mlflow

    with making_tables(sqlite_url(path)):
        if path.exists():
            with closing(sqlite3.connect(path)) as connection:
                connection.execute("SELECT count(*) FROM sqlite_master")  # MLflow tries a damaged one for minutes
            return
        fresh = path.with_name(f".{path.name}.new")
        fresh.unlink(missing_ok=True)
        mlflow.MlflowClient(tracking_uri=sqlite_url(fresh)).get_experiment("0")
        fresh.rename(path)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")


def do_not_wait_for_the_disk(path: Path) -> None:
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


def bring_along(path: Path, study: str | None = None) -> None:
    """Let the artifacts beside a SQLite store be found where its folder was moved or copied: MLflow keeps their places
    as absolute ones, and would read and write in the old folder.

    Those of `study` and of all whose artifacts stand in `mlartifacts` beside the store. MLflow has no call for it.
    """
    beside = path.resolve().parent / "mlartifacts"
    with closing(sqlite3.connect(path, timeout=60)) as connection, connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for name, old in connection.execute("SELECT name, artifact_location FROM experiments").fetchall():
            folder = beside / name
            new, was_ours = folder.as_uri(), str(old).endswith(f"/mlartifacts/{quote(name)}")
            if old == new or not was_ours or not (name == study or folder.is_dir()):
                continue
            for table, column in PLACES:
                if table in tables:
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? "
                        f"OR substr({column}, 1, ?) = ?",
                        (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
                    )
