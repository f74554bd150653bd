"""The brackets of a sweep that prunes: which of its trials wait at a rung, go on, or are pruned, from what is on disk.

A trial's bracket is its round of asking, its arm and its width, all of which are kept with it, and its scores are those
of its `rung-<epoch>.json`; so a restart comes to the verdicts that were come to before. They are `harness.rungs`' own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

from harness import ledger
from harness.kept import Asked
from harness.ledger import TrialSpec
from harness.records import Record
from harness.rungs import Halving, Member, Prune, Train, Wait, verdicts
from harness.space import Study, direction

Key = tuple[int, str, int]
"""Round, arm and width."""


class Brackets:
    """Every bracket with an open trial: one that was asked for and not yet told.

    What is due of a trial is said once, until it has arrived at the rung it was trained up to.
    """

    def __init__(self, study: Study, halving: Halving, study_dir: Path) -> None:
        self._metric, self._halving, self._study_dir = study.pruned_by, halving, study_dir
        self._members: dict[Key, dict[int, Member]] = {}
        self._open: dict[int, tuple[Key, TrialSpec]] = {}
        self._busy: set[int] = set()  # being trained, or to be told

    def enter(self, asked: Asked, trial: TrialSpec) -> None:
        """Take in an open trial."""
        key = (asked.round, asked.arm, trial.specs[0].width)
        self._open[asked.number] = key, trial
        self._members.setdefault(key, {})[asked.number] = self._read(trial)

    def __contains__(self, number: int) -> bool:
        """Whether a trial is open here."""
        return number in self._open

    def restore(self, told: Iterable[Asked], state: str) -> None:
        """Take in what open trials are compared with: those of their brackets that were told before a restart, as what
        `state` says."""
        rounds = {key[:2] for key in self._members}
        for asked in told:
            if (asked.round, asked.arm) not in rounds:
                continue
            trial = ledger.find_spec(ledger.trial_dir(self._study_dir, asked.number))
            if trial is not None and (key := (asked.round, asked.arm, trial.specs[0].width)) in self._members:
                self._members[key][asked.number] = Member(self._scores_of_told(asked, trial, state), over=True)

    def _scores_of_told(self, asked: Asked, trial: TrialSpec, state: str) -> tuple[float, ...]:
        """As `_read`. Where a rung's file was lost since, its verdict is known: the trial went on there, or it did not.
        That ranks all others as its score did."""
        folder, rungs = ledger.trial_dir(self._study_dir, trial.number), self._halving.rungs
        found = {epoch: ledger.read_rung(folder, trial, epoch) for epoch in rungs}
        last = asked.pruned_at  # 0 in a study of before it was kept, or where it was not pruned
        if state == "pruned" and not last and ledger.read_result(folder, trial):
            last = ledger.pruned_at(folder, trial)
        if state == "complete":
            reached = len(rungs)
        elif state == "pruned" and last in rungs:
            reached = 1 + rungs.index(last)
        else:  # given up somewhere
            reached = max((place + 1 for place, epoch in enumerate(rungs) if found[epoch]), default=0)
        lost = {epoch: -math.inf if epoch == last else math.inf for epoch in rungs}
        return tuple(score(its, self._metric) if (its := found[at]) else lost[at] for at in rungs[:reached])

    def publish(self, trial: TrialSpec, epoch: int) -> bool:
        """Publish what a trial was at a rung as its result: it is pruned there. False where that is not on disk."""
        folder = ledger.trial_dir(self._study_dir, trial.number)
        records = ledger.read_rung(folder, trial, epoch)
        if records is None:
            return False
        pruned = [replace(record, status="pruned") for record in records]
        diverged = any(record.status == "diverged" for record in records)
        ledger.publish(folder, trial, pruned, pruned_at=epoch, diverged=diverged)
        return True

    def arrive(self, number: int, epoch: int) -> bool:
        """Note that a trial was trained up to a rung; whether it truly has published it."""
        key, trial = self._open[number]
        self._members[key][number] = member = self._read(trial)
        if len(member.scores) <= self._halving.rungs.index(epoch):
            return False
        self._busy.discard(number)
        return True

    def has_begun(self, number: int) -> bool:
        """Whether an open trial has reached a rung."""
        key, _ = self._open[number]
        return bool(self._members[key][number].scores)

    def fail(self, number: int) -> None:
        """Note that a trial was given up: nobody waits for it any more."""
        key, _ = self._open[number]
        self._members[key][number] = replace(self._members[key][number], over=True)

    def leave(self, number: int) -> None:
        """Note that a trial was told. Its bracket is kept while others of it are open."""
        self._busy.discard(number)
        key, _ = self._open.pop(number)
        if all(key != other for other, _ in self._open.values()):
            del self._members[key]

    def due(self) -> dict[Train | Prune, list[TrialSpec]]:
        """What is to be done now with open trials that were not given up, in order of number: to prune first, then to
        train, the longest first."""
        found = {n: v for members in self._members.values() for n, v in verdicts(members, self._halving).items()}
        due: dict[Train | Prune, list[TrialSpec]] = {}
        for number in sorted(self._open.keys() & found.keys() - self._busy):
            if not isinstance(verdict := found[number], Wait):
                due.setdefault(verdict, []).append(self._open[number][1])
                self._busy.add(number)
        return dict(sorted(due.items(), key=lambda item: _turn(item[0])))

    def _read(self, trial: TrialSpec) -> Member:
        folder = ledger.trial_dir(self._study_dir, trial.number)
        scores: list[float] = []
        for epoch in self._halving.rungs:
            if (records := ledger.read_rung(folder, trial, epoch)) is None:
                break
            scores.append(score(records, self._metric))
        return Member(tuple(scores))


def _turn(verdict: Train | Prune) -> tuple[bool, float]:
    return (False, verdict.epoch) if isinstance(verdict, Prune) else (True, -(verdict.until or math.inf))


def score(records: Sequence[Record], metric: str) -> float:
    """What a trial is ranked by: the metric's mean over its students, negated where less is better; -inf where one of
    them diverged."""
    if any(record.status == "diverged" for record in records):
        return -math.inf
    sign = 1 if direction(metric) == "maximize" else -1
    return sign * mean(record.value(metric) for record in records)
