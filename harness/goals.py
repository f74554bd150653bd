"""What a sweep is to reach, and what it still has to ask for: trials of each arm, round by round."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness import files, ledger
from harness.arms import CONFIRM, quota, read_arm, students
from harness.costs import Costs
from harness.kept import Asked
from harness.ledger import TrialSpec
from harness.sampler import Sampler
from harness.space import Study


@dataclass(frozen=True)
class Plan:
    """What a sweep is to reach, and with what. `targets` counts the trials of each arm; `deadline` is a
    `time.monotonic`; without `costs` cohorts are formed by a fixed rule (see `harness.packing`); a cohort that trains
    for more than `limit` seconds counts as hung."""

    name: str
    study: Study
    task: str
    config_hash: str
    study_dir: Path
    targets: Mapping[str, int]
    deterministic: bool = False
    deadline: float = math.inf
    costs: Costs | None = None
    workers: int = 1
    limit: float = 3600.0

    def folder(self, number: int) -> Path:
        """A trial's directory, as every worker finds it."""
        return ledger.trial_dir(self.study_dir, number).absolute()

    def write_spec(self, asked: Asked) -> TrialSpec:
        """The trial that was asked for, as its directory has it, which is made where there is none."""
        own = read_arm(asked.arm)
        trial = TrialSpec(
            self.name,
            asked.number,
            own.kind,
            dict(asked.params),
            tuple(students(self.study, asked.arm, asked.params, self.task)),
            self.config_hash,
            files.now_ms(),
            asked.round,
            own.stage,
            own.source,
        )
        known = ledger.read_spec(ledger.write_spec(self.study_dir, trial))
        assert known is not None
        return known


@dataclass(frozen=True)
class Goals:
    """How many trials of each arm there are to be, beside those that the sampler knows of."""

    study: Study
    targets: Mapping[str, int]
    sampler: Sampler

    def asked(self, arm: str) -> int:
        """Trials of an arm that were asked for, whatever became of them."""
        return self.sampler.count(arm, "complete", "pruned", "running", "failed")

    def told(self, *states: str) -> int:
        """Trials of all arms in these states."""
        return sum(self.sampler.count(arm, *states) for arm in self.targets)

    def is_told(self, arm: str) -> bool:
        """Whether no trial of an arm is left to be trained."""
        return self.sampler.count(arm, "complete", "failed") >= self.targets[arm]

    def missing(self) -> int:
        """Trials still to be asked for."""
        return sum(max(0, self._needed(arm) - self.asked(arm)) for arm in self.targets)

    def round(self) -> int:
        """The round that the sweep is in, from 1; 0 before the first."""
        arms = [arm for arm, wanted in self.targets.items() if wanted]
        return max(math.ceil(self.asked(arm) / self._quota(arm)) for arm in arms)

    def size(self) -> int:
        """How many trials a whole round has."""
        return sum(self._quota(arm) for arm, wanted in self.targets.items() if wanted)

    def short_of(self, arm: str, number: int) -> int:
        """Trials of an arm still to be asked for up to the end of round `number`; below 1 where there are none."""
        return min(self._needed(arm), number * self._quota(arm)) - self.asked(arm)

    def _needed(self, arm: str) -> int:
        """For one that failed in the search there is another."""
        return self.targets[arm] + (0 if arm.startswith(CONFIRM) else self.sampler.count(arm, "failed"))

    def _quota(self, arm: str) -> int:
        return quota(self.study, self.targets, arm)
