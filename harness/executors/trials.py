"""What a worker does with a cohort's trial directories, whatever trains the students."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from filelock import FileLock

from harness import ledger
from harness.spec import Record, StudentSpec

Train = Callable[[Sequence[StudentSpec]], list[Record]]


def run_cohort(folders: Sequence[Path], train: Train) -> None:
    """Train the trials that have no result yet, all students in one call, and publish a result for each.

    Every trial's lock is held throughout, taken in order of number. A trial that another worker still holds (one that
    outlived its driver) is waited for, and its result taken as it is. Raises `ValueError` for a directory without a
    readable `spec.json`, and whatever `train` raises.
    """
    with ExitStack() as stack:
        for folder in sorted(folders, key=lambda folder: int(folder.name)):
            stack.enter_context(FileLock(folder / "lock"))
        waiting = []
        for folder in folders:
            trial = ledger.read_spec(folder)
            if trial is None:
                raise ValueError(f"{folder} has no spec.json")
            if ledger.read_result(folder, trial) is None:
                waiting.append((folder, trial))
        started = time.time()
        records = iter(train([spec for _, trial in waiting for spec in trial.specs]) if waiting else [])
        for folder, trial in waiting:
            own = [next(records) for _ in trial.specs]
            ledger.publish(folder, trial, own, started=started, finished=time.time())
