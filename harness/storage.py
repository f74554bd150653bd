"""The study on disk: opened, told and set aside. The driver's own proposals are the sampler's."""

from __future__ import annotations

import logging
import secrets
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from json import JSONDecodeError
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import column, select, table, update
from sqlalchemy.exc import SQLAlchemyError

from harness.kept import Asked, check_own, engine_options
from harness.locks import making_tables
from harness.outages import CHANGED, DAMAGED, way_out
from harness.space import Study, direction
from harness.urls import redact, sqlite_file

log = logging.getLogger(__name__)
ASIDE = ".aside-"
"""What stands in the name of a study that was renamed, between the one it had and when."""
ANEW = "put an earlier copy back, or begin anew with --new, which keeps what there is aside"
ELSEWHERE = "put an earlier copy back, or name another --storage"
"""What to do about a study that was damaged, and about a database of several studies."""
_STUDIES = table("studies", column("study_name"))


class AnotherStudy(ValueError):  # noqa: N818 - it says which error it is
    """The storage has another study of this name: its hash is `config_hash`."""

    def __init__(self, message: str, config_hash: Any) -> None:
        super().__init__(message)
        self.config_hash = config_hash


def open_study(url: str, name: str, study: Study, config_hash: str, shared: bool) -> RDBStorage:
    """As `Sampler` says; the storage, with the study in it."""
    with _opening(url, shared=shared):
        storage = _made(url)
        names = _names(storage)
        other = next((each for each in names if not each.startswith(f"{name}{ASIDE}")), name)
        if other != name and name not in names and not shared:
            raise ValueError(f"{redact(url)} is the database of study {other!r}, not {name!r}; choose another --out")
        directions = [direction(objective) for objective in study.objectives]
        if name in names and _never_asked(storage, name, config_hash):
            log.warning("the study called %s had come to no trial; it is called %s now", name, _rename(storage, name))
        disk = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
        if "harness.config" not in disk.user_attrs and not disk.get_trials(deepcopy=False):
            disk.set_user_attr("harness.objectives", list(study.objectives))
            disk.set_user_attr("harness.id", f"{config_hash}-{secrets.token_hex(6)}")
            disk.set_user_attr("harness.config", config_hash)  # last: without it the study was never begun
        known, kept = disk.user_attrs, disk.directions
    if known.get("harness.config") != config_hash:
        elsewhere = "name another --storage" if shared else "choose another --out"
        raise AnotherStudy(
            f"{redact(url)} holds another study called {name!r}; restore what has changed, {elsewhere}, or begin anew "
            "with --new, which keeps the old one aside",
            known.get("harness.config"),
        )
    check_own(known, kept, name, url)
    return storage


def _never_asked(storage: RDBStorage, name: str, config_hash: str) -> bool:
    """Whether a study is another one of this harness, which came to no trial: its teacher failed, say."""
    disk = optuna.load_study(study_name=name, storage=storage)
    return disk.user_attrs.get("harness.config", config_hash) != config_hash and not disk.get_trials(deepcopy=False)


def set_aside(url: str, name: str) -> str | None:
    """Rename a study of a storage, with all its trials, so that its name is free; gives the new name, None where there
    was no such study. Raises `ValueError` in one line where the storage cannot be opened."""
    with _opening(url, shared=True):
        return _rename(_made(url), name)


def _rename(storage: RDBStorage, name: str) -> str | None:
    """Give a study another name, which is told; None where there is no such study. Optuna has no call for it, and its
    own copy of a study takes as long as it has trials, stands half made after a kill, and needs each to be readable."""
    kept = f"{name}{ASIDE}{time.time_ns()}"
    with storage.engine.begin() as connection:
        renamed = connection.execute(update(_STUDIES).where(_STUDIES.c.study_name == name).values(study_name=kept))
    return kept if renamed.rowcount else None


def _names(storage: RDBStorage) -> list[str]:
    """The names of a storage's studies, also of those that Optuna cannot read."""
    with storage.engine.connect() as connection:
        return [str(name) for name in connection.scalars(select(_STUDIES.c.study_name))]


def _made(url: str) -> RDBStorage:
    """The storage, with its tables."""
    with making_tables(url):
        storage = RDBStorage(url, engine_kwargs=engine_options(url))
    if (file := sqlite_file(url)) is not None:
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    return storage


@contextmanager
def _opening(url: str, *, shared: bool) -> Iterator[None]:
    """Whatever a storage may raise as it is opened becomes `ValueError`, with one line of it and what may be done."""
    try:
        yield
    except (
        StorageInternalError,
        SQLAlchemyError,
        ImportError,
        OSError,
        RuntimeError,
        LookupError,
        JSONDecodeError,
        sqlite3.Error,
    ) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        reason = " ".join(str(getattr(cause, "orig", None) or cause).split())
        by_hand = isinstance(error, LookupError | JSONDecodeError)  # in a study, which can be kept aside
        todo = f"; {ANEW}" if by_hand else way_out(reason, ELSEWHERE if shared else ANEW, (*DAMAGED, *CHANGED))
        raise ValueError(f"cannot open the storage {redact(url)}: {redact(reason)}{todo}") from None


def set_state(
    disk: RDBStorage, study_id: int, asked: Asked, state: TrialState, values: list[float] | None, again: bool = False
) -> None:
    """Tell a trial on disk, unless a try before this one (`again`) did and its answer was lost. Raises `ValueError`
    where it is over already."""
    number = asked.number
    disk_id = disk.get_trial_id_from_study_id_trial_number(study_id, number)
    try:
        if asked.pruned_at:
            disk.set_trial_user_attr(disk_id, "pruned_at", asked.pruned_at)
        disk.set_trial_state_values(disk_id, state, values)
    except UpdateFinishedTrialError:
        there = disk.get_trial(disk_id)
        if not again or (there.state, there.values) != (state, values):
            raise ValueError(f"trial {number} is over already: another sweep writes to this storage") from None


class Teller:
    """Tells trials that a sweep has asked for, and needs no study file for it. Use under the driver's lock only."""

    def __init__(self, url: str, name: str) -> None:
        """Open a storage that has the study."""
        self._disk = RDBStorage(url, engine_kwargs=engine_options(url), skip_table_creation=True)
        self._disk_id = self._disk.get_study_id_from_name(name)

    def tell(self, asked: Asked, values: Sequence[float]) -> None:
        """As `Sampler.tell`."""
        set_state(self._disk, self._disk_id, asked, TrialState.COMPLETE, list(values))

    def prune(self, asked: Asked) -> None:
        """As `Sampler.prune`."""
        set_state(self._disk, self._disk_id, asked, TrialState.PRUNED, None)

    def fail(self, asked: Asked) -> None:
        """As `Sampler.fail`."""
        set_state(self._disk, self._disk_id, asked, TrialState.FAIL, None)
