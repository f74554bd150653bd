"""Finishing what takes no training: the driver's own commits and the tracker's own logging, from the ledger."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from harness import ledger
from harness.commits import Stores, commit
from harness.kept import Kept, KeptStudy
from harness.ledger import TrialSpec
from harness.records import Record
from harness.runs import in_common
from harness.storage import Teller
from harness.tracking import Tracker
from harness.verify.check import Findings, Place, Watch, check
from harness.verify.fault import Fault
from harness.verify.trials import look


def repair(place: Place, tracker: Tracker, say: Callable[[Fault], None], watch: Watch) -> tuple[Findings, int]:
    """Mend what can be mended, saying so, until a check finds no more of it; gives the last check's findings and how
    much was mended. To be called as the study's only driver."""
    done: set[Fault] = set()
    while True:
        found = check(place, watch, alone=True)
        todo = [fault for fault in found.faults if fault.mend and fault not in done]
        if not todo:
            return found, len(done)
        mending = _Mending(place, tracker, found.study)
        for fault in todo:
            mending.mend(fault)
            say(fault)
            done.add(fault)


class _Mending:
    """The stores, open for writing."""

    def __init__(self, place: Place, tracker: Tracker, study: KeptStudy) -> None:
        self._place, self._tracker, self._study = place, tracker, study
        self._sweep = in_common(place.manifest, study.study_id)
        self._kept = {kept.asked.number: kept for kept in study.trials}
        self._stores = Stores(tracker, Teller(place.storage, place.name))
        tracker.attach(self._sweep)

    def mend(self, fault: Fault) -> None:
        """Do what a fault asks for. A kill anywhere leaves another fault, which the next repair finds."""
        if fault.mend == "stop":
            self._tracker.leave()
        elif fault.mend == "parent":
            self._tracker.make_parent()
        elif fault.mend == "restore":
            for run in fault.runs:
                self._tracker.restore(run)
        elif fault.mend in ("delete", "replace"):
            for run in fault.runs:
                self._tracker.delete(run)
        if fault.number is None:
            self._tracker.attach(self._sweep)  # to the parent run that is there now
        elif fault.mend in ("log", "replace"):
            self._log(self._kept[fault.number])
        elif fault.mend == "finish":
            self._finish(self._kept[fault.number])
        elif fault.mend == "aside":
            trial = self._spec(fault.number)
            ledger.read_result(self._folder(fault.number), trial)  # by which what cannot be read is put aside

    def _folder(self, number: int) -> Path:
        return ledger.trial_dir(self._place.study_dir, number)

    def _spec(self, number: int) -> TrialSpec:
        trial = ledger.read_spec(self._folder(number))
        assert trial is not None  # the check has read it
        return trial

    def _read(self, kept: Kept) -> tuple[TrialSpec, Sequence[Record] | str]:
        entry = look(self._folder(kept.asked.number), self._place.name, self._study.config_hash, kept)
        assert entry.trial is not None and entry.result is not None  # as the check has found
        return entry.trial, entry.result

    def _log(self, kept: Kept) -> None:
        trial, result = self._read(kept)
        if isinstance(result, str):
            self._tracker.log_failure(trial, result, maybe_there=True)
        else:
            self._tracker.log(trial, result, maybe_there=True)

    def _finish(self, kept: Kept) -> None:
        trial, result = self._read(kept)
        folder = self._folder(kept.asked.number)
        asked = replace(kept.asked, pruned_at=ledger.pruned_at(folder, trial))
        commit(self._stores, asked, trial, result, self._study.objectives, maybe_there=True)
        ledger.drop_checkpoints(folder)
