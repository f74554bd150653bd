"""Runs jobs in the driver's own process, one at a time: for tests of the driver with a fake trainer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from harness.executors import Event, Job

Work = Callable[[str, Mapping[str, Any]], dict[str, Any]]


class Inline:
    """An executor whose `work(kind, body)` returns a job's result, or raises."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._jobs: deque[Job] = deque()
        self._count = 0

    def open(self) -> None:
        pass

    def submit(self, kind: str, body: Mapping[str, Any]) -> Job:
        self._count += 1
        self._jobs.append(Job(self._count, kind, body))
        return self._jobs[-1]

    def poll(self, timeout: float) -> list[Event]:  # noqa: ARG002 - the work itself is the waiting
        if not self._jobs:
            return []
        job = self._jobs.popleft()
        try:
            return [Event(job, "done", self._work(job.kind, job.body))]
        except ValueError as error:
            return [Event(job, "refused", {"reason": str(error)})]
        except RuntimeError as error:
            return [Event(job, "failed", {"reason": str(error)})]

    @property
    def num_waiting(self) -> int:
        return len(self._jobs)

    @property
    def num_pending(self) -> int:
        return len(self._jobs)

    def close(self) -> None:
        self._jobs.clear()

    def kill(self) -> None:
        pass
