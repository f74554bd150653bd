"""What a worker does with a cohort's trial directories, whatever trains the students.

A trial is published as soon as all its students are trained. Until then its directory keeps those that are done, and of
the others where they were (`student-<place>.json`, `student-<place>.safetensors`): a kill costs what was trained since.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from filelock import FileLock

from harness import ledger, tries
from harness.analysis.answers import has_answers
from harness.ledger import TrialSpec
from harness.records import Record
from harness.spec import StudentSpec

log = logging.getLogger(__name__)
State = TypeVar("State")
Trial = tuple[Path, TrialSpec]
Keep = Callable[[Sequence[StudentSpec], Sequence[State]], None]


@dataclass(frozen=True)
class Training(Generic[State]):
    """How students are trained, and how what they go on from is kept: `harness.cohort`'s way, or a test's.

    `train(specs, until, states, keep)` trains students, some of them on from their `states`, up to the end of epoch
    `until` or their own. It gives the records of some after the others, with the states that they go on from, none
    where they are done, but in the confirm stage, where what is kept of them is for good; and meanwhile it may `keep`
    states. `save(path, key, states)` writes states to a file, `load(path, key)` reads them, or gives None where there
    are none.
    """

    train: Callable[
        [Sequence[StudentSpec], int | None, Mapping[StudentSpec, State], Keep[State]],
        Iterable[tuple[Sequence[Record], Sequence[State]]],
    ]
    save: Callable[[Path, str, Sequence[State]], None]
    load: Callable[[Path, str], Sequence[State] | None]


def run_cohort(folders: Sequence[Path], until: int | None, training: Training[State], stage: str = "search") -> None:
    """Train the trials up to the end of epoch `until`, each from where it was, and publish what they reached.

    For a rung that is the checkpoint first and then `rung-<until>.json`, for None `result.json`. Trials that have
    published it are left as they are. Every trial's lock is held throughout, taken in order of number; a trial that
    another worker still holds (one that outlived its driver) is waited for. Raises `ValueError` for a directory without
    a readable `spec.json` and for a trial of another `stage`, and whatever `train` raises.
    """
    with held(folders) as trials:
        for folder, trial in trials:
            if trial.stage != stage:
                raise ValueError(f"{folder} is of the stage {trial.stage}, not {stage}")
        waiting = [(folder, trial) for folder, trial in trials if not _is_published(folder, trial, until)]
        owners: dict[StudentSpec, list[tuple[Path, TrialSpec, int]]] = {}
        for folder, trial in waiting:
            for place, spec in enumerate(trial.specs):
                owners.setdefault(spec, []).append((folder, trial, place))

        def keep(specs: Sequence[StudentSpec], states: Sequence[State]) -> None:
            for spec, state in zip(specs, states, strict=True):
                for folder, trial, place in owners[spec]:
                    with _unless_full("how far a student is"):
                        training.save(ledger.student_checkpoint(folder, place), trial.hash, [state])
                        tries.got_somewhere(folder)

        reached = _trained_before(waiting) if until is None else {}
        states = {spec: state for trial in waiting for spec, state in _latest(*trial, until, training).items()}
        specs = [spec for spec in owners if spec not in reached]
        left: dict[StudentSpec, State] = {}
        started, clock = time.time(), time.monotonic()

        def publish(waiting: Sequence[Trial]) -> list[Trial]:
            times = {
                "started": started,
                "finished": started + time.monotonic() - clock,
            }  # the clock may be set meanwhile
            return _publish(waiting, until, reached, left, times, training)

        waiting = publish(waiting)
        for folder, _ in waiting:
            with _unless_full("that a training begins"):
                tries.begin(folder)
        for records, after in training.train(specs, until, states, keep) if waiting else ():
            reached |= {record.spec: record for record in records}
            left |= {record.spec: state for record, state in zip(records, after, strict=False)}
            waiting = publish(waiting)
            if until is None and not after:
                _keep_trained(waiting, records)


@contextmanager
def held(folders: Sequence[Path]) -> Iterator[list[Trial]]:
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


def _is_published(folder: Path, trial: TrialSpec, until: int | None) -> bool:
    if until is None:
        records = ledger.read_result(folder, trial)
        return records is not None and has_answers(folder, trial, records)
    return ledger.read_rung(folder, trial, until) is not None


def _trained_before(trials: Sequence[Trial]) -> dict[StudentSpec, Record]:
    """The students that an attempt before has trained to their end."""
    found = {}
    for folder, trial in trials:
        for place, spec in enumerate(trial.specs):
            record = ledger.read_student(folder, trial, place)
            if record is not None:
                found[spec] = record
    return found


def _latest(folder: Path, trial: TrialSpec, until: int | None, training: Training[State]) -> dict[StudentSpec, State]:
    """Where the trial's students go on from: what was kept of each since the latest rung, or that rung's checkpoint."""
    found: dict[StudentSpec, State] = {}
    for epoch, path in ledger.checkpoints(folder).items():
        if until is None or epoch < until:
            states = training.load(path, trial.hash)
            if states is not None and len(states) == len(trial.specs):
                found = dict(zip(trial.specs, states, strict=True))
                break
    for place, spec in enumerate(trial.specs):
        kept = training.load(ledger.student_checkpoint(folder, place), trial.hash)
        if kept:
            found[spec] = kept[0]  # it is deleted when a rung is published, so it is later
    return found


def _publish(
    waiting: Sequence[Trial],
    until: int | None,
    reached: Mapping[StudentSpec, Record],
    left: Mapping[StudentSpec, State],
    times: Mapping[str, float],
    training: Training[State],
) -> list[Trial]:
    """Publish the trials whose students have all been trained; gives the others."""
    others = []
    for folder, trial in waiting:
        if not all(spec in reached for spec in trial.specs):
            others.append((folder, trial))
            continue
        records = [reached[spec] for spec in trial.specs]
        if until is None:
            if trial.stage != "search":
                training.save(ledger.confirmed_file(folder), trial.hash, [left[spec] for spec in trial.specs])
            ledger.publish(folder, trial, records, **times)
        else:
            training.save(ledger.checkpoint(folder, until), trial.hash, [left[spec] for spec in trial.specs])
            ledger.publish_rung(folder, trial, until, records)
            ledger.drop_checkpoints(folder, before=until)
        ledger.drop_students(folder)
        tries.got_somewhere(folder)
    return others


def _keep_trained(waiting: Sequence[Trial], records: Sequence[Record]) -> None:
    """Keep students that are done while others of their trials are not."""
    done = {record.spec: record for record in records}
    for folder, trial in waiting:
        for place, spec in enumerate(trial.specs):
            if spec in done:
                with _unless_full("a student that is done"):
                    ledger.publish_student(folder, trial, place, done[spec])


@contextmanager
def _unless_full(what: str) -> Iterator[None]:
    """Training goes on where what only a kill would need cannot be written."""
    try:
        yield
    except OSError as error:
        log.warning("%s cannot be kept (%s); training goes on", what, error)
