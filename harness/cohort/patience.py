"""Early stopping: when each student of a cohort stops, and the parameters of its best epoch."""

from __future__ import annotations

import math

from torch import Tensor

from harness.cohort.stack import Cohort


class Patience:
    """Each student's best epoch so far by val loss, and when it stopped. `best` are the parameters it had then,
    `[students, numbers]`, or None where no student is patient."""

    def __init__(self, cohort: Cohort) -> None:
        self._network = cohort.network.values
        self._limits = [spec.patience for spec in cohort.specs]
        self.best = self._network.clone() if any(self._limits) else None
        self._losses = [math.inf] * len(self._limits)
        self._since = [0] * len(self._limits)
        self._stopped: dict[int, int] = {}

    @property
    def all_stopped(self) -> bool:
        """Whether every student has stopped."""
        return len(self._stopped) == len(self._limits)

    def over(self, epoch: int, val_loss: Tensor) -> bool:
        """Take note of an epoch; whether every student has stopped."""
        if self.best is None:
            return False
        for student, (limit, loss) in enumerate(zip(self._limits, val_loss.tolist(), strict=True)):
            if not limit or student in self._stopped:
                continue
            if loss < self._losses[student]:
                self._losses[student], self._since[student] = loss, 0
                self.best[student] = self._network[student]
            else:
                self._since[student] += 1
                if self._since[student] >= limit:
                    self._stopped[student] = epoch
        return self.all_stopped

    def restore(self) -> None:
        """Give the students that are patient the parameters of their best epoch."""
        if self.best is not None:
            for student, limit in enumerate(self._limits):
                if limit:
                    self._network[student] = self.best[student]

    def num_epochs(self, trained: int) -> list[int]:
        """How many epochs each student trained, of so many that the cohort did."""
        return [self._stopped.get(student, trained) for student in range(len(self._limits))]

    def numbers(self, student: int) -> list[float]:
        """A student's best loss, the epochs since, and the epoch it stopped after, 0 for none: for a checkpoint."""
        return [self._losses[student], self._since[student], self._stopped.get(student, 0)]

    def resume(self, student: int, numbers: list[float]) -> None:
        """Take in what `numbers` gave; its best parameters are put into `best`."""
        loss, since, stopped = numbers
        self._losses[student], self._since[student] = loss, int(since)
        if stopped:
            self._stopped[student] = int(stopped)
