"""Trials that a sweep gave up: when they are so many, or so alike, that others would do no better."""

from __future__ import annotations

from dataclasses import dataclass

ALIKE = 5
"""How many trials of a study that has none complete may fail one after the other for the same reason."""
LEAST, SHARE = 8, 4
"""How many of a sweep's trials may fail at the least, and the part of them, one in so many, at the most."""


@dataclass
class Setbacks:
    """Counts what this sweep gave up; earlier sweeps' are not held against it."""

    count: int = 0
    in_a_row: int = 0
    reason: str = ""
    """Why the last of them failed, as `in_a_row` of them did, one after the other."""

    def note(self, reason: str) -> None:
        """A trial has failed."""
        self.count += 1
        self.in_a_row = self.in_a_row + 1 if reason == self.reason else 1
        self.reason = reason

    def are_too_many(self, num_trials: int) -> bool:
        """Whether something other than the trials must be wrong, in a sweep of so many."""
        return self.count >= max(LEAST, num_trials // SHARE)

    @property
    def are_alike(self) -> bool:
        """Whether all the last ones failed for one reason."""
        return self.in_a_row >= ALIKE
