"""A study as its storage keeps it, read: trials as they were asked for, and what came of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import column, select, table
from sqlalchemy.exc import SQLAlchemyError

from harness.arms import CONTROL, Arm, read_arm
from harness.space import Value, direction
from harness.urls import read_only, redact

optuna.logging.set_verbosity(optuna.logging.ERROR)
UNREADABLE = (LookupError, ValueError, TypeError, AssertionError)
"""What Optuna raises where somebody has changed a trial by SQL: a state, a distribution or a value that cannot be."""
STATES = {
    "complete": TrialState.COMPLETE,
    "failed": TrialState.FAIL,
    "running": TrialState.RUNNING,
    "pruned": TrialState.PRUNED,
}


@dataclass(frozen=True)
class Asked:
    """A trial that was asked for: its number in the study on disk, its arm, its parameters, and in a study that prunes
    the round of asking, and at the end of which epoch it was pruned; else 0."""

    number: int
    arm: str
    params: Mapping[str, Value]
    round: int = 0
    pruned_at: int = 0

    @property
    def is_control(self) -> bool:
        return read_arm(self.arm) == Arm(CONTROL)


@dataclass(frozen=True)
class Kept:
    """A trial as it is on disk: `state` is one of `STATES`, or `"waiting"`; `values` are empty where it has none. Its
    arm is empty where it was not asked for by this harness."""

    asked: Asked
    state: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class KeptStudy:
    """A study as it is on disk, its trials in order of number."""

    study_id: str
    config_hash: str
    objectives: tuple[str, ...]
    trials: tuple[Kept, ...]


def read_study(url: str, name: str) -> KeptStudy:
    """The study as it is on disk, and nothing is written. Raises `ValueError` in one line where it cannot be read."""
    shown, what = redact(url), f"study {name!r}"
    try:
        disk = RDBStorage(read_only(url), engine_kwargs=engine_options(url), skip_table_creation=True)
        try:
            study_id = disk.get_study_id_from_name(name)
            attrs, directions = disk.get_study_user_attrs(study_id), disk.get_study_directions(study_id)
            what = "a trial"
            trials = trials_of(disk, study_id)
        finally:
            disk.remove_session()
            disk.engine.dispose()
    except KeyError:
        raise ValueError(f"the storage {shown} holds no study {name!r}") from None
    except UNREADABLE as error:
        reason = redact(str(error))
        raise ValueError(f"{what} in the storage {shown} cannot be read ({reason}); put an earlier copy back") from None
    except (SQLAlchemyError, StorageInternalError, ImportError, OSError, RuntimeError) as error:
        reason = str(error.__cause__ if isinstance(error, StorageInternalError) else error)
        raise ValueError(f"cannot read the storage {shown}: {redact(reason).splitlines()[0]}") from None
    if "harness.config" not in attrs:
        raise ValueError(f"study {name!r} in {shown} was not begun by this harness")
    check_own(attrs, directions, name, url)
    names = {state: word for word, state in STATES.items()}
    found = [
        Kept(asked_of(trial), names.get(trial.state, "waiting"), tuple(trial.values or ()))
        for trial in sorted(trials, key=lambda trial: trial.number)
    ]
    objectives = tuple(attrs["harness.objectives"])
    return KeptStudy(attrs["harness.id"], attrs["harness.config"], objectives, tuple(found))


def check_own(attrs: Mapping[str, Any], directions: Sequence[StudyDirection], name: str, url: str) -> None:
    """Raise `ValueError` in one line where what the harness keeps with a study was changed by hand."""
    found = attrs.get("harness.objectives")
    objectives = found if isinstance(found, list) else []
    whole = len(objectives) > 0 and all(isinstance(each, str) for each in objectives)
    wanted = [direction(each) for each in objectives] if whole else []
    for what, fits in (
        ("harness.id", isinstance(attrs.get("harness.id"), str)),
        ("harness.objectives", whole),
        ("the table of directions", [each.name.lower() for each in directions] == wanted),
    ):
        if not fits:
            raise ValueError(
                f"{what} of study {name!r} in {redact(url)} was deleted or changed; put an earlier copy back"
            )


def trials_of(disk: RDBStorage, study_id: int) -> list[FrozenTrial]:
    """A study's trials. Raises `KeyError` where there is no such study, and one of `UNREADABLE` where a trial cannot be
    read, or has a number or a value that is none, which SQLite keeps all the same."""
    try:
        trials = disk.get_all_trials(study_id, deepcopy=False)
    except UNREADABLE as error:
        disk.get_study_name_from_id(study_id)
        _say_which(disk, study_id)
        raise LookupError(f"{type(error).__name__} {error}") from None
    for trial in trials:
        if not isinstance(trial.number, int):
            raise ValueError(f"a trial has the number {trial.number!r}")
        for value in trial.values or ():
            if not isinstance(value, float):
                raise ValueError(f"trial {trial.number} has the value {value!r}")
    return trials


def _say_which(disk: RDBStorage, study_id: int) -> None:
    """Raise `LookupError` that names the first trial of a study which cannot be read, if it is one by itself."""
    rows = table("trials", *(column(name) for name in ("trial_id", "number", "study_id")))
    with disk.engine.connect() as connection:
        found = connection.execute(select(rows.c.number, rows.c.trial_id).where(rows.c.study_id == study_id)).all()
    for number, trial_id in found:
        try:
            disk.get_trial(trial_id)
        except UNREADABLE as error:
            raise LookupError(f"number {number}: {type(error).__name__} {error}".strip()) from None


def asked_of(trial: FrozenTrial) -> Asked:
    """A trial on disk as it was asked for."""
    kept = trial.user_attrs
    pruned_at = kept.get("pruned_at", 0) if trial.state == TrialState.PRUNED else 0  # it is written before the state
    return Asked(trial.number, arm_of(trial), dict(trial.params), kept.get("round", 0), pruned_at)


def arm_of(trial: FrozenTrial) -> str:
    """The arm that is kept with a trial; empty where none is, as of one that was not asked for by this harness."""
    arm = trial.user_attrs.get("arm", "")
    try:
        read_arm(arm)
    except (ValueError, AttributeError):
        return ""
    return str(arm)


def engine_options(url: str) -> dict[str, Any]:
    """How connections are made: SQLite's wait for another writer, a server's are tried before they are used."""
    return {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
