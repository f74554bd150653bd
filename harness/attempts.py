"""With whom a trial is trained, and how often: cohorts for the executor, and halves of those that failed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness import tries
from harness.arms import SEARCH
from harness.costs import TOGETHER
from harness.executors import Executor, Job
from harness.goals import Plan
from harness.ledger import TrialSpec
from harness.packing import pack, work_of
from harness.stopping import Halt

ATTEMPTS = 3
"""How often a trial may fail alone."""
SUSPECT, GUILTY = 5, 12
"""How often a trial's training may begin and get nowhere, each time ended by the death of its driver too, until it is
trained alone, and until it is given up."""
UNBEGUN = 5
"""How often a cohort's job may be lost before it was begun."""
log = logging.getLogger(__name__)


def numbers_of(job: Job) -> list[int]:
    """The trials of a cohort."""
    return [int(Path(folder).name) for folder in job.body["folders"]]


@dataclass
class Attempts:
    """The cohorts of one sweep."""

    plan: Plan
    executor: Executor
    _begun: dict[int, int] = field(default_factory=dict)  # how often a trial's training had begun before this session
    _unbegun: Counter[int] = field(default_factory=Counter)  # how often a cohort's job was lost so, by its first trial

    def begin(
        self, trials: Sequence[TrialSpec], seen_before: Collection[int], until: int | None
    ) -> list[tuple[TrialSpec, str]]:
        """Hand out trials as cohorts, those that take longest first, to be trained to the end of epoch `until`, or to
        their own. Gives those that are to be given up, each with its reason; of earlier sweeps are the numbers that
        were `seen_before`."""
        work, guilty = [], []
        for trial in trials:
            begun = tries.begun(self.plan.folder(trial.number)) if trial.number in seen_before else 0
            self._begun.setdefault(trial.number, begun)
            if begun >= GUILTY:
                guilty.append((trial, f"its training was begun {begun} times, and every time the sweep died with it"))
            elif begun >= SUSPECT:
                log.warning("trial %d was begun %d times and got nowhere; it is tried alone", trial.number, begun)
                self._submit([trial.number], trial.stage, asdict(TOGETHER), until)
            else:
                work.append(work_of(trial.number, trial.specs, trial.stage, until))
        stages = {trial.number: trial.stage for trial in trials}
        for job in pack(work, self.plan.costs, self.plan.workers):
            self._submit(job.numbers, stages[job.numbers[0]], asdict(job.how), until)
        return guilty

    def in_halves(self, job: Job, numbers: Sequence[int]) -> None:
        """Hand out what a failed cohort left, as two."""
        half = (len(numbers) + 1) // 2
        for part in (numbers[:half], numbers[half:]):
            if part:
                self.again(job, part)

    def again(self, job: Job, numbers: Sequence[int]) -> None:
        """Hand out what a job left, as it was."""
        self.executor.submit("cohort", {**job.body, "folders": self._folders(numbers)})

    def after_none(self, job: Job, reason: str) -> None:
        """Hand out a cohort again whose job was lost before it began, which is no attempt of any trial. Raises `Halt`
        where that is so again and again."""
        numbers = numbers_of(job)
        self._unbegun[numbers[0]] += 1
        if self._unbegun[numbers[0]] == UNBEGUN:
            raise Halt(f"a job was lost {UNBEGUN} times before it began, which is held against no trial: {reason}")
        log.warning("a job was lost before it began (%s); it is handed out again", reason)
        self.again(job, numbers)

    def forgive(self, numbers: Iterable[int]) -> None:
        """The sweep stops: that a training gets nowhere then is not to be held against its trial."""
        for number in self._begun.keys() & set(numbers):
            with suppress(OSError):  # a disk that is full is why it stops
                tries.not_begun(self.plan.folder(number), self._begun[number])

    def _submit(self, numbers: Sequence[int], stage: str, how: Mapping[str, Any], until: int | None) -> None:
        body: dict[str, Any] = {"folders": self._folders(numbers), "how": how, "limit": self.plan.limit}
        body |= {} if self.plan.study.pruning is None else {"until": until}
        body |= {} if stage == SEARCH else {"stage": stage}
        self.executor.submit("cohort", body)

    def _folders(self, numbers: Sequence[int]) -> list[str]:
        return [str(self.plan.folder(number)) for number in numbers]
