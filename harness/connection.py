"""The driver's connection to its study's storage. A storage that does not answer is waited for; whatever is done anew
then looks first whether it was done."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from harness.kept import UNREADABLE, Asked, trials_of
from harness.outages import CHANGED, DAMAGED, Patience
from harness.space import Study
from harness.stopping import Halt
from harness.storage import ANEW, ELSEWHERE, open_study, set_state
from harness.urls import redact

T = TypeVar("T")
LASTING = ("disk is full", "readonly database", "disk I/O error", "No space left")
"""What a storage says when it is of no use to try again, beside what `outages` has of one that is damaged."""


class Connection:
    """One study on disk, read and written by one process. Whatever is asked of it raises `Halt` where waiting is of no
    use: its disk is full, or the study was deleted."""

    def __init__(
        self, url: str, name: str, study: Study, config_hash: str, *, shared: bool, patience: Patience
    ) -> None:
        """Open or create the study; as `harness.sampler.Sampler` says."""
        self._url, self._patience = url, patience
        self._mend = ELSEWHERE if shared else ANEW
        self._disk = open_study(url, name, study, config_hash, shared)
        self._id = self._patiently(lambda _: self._disk.get_study_id_from_name(name))
        attrs = self._patiently(lambda _: self._disk.get_study_user_attrs(self._id))
        self.study_id = str(attrs["harness.id"])

    def every_trial(self) -> list[FrozenTrial]:
        """All trials, as the study is opened. Raises `ValueError` in one line where one cannot be read, is gone or is
        there twice: Optuna numbers a new trial by how many there are."""
        try:
            trials = self._patiently(lambda _: trials_of(self._disk, self._id))
        except UNREADABLE as error:
            reason = redact(str(error))
            raise ValueError(f"a trial in the storage {redact(self._url)} cannot be read ({reason}); {ANEW}") from None
        for place, number in enumerate(sorted(trial.number for trial in trials)):
            if place != number:
                what = f"trial {place} is gone from" if number > place else f"trial {number} is twice in"
                raise ValueError(f"{what} the storage {redact(self._url)}; {ANEW}")
        return trials

    def trials(self, state: TrialState) -> list[FrozenTrial]:
        """The trials in a state, in order of number."""
        return self._patiently(lambda _: self._disk.get_all_trials(self._id, deepcopy=False, states=(state,)))

    def trial(self, number: int) -> FrozenTrial:
        """A trial as it is kept."""
        return self._patiently(lambda _: self._find(number))

    def put(self, number: int, template: FrozenTrial) -> list[FrozenTrial]:
        """Keep a new trial under this number. Gives what was kept a second time, under the next one: Optuna tries again
        by itself where the connection is lost. Raises `ValueError` where another sweep writes to the study."""
        if not self._patiently(lambda again: self._put(number, template, again)):
            return []
        return [self.trial(number + 1)]

    def end(self, asked: Asked, state: TrialState, values: list[float] | None) -> None:
        """Tell a trial: its commit point. Raises `ValueError` where it is over already."""
        self._patiently(lambda again: set_state(self._disk, self._id, asked, state, values, again))

    def _put(self, number: int, template: FrozenTrial, again: bool) -> bool:
        """Keep a trial, unless a try before this one (`again`) did and its answer was lost; whether it has a twin."""
        if not (again and self._has(number, template)):
            made = self._disk.create_new_trial(self._id, template)
            if self._disk.get_trial_id_from_study_id_trial_number(self._id, number) == made:
                return False
        if not self._has(number, template):
            raise ValueError("another sweep writes to this study's storage; stop one of the two")
        return self._has(number + 1, template)

    def _has(self, number: int, template: FrozenTrial) -> bool:
        try:
            there = self._find(number)
        except KeyError:
            return False
        return there.params == template.params and there.user_attrs == template.user_attrs

    def _find(self, number: int) -> FrozenTrial:
        return self._disk.get_trial(self._disk.get_trial_id_from_study_id_trial_number(self._id, number))

    def _patiently(self, act: Callable[[bool], T]) -> T:
        """Do something with the storage, until it answers; `act` is told whether it is tried again."""
        again = False
        while True:
            try:
                self._patience.hold()
                try:
                    done = act(again)
                except KeyError as error:
                    raise Halt(self._what_was_deleted(error)) from None
                self._patience.over()
                return done
            except (StorageInternalError, DBAPIError) as error:
                cause = error.__cause__ if isinstance(error, StorageInternalError) else error
                self._patience.wait(self._why_away(cause))
                again = True

    def _what_was_deleted(self, error: KeyError) -> str:
        """The study, or a row of it. Raises what the storage raises where it does not answer."""
        try:
            self._disk.get_study_name_from_id(self._id)
        except KeyError:
            return (
                f"the study is not in its storage any more ({redact(str(error))}): it was deleted meanwhile; its "
                "trials are kept on disk, and the same command begins anew"
            )
        return f"rows of the study were deleted in its storage meanwhile ({redact(str(error))}); {ANEW}"

    def _why_away(self, cause: BaseException | None) -> str:
        """Why the storage did not answer, in a line. Raises `Halt` where that does not pass by itself."""
        reason = " ".join(redact(str(getattr(cause, "orig", None) or cause)).split())
        if any(sign in reason for sign in (*DAMAGED, *CHANGED)):
            raise Halt(f"the storage is damaged: {reason}; {self._mend}")
        passing = isinstance(cause, OperationalError | InterfaceError) or getattr(
            cause, "connection_invalidated", False
        )
        if not passing or any(sign in reason for sign in LASTING):
            raise Halt(f"the storage cannot be written to: {reason}")
        return reason
