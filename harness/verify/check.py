"""Everything that is wrong with a study, trial by trial.

A sweep writes a trial's result, its run, and Optuna last. So Optuna is read first: what it had been told by then is in
the other two by the time they are read, and a study can be checked while its sweep runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import files, ledger
from harness.kept import Kept, KeptStudy, read_study
from harness.tracking import Head
from harness.verify.compare import Run, run_faults
from harness.verify.fault import Fault
from harness.verify.runs import Runs, reading
from harness.verify.trials import WORDS, Entry, leftovers, look, open_faults, told_faults

Watch = Callable[[int, int], None]
"""Hears how many trials of how many were looked at."""
COPY = "put an earlier copy of the storage back, or begin anew with --new"
NUMBER = re.compile(r"0|[1-9][0-9]{0,14}")
"""A trial's number, as it is written everywhere."""
AT_ONCE = 50
"""How many trials' runs are read by one query."""


@dataclass(frozen=True)
class Place:
    """Where a study is: its folder, its two stores, and the command that sweeps it."""

    study_dir: Path
    storage: str
    tracking: str
    command: str

    @property
    def name(self) -> str:
        return self.study_dir.name

    @property
    def lock(self) -> Path:
        """The lock that its driver holds."""
        return self.study_dir / "driver.lock"

    @property
    def manifest(self) -> Mapping[str, Any]:
        """What `study.json` says."""
        return files.read_sealed(self.study_dir / "study.json") or {}


@dataclass
class Findings:
    """What a check found and what it counted. `leftovers` are files that may be deleted, `strangers` folders of trials
    that their storage did not know when a sweep began."""

    study: KeptStudy
    is_running: bool
    faults: list[Fault] = field(default_factory=list)
    leftovers: list[Path] = field(default_factory=list)
    strangers: list[Path] = field(default_factory=list)
    num_runs: int = 0
    num_students: int = 0


def check(place: Place, watch: Watch, *, alone: bool = False) -> Findings:
    """Hold a study's stores against each other, and write nothing; `alone`, the caller holds the driver's lock.

    Raises `ValueError` in one line for a store that cannot be read.
    """
    if alone:
        return _Check(place, False, watch).findings()
    while True:
        running = files.is_locked(place.lock)
        found = _Check(place, running, watch).findings()
        if files.is_locked(place.lock) == running:
            return found  # else a sweep began or ended meanwhile, and half was read before


class _Check:
    """One reading of everything."""

    def __init__(self, place: Place, running: bool, watch: Watch) -> None:
        self._place, self._running, self._watch = place, running, watch
        self._study = read_study(place.storage, place.name)
        self._found = Findings(self._study, running)

    def findings(self) -> Findings:
        """Go through the trials in order of number, so many at once."""
        found, place = self._found, self._place
        if (known := place.manifest.get("config_hash")) != self._study.config_hash:
            what = f"study.json has the hash {known}, Optuna {self._study.config_hash}"
            if known is not None and known == self._first_hash():
                what = f"{what}: the storage has another study {place.name!r}"
                todo = "its own may be there under another name, and nothing more was compared"
                found.faults.append(Fault(None, what, todo))
                return found
            found.faults.append(Fault(None, what))
        kept = {trial.asked.number: trial for trial in self._study.trials}
        with reading(place.tracking, place.name, self._study.study_id) as runs:
            heads = self._by_number(runs.heads())
            found.faults += self._study_faults(heads.pop(None, []), runs)
            folders = ledger.numbers(place.study_dir)
            every = sorted({*range(len(kept)), *kept, *folders, *(n for n in heads if n is not None)})
            for start in range(0, len(every), AT_ONCE):
                some = every[start : start + AT_ONCE]
                bodies = runs.bodies([head.id for number in some for head in heads.get(number, [])])
                for number in some:
                    own = [Run(head, bodies[head.id]) for head in heads.get(number, [])]
                    found.faults += self._trial_faults(number, kept.get(number), own)
                self._watch(start + len(some), len(every))
        found.strangers += sorted(place.study_dir.glob("trials.aside-*"))
        found.leftovers += sorted({*place.study_dir.glob("*.aside-*")} - {*found.strangers})
        found.leftovers += sorted(place.study_dir.glob("trials/*.aside-*"))
        return found

    def _first_hash(self) -> str | None:
        """The hash of its study that the first trial's directory has; None where there is none."""
        for number in ledger.numbers(self._place.study_dir):
            with suppress(ValueError):
                trial = ledger.read_spec(ledger.trial_dir(self._place.study_dir, number))
                return trial.config_hash if trial is not None else None
        return None

    def _by_number(self, heads: Sequence[Head]) -> dict[int | None, list[Head]]:
        """The runs of each trial, in a fixed order; those of the sweep itself under None."""
        found: dict[int | None, list[Head]] = {}
        for head in sorted(heads, key=lambda head: head.id):
            self._found.num_runs += not head.deleted
            study, _, name = head.key.rpartition("/")
            if study == self._place.name and (name == "sweep" or NUMBER.fullmatch(name)):
                found.setdefault(None if name == "sweep" else int(name), []).append(head)
            elif not head.deleted:
                what = f"MLflow has the run {head.id} of {head.key!r}, which is no trial of this study"
                self._found.faults.append(Fault(None, what, "it can be deleted in the UI"))
        return found

    def _study_faults(self, parents: Sequence[Head], runs: Runs) -> Iterator[Fault]:
        """What is wrong with the numbers of the study's trials and with the sweep's own run."""
        numbers = [trial.asked.number for trial in self._study.trials]
        for number in sorted({number for number in numbers if numbers.count(number) > 1}):
            yield Fault(None, f"Optuna has trial {number} more than once", COPY)
        active = [head for head in parents if not head.deleted]
        if self._running:
            return  # which makes it, if it is not there yet
        if not active and parents:
            yield Fault(None, "the sweep's own run was deleted in MLflow", mend="restore", runs=(parents[-1].id,))
        elif not active:
            yield Fault(None, "the sweep's own run is not in MLflow", mend="parent")
        elif len(active) > 1:
            bodies = runs.bodies([head.id for head in active])
            kept = max(active, key=lambda head: len(bodies[head.id].params))  # one that a sweep began, if any
            others = tuple(head.id for head in active if head is not kept)
            yield Fault(None, f"{len(active)} runs of the sweep itself in MLflow", mend="delete", runs=others)
        if any(head.status == "RUNNING" for head in active):
            yield Fault(None, "the sweep's own run is RUNNING in MLflow, and no sweep is", mend="stop")

    def _trial_faults(self, number: int, kept: Kept | None, runs: Sequence[Run]) -> Iterator[Fault]:
        folder = ledger.trial_dir(self._place.study_dir, number)
        if kept is None:
            yield from self._unknown_faults(number, folder, runs)
            return
        if not kept.asked.arm:
            todo = "sweeps stop at it until it is removed"
            yield Fault(number, f"{WORDS[kept.state]} in Optuna, and not asked for by this harness", todo)
            return
        if kept.state == "waiting":
            yield Fault(number, "WAITING in Optuna, which no trial of a sweep ever is", COPY)
            return
        if number >= len(self._study.trials) and not folder.exists():
            yield Fault(number, f"Optuna has {len(self._study.trials)} trials, and none has such a number", COPY)
            return
        told = kept.state != "running"
        self._found.leftovers += leftovers(folder, told=told)
        if not told and self._running:
            return
        entry = look(folder, self._place.name, self._study.config_hash, kept)
        if not told:
            yield from open_faults(kept.asked, entry, self._place.command)
            return
        yield from self._told_faults(kept, entry, runs)

    def _told_faults(self, kept: Kept, entry: Entry, runs: Sequence[Run]) -> Iterator[Fault]:
        yield from entry.faults
        yield from told_faults(kept, self._study, entry)
        if entry.trial is not None:
            failed = kept.state == "failed"
            fits = isinstance(entry.result, str) == failed
            yield from run_faults(entry.trial, entry.result if fits else None, runs)
        if entry.result is not None and not isinstance(entry.result, str):
            self._found.num_students += len(entry.result)

    def _unknown_faults(self, number: int, folder: Path, runs: Sequence[Run]) -> Iterator[Fault]:
        """A number that Optuna does not have."""
        later = number >= len(self._study.trials)
        if later and self._running:
            return  # asked for since Optuna was read
        active = [run.head.id for run in runs if not run.head.deleted]
        has = [f"the run {', '.join(active)}"] if active else []
        has += [f"the directory {folder}"] if folder.exists() else []
        if has or not later:
            what = "Optuna has no such trial" + (f", but there is {' and '.join(has)}" if has else "")
            yield Fault(number, what, "was the storage put back to an earlier state?")
