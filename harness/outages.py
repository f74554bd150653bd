"""Stores that go away and come back: Optuna's is waited for, MLflow's is owed its runs.

Nothing can be asked or told without Optuna's storage, so the driver waits for it, while workers go on with what they
have. MLflow is where people look: a sweep goes on without it, and logs what it owes as soon as it answers again. What
it still owes when it ends, or when it is killed, the next sweep logs from the trial directories.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from harness.ledger import TrialSpec
from harness.records import Record
from harness.stopping import Halt

log = logging.getLogger(__name__)
PAUSES = (0.5, 10.0)
"""Seconds between two tries at a storage: at first, and at most."""
AGAIN_AFTER = 10.0
"""Seconds between two tries at a tracking store that did not answer."""


DAMAGED = ("malformed", "not a database")
"""What SQLite says of a file that is no whole database."""
CHANGED = ("Could not decode", "constraint failed", "Record does not exist")
"""What is said of one in which somebody has changed something: of a study's storage, which has one driver."""


def way_out(reason: str, todo: str, signs: Sequence[str] = DAMAGED) -> str:
    """`; todo` where the reason is that a database is damaged, else nothing."""
    return f"; {todo}" if any(words in reason for words in signs) else ""


class StoreError(Exception):
    """A store did not do what it was asked to; one line says why."""


@dataclass
class Patience:
    """Waits for a storage that does not answer, until somebody asks to stop or the time is up.

    `hold` is called before anything is done with the storage: it makes sure that this is still the study's driver.
    """

    name: str
    hold: Callable[[], None] = lambda: None
    asked_to_stop: Callable[[], bool] = lambda: False
    deadline: float = math.inf
    _pause: float = 0.0

    def wait(self, reason: str) -> None:
        """Wait a moment. Raises `KeyboardInterrupt` when a stop was asked for, `Halt` when the time is up."""
        if not self._pause:
            log.warning("%s does not answer (%s); waiting for it, what is trained is kept on disk", self.name, reason)
        if self.asked_to_stop():
            raise KeyboardInterrupt
        if time.monotonic() > self.deadline:
            raise Halt(f"the time was up while {self.name} did not answer: {reason}")
        self._pause = min(max(PAUSES[0], 2 * self._pause), PAUSES[1])
        end = time.monotonic() + self._pause
        while time.monotonic() < end and not self.asked_to_stop():
            time.sleep(0.05)

    def over(self) -> None:
        """It has answered."""
        if self._pause:
            log.warning("%s answers again; the sweep goes on", self.name)
            self._pause = 0.0


class Store(Protocol):
    """What is needed of tracking: `harness.tracking.Tracker` has it. Each raises `StoreError` where it cannot."""

    def log(self, trial: TrialSpec, records: Sequence[Record], *, maybe_there: bool) -> None:
        """Keep a trained trial."""

    def log_failure(self, trial: TrialSpec, reason: str, *, maybe_there: bool) -> None:
        """Keep a trial that was given up."""

    def reopen(self) -> None:
        """Find out whether the store answers, quickly, and bring back what it has lost of the sweep itself."""


S = TypeVar("S", bound=Store)


@dataclass
class Owed(Generic[S]):
    """Runs for a store that may be away: a trial is logged at once, or when the store answers again."""

    store: S
    why: str = field(init=False, default="")
    """Why it was still owed something when that was last tried."""
    _debts: dict[int, Callable[[], None]] = field(default_factory=dict)
    _tried: float = -math.inf

    def __len__(self) -> int:
        """How many trials the store is owed."""
        return len(self._debts)

    def log(self, trial: TrialSpec, records: Sequence[Record], *, maybe_there: bool) -> None:
        """Keep a trained trial; `maybe_there` says that an earlier attempt may have begun to."""
        self._owe(
            trial,
            lambda: self.store.log(trial, records, maybe_there=maybe_there),
            lambda: self.store.log(trial, records, maybe_there=True),
        )

    def log_failure(self, trial: TrialSpec, reason: str, *, maybe_there: bool) -> None:
        """Keep a trial that was given up."""
        self._owe(
            trial,
            lambda: self.store.log_failure(trial, reason, maybe_there=maybe_there),
            lambda: self.store.log_failure(trial, reason, maybe_there=True),
        )

    def settle(self) -> bool:
        """Log what is owed, now; whether nothing is owed any more."""
        self._tried, self.why = time.monotonic(), ""
        owed = len(self._debts)
        try:
            for number in sorted(self._debts):
                self.store.reopen()  # quick, and tells a store that is away from one that refuses a single trial
                try:
                    self._debts[number]()
                    del self._debts[number]
                except StoreError as error:
                    self.why = self.why or f"trial {number} is not taken ({error})"
        except StoreError as error:
            self.why = f"it does not answer ({error})"
        if owed > len(self._debts):
            log.warning("tracking answers again; of %d trials it was owed it is owed %d", owed, len(self._debts))
        return not self._debts

    def _owe(self, trial: TrialSpec, first: Callable[[], None], again: Callable[[], None]) -> None:
        """Log a trial by `first`, and when that fails by `again`."""
        if self._debts:
            self._debts[trial.number] = again
            if time.monotonic() - self._tried > AGAIN_AFTER:
                self.settle()
            return
        try:
            first()
            return
        except StoreError as error:
            reason = str(error)
        try:  # a run or an experiment may just have been deleted in the UI
            self.store.reopen()
            again()
        except StoreError:
            log.warning("tracking failed (%s); the sweep goes on, and what tracking is owed is logged later", reason)
            self._debts[trial.number], self._tried = again, time.monotonic()
