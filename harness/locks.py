"""One driver a study: who holds its folder and its storage, and who makes a store's tables.

A folder and a SQLite file are held by a `flock`, which goes with its process; a database on a server by an advisory
lock of one connection, which goes with that connection: it holds across hosts, and is taken again when the connection
was lost. Behind a pooler that gives every transaction another connection, advisory locks hold nothing.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import sqlalchemy
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from harness import files
from harness.stopping import Halt
from harness.urls import redact, sqlite_file, storage_of

CONNECT_TIMEOUT = 10
TABLES_WITHIN, SILENT = 60.0, 10.0
"""Seconds that another process is given to make a store's tables, which takes a few, and after which it is said."""
log = logging.getLogger(__name__)


def is_server(url: str) -> bool:
    """Whether a URL is that of a database server that the harness knows to lock: PostgreSQL."""
    return url.startswith("postgresql")


def probe(url: str, what: str) -> None:
    """Raise `ValueError` in one line, which says `what` it is, unless a database server answers at the URL."""
    _connect(url, what)[1].close()


def _connect(url: str, what: str = "storage") -> tuple[Engine, Connection]:
    with _reaching(url, what):
        given = sqlalchemy.make_url(url)
        options = {"connect_timeout": CONNECT_TIMEOUT} if "psycopg" in given.get_dialect().driver else {}
        engine = sqlalchemy.create_engine(given, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=options)
        return engine, engine.connect()


@contextmanager
def _reaching(url: str, what: str = "storage") -> Iterator[None]:
    """Whatever is raised as a server is reached becomes `ValueError` in one line, which says `what` it is."""
    try:
        yield
    except (SQLAlchemyError, ImportError, ValueError) as error:
        if isinstance(error, ValueError):  # its port is no number, and what it says may be a part of a password
            raise ValueError(f"cannot open the {what}: its URL cannot be read") from None
        how = "; pip install -e '.[postgres]'" if isinstance(error, ImportError) else ""
        line = " ".join(str(getattr(error, "orig", None) or error).split())
        raise ValueError(f"cannot open the {what} {redact(url)}: {redact(line)}{how}") from None


class Advisory:
    """An advisory lock of a PostgreSQL database. Raises `ValueError` where the database cannot be reached."""

    def __init__(self, url: str, name: str) -> None:
        self._key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
        self._engine, self._connection = _connect(url)

    def take(self) -> bool:
        """Take the lock; False where another holds it. Raises `DBAPIError` where the connection is lost."""
        asked = sqlalchemy.text("SELECT pg_try_advisory_lock(:key)")
        return bool(self._connection.execute(asked, {"key": self._key}).scalar())

    def hold(self) -> bool:
        """Make sure that the lock is still held: where its connection was lost it is taken anew.

        False where another has taken it meanwhile. Raises `DBAPIError` where the server does not answer.
        """
        if not self._connection.closed:
            try:
                self._connection.execute(sqlalchemy.text("SELECT 1"))
                return True
            except SQLAlchemyError:  # also of one that was lost before and has not been closed
                self.close()
        self._connection = self._engine.connect()
        try:
            return self.take()
        except BaseException:  # else the next look would find a connection that holds nothing
            self.close()
            raise

    def close(self) -> None:
        """Let go of the lock."""
        with suppress(SQLAlchemyError):
            self._connection.close()


class Held:
    """What a driver holds of its storage while it runs: nothing to renew, unless it is an advisory lock."""

    def __init__(self, advisory: Advisory | None = None) -> None:
        self._advisory = advisory

    def __call__(self) -> None:
        """Be sure that it is held. Raises `Halt` where another driver has taken the study over, `DBAPIError` where the
        server does not answer."""
        if self._advisory is not None and not self._advisory.hold():
            raise Halt("the storage's connection was lost, and another sweep has taken the study over; this one stops")


@contextmanager
def driver_of(name: str, study_dir: Path, storage: str | None) -> Iterator[Held]:
    """Be a study's only driver, of its folder and of its storage. Raises `ValueError` where there is another."""
    taken = f"another sweep is running study {name!r}"
    with ExitStack() as stack:
        advisory = None
        if storage and is_server(storage):  # before anything is made: it may not answer
            advisory = stack.enter_context(closing(Advisory(storage, f"harness study {name}")))
        lock = files.lock(study_dir / "driver.lock")
        if lock is None:
            raise ValueError(f"{taken} in {study_dir.parent}; wait for it or stop it")
        stack.callback(lock.release, force=True)
        if advisory is not None:
            with _reaching(str(storage)):
                is_free = advisory.take()
            if not is_free:
                raise ValueError(f"{taken} with the storage {redact(str(storage))}; wait for it or stop it")
            yield Held(advisory)
            return
        url = storage_of(study_dir, storage)  # in the study's folder, too: another sweep may be given it as --storage
        file = sqlite_file(url)
        if file is not None and (file := file.resolve()).parent.is_dir():  # else it is said on opening
            if file.is_file() and (names := file.stat().st_nlink) > 1:
                raise ValueError(f"{file} has {names} names, and SQLite's log is one name's: use a copy, no hard link")
            lock = files.lock(file.with_name(f".{file.name}.driver.lock"))
            if lock is None:
                raise ValueError(f"another sweep is using the storage {redact(url)}; wait for it or stop it")
            stack.callback(lock.release, force=True)
        yield Held()


@contextmanager
def making_tables(url: str) -> Iterator[None]:
    """Be the only one to make a store's tables: two that do it at once break it, on SQLite and on PostgreSQL.

    Raises `ValueError` where another process does not end doing so.
    """
    stuck = f"another process has been making the tables of {redact(url)} for {TABLES_WITHIN:g} s; stop it"
    since, said = time.monotonic(), False

    def wait() -> None:
        nonlocal said
        waited = time.monotonic() - since
        if waited > TABLES_WITHIN:
            raise ValueError(stuck)
        if waited > SILENT and not said:
            said = True
            log.warning("another process is making the tables of %s; it is waited for", redact(url))
        time.sleep(0.1)

    if is_server(url):
        with closing(Advisory(url, "harness tables")) as advisory:
            while not advisory.take():
                wait()
            yield
        return
    file = sqlite_file(url)
    if file is None or not (file := file.resolve()).parent.is_dir():
        yield
        return
    while (lock := files.lock(file.with_name(f".{file.name}.lock"))) is None:
        wait()
    try:
        yield
    finally:
        lock.release(force=True)
