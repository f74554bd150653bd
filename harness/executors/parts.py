"""What a worker does with trials that are trained in parts, from rung to rung, whatever trains the students."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from harness import ledger
from harness.executors.trials import held
from harness.ledger import TrialSpec
from harness.spec import Record, StudentSpec

State = TypeVar("State")


@dataclass(frozen=True)
class Parts(Generic[State]):
    """How students are trained in parts, and how what they go on from is kept: `harness.cohort`'s way, or a test's.

    `train(specs, until, states)` gives the students' records and states after epoch `until`, or records alone at their
    end where that is None. `save(path, key, states)` keeps a trial's, `load(path, key)` gives them, or None where there
    are none.
    """

    train: Callable[
        [Sequence[StudentSpec], int | None, Mapping[StudentSpec, State]], tuple[list[Record], Sequence[State]]
    ]
    save: Callable[[Path, str, Sequence[State]], None]
    load: Callable[[Path, str], Sequence[State] | None]


def run_part(folders: Sequence[Path], until: int | None, parts: Parts[State]) -> None:
    """Train the trials up to the end of epoch `until`, each from its latest checkpoint, and publish what they reached.

    For a rung that is the checkpoint first and then `rung-<until>.json`, for None `result.json`. Trials that have
    published it are left as they are; locks and errors are as in `run_cohort`.
    """
    with held(folders) as trials:
        waiting = [(folder, trial) for folder, trial in trials if not _done(folder, trial, until)]
        states: dict[StudentSpec, State] = {}
        for folder, trial in waiting:
            states |= zip(trial.specs, _latest(folder, trial, until, parts), strict=False)
        if not waiting:
            return
        started = time.time()
        found, left = parts.train([spec for _, trial in waiting for spec in trial.specs], until, states)
        records, after = iter(found), iter(left)
        for folder, trial in waiting:
            own = [next(records) for _ in trial.specs]
            if until is None:
                ledger.publish(folder, trial, own, started=started, finished=time.time())
            else:
                parts.save(ledger.checkpoint(folder, until), trial.hash, [next(after) for _ in trial.specs])
                ledger.publish_rung(folder, trial, until, own)
                ledger.drop_checkpoints(folder, before=until)


def _done(folder: Path, trial: TrialSpec, until: int | None) -> bool:
    if until is None:
        return ledger.read_result(folder, trial) is not None
    return ledger.read_rung(folder, trial, until) is not None


def _latest(folder: Path, trial: TrialSpec, until: int | None, parts: Parts[State]) -> Sequence[State]:
    """The states of the trial's latest checkpoint that can be read; none where it starts anew."""
    for epoch, path in ledger.checkpoints(folder).items():
        if until is None or epoch < until:
            states = parts.load(path, trial.hash)
            if states is not None and len(states) == len(trial.specs):
                return states
    return ()
