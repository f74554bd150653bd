"""Where jobs run. An executor takes jobs and gives events; the driver knows no more of it than this file.

`local` runs worker processes on this machine, `ray` tasks of a Ray cluster, `slurm` jobs of a Slurm cluster; `inline`
runs in the driver itself, for tests. A job is one of

    describe  {"specs": [...]}      check the students, tell about their task
    teacher   {"specs": [...]}      train the teachers that these students need, unless they are cached
    calibrate {"specs": [...], "folder": ..., "workers": n}
                                    measure what a step of such students costs, or read it where it was measured
    cohort    {"folders": [...], "how": {...}, "limit": seconds}
                                    train the trials of these directories together and publish their results;
                                    `how` is a `harness.costs.How`; past its limit it counts as hung, and fails
              {"folders": [...], "how": {...}, "limit": seconds, "until": epoch or null}
                                    the same in a study that prunes: up to a rung, or on to the end
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Job:
    """One piece of work; `id` counts up."""

    id: int
    kind: str
    body: Mapping[str, Any]


@dataclass(frozen=True)
class Event:
    """News of a job: `progress`, `done` (with its result), `refused` (bad input, `reason`) or `failed` (`reason`).

    A job that failed because a disk is full or read-only says so with `full` true, and names the file in its reason;
    one that was lost before it was begun, which is no fault of its trials, with `unbegun` true.
    """

    job: Job
    kind: str
    data: Mapping[str, Any]


class Executor(Protocol):
    """What the driver needs of a place where jobs run."""

    def open(self) -> None:
        """Reach what runs the jobs; one that is open stays so. Raises `ValueError` where that cannot be reached."""

    def submit(self, kind: str, body: Mapping[str, Any]) -> Job:
        """Queue a job; opens the executor."""

    def poll(self, timeout: float) -> list[Event]:
        """News since the last call; waits up to `timeout` seconds for some."""

    @property
    def num_waiting(self) -> int:
        """Jobs that no worker has begun."""

    @property
    def num_pending(self) -> int:
        """Jobs that are not over."""

    def close(self) -> None:
        """Stop everything now. Published results stay; what was running is run again by the next sweep."""

    def kill(self) -> None:
        """End what runs here; the process ends next. It is called in a signal's handler, in the midst of anything, so
        it takes no lock and waits for nothing."""
