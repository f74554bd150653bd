"""What a worker does with a cohort's trial directories, whatever trains the students."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock

from harness import ledger
from harness.ledger import TrialSpec
from harness.spec import Record, StudentSpec

Train = Callable[[Sequence[StudentSpec]], list[Record]]


def run_cohort(folders: Sequence[Path], train: Train) -> None:
    """Train the trials that have no result yet, all students in one call, and publish a result for each.

    Every trial's lock is held throughout, taken in order of number. A trial that another worker still holds (one that
    outlived its driver) is waited for, and its result taken as it is. Raises `ValueError` for a directory without a
    readable `spec.json`, and whatever `train` raises.
    """
    with held(folders) as trials:
        waiting = [(folder, trial) for folder, trial in trials if ledger.read_result(folder, trial) is None]
        started = time.time()
        records = iter(train([spec for _, trial in waiting for spec in trial.specs]) if waiting else [])
        for folder, trial in waiting:
            own = [next(records) for _ in trial.specs]
            ledger.publish(folder, trial, own, started=started, finished=time.time())


@contextmanager
def held(folders: Sequence[Path]) -> Iterator[list[tuple[Path, TrialSpec]]]:
    """The trials of these directories, their locks held. Raises `ValueError` where there is no readable `spec.json`."""
    with ExitStack() as stack:
        for folder in sorted(folders, key=lambda folder: int(folder.name)):
            stack.enter_context(FileLock(folder / "lock"))
        trials = []
        for folder in folders:
            trial = ledger.read_spec(folder)
            if trial is None:
                raise ValueError(f"{folder} has no spec.json")
            trials.append((folder, trial))
        yield trials
