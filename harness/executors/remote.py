"""Jobs that run on other nodes, for `ray` and `slurm`: what every node must see, and what is told through it.

A sweep has a folder of its own for this, `<study>/jobs/<name>/`, which nobody else may open. A job has one file there,
`<id>.json`, which its worker writes whole again and again: the node, the latest event and its data. What a job prints
goes to `worker-<node>.log` beside the local workers' log.
"""

from __future__ import annotations

import math
import platform
import shutil
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import files
from harness.executors import Event, Job, local
from harness.files import cannot_be_written

PERIOD = 1.0
"""Seconds between two looks at what jobs say of themselves."""
SEEN_WITHIN = 5.0
"""Seconds after which a network's file system has shown a new folder to every node."""
ROOM = 64 * 1024
"""Bytes that a job needs at least to say how it ended."""
ENDS = ("done", "refused", "failed")
BLIND = "blind"
"""The end of a job on a node that does not see the sweep's folder: no fault of its trials."""


@dataclass(frozen=True)
class Desk:
    """Where a sweep's jobs find things, on every node the same: teachers, log, and the folder for news of them."""

    cache: Path
    log: Path
    folder: Path

    @staticmethod
    def clear(study_dir: Path) -> None:
        """Remove what killed sweeps of a study have left of theirs, as its only driver."""
        shutil.rmtree(study_dir / "jobs", ignore_errors=True)

    @staticmethod
    def of(cache: Path, log: Path) -> Desk:
        """A desk for one sweep; nothing is made yet."""
        return Desk(cache.absolute(), log.absolute(), log.absolute().parent / "jobs" / uuid.uuid4().hex[:12])

    def open(self) -> None:
        """Make the folder."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def close(self) -> None:
        """Remove the folder; a job that still runs has nobody to tell."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # another sweep's folder may be there, or none
            self.folder.parent.rmdir()

    def log_of(self, node: str) -> Path:
        return self.log.with_name(f"{self.log.stem}-{node}{self.log.suffix}")

    def news(self, job: Job) -> Path:
        return self.folder / f"{job.id}.json"

    def tell(self, job: Job, event: str, data: Mapping[str, Any]) -> None:
        """Say how a job is, for the driver to see; where the driver has left, nobody is told."""
        if self.folder.is_dir():
            files.write_json(self.news(job), {"node": platform.node(), "event": event, "data": dict(data)})

    def why_full(self) -> str:
        """Why nothing can be written here, `No space left on device: /its/path`; nothing where it can be."""
        try:
            files.write_bytes(self.folder / "room", bytes(ROOM))
        except OSError as error:
            return f"{error.strerror}: {error.filename or self.folder}" if cannot_be_written(error) else ""
        (self.folder / "room").unlink(missing_ok=True)
        return ""

    def is_seen(self) -> bool:
        """Whether this node sees the folder."""
        end = time.monotonic() + SEEN_WITHIN
        while not self.folder.is_dir():
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
        return True


def do(job: Job, desk: Desk, device: str) -> tuple[str, dict[str, Any]]:
    """Do a job on this node: the event that ends it, and its data. `describe` needs nothing but the study's file."""
    from harness.executors import worker  # it loads torch, and the driver must not

    if job.kind == "describe":
        return worker.outcome(job.kind, job.body, desk.cache, device, lambda *_: None)
    if not desk.is_seen():
        return BLIND, {"reason": f"node {platform.node()} does not see {desk.log.parent}"}
    try:
        desk.tell(job, "begun", {})
        with worker.printing_to(desk.log_of(platform.node())):
            return worker.outcome(job.kind, job.body, desk.cache, device, lambda *said: desk.tell(job, *said))
    except OSError as error:  # the disk may be full before anything is begun
        return "failed", worker.said_of(error)


@dataclass
class Track:
    """What the driver knows of a job that it has handed out; `restarts` counts the nodes that it was lost with."""

    job: Job
    restarts: int = 0
    node: str = ""
    _since: float = field(init=False, default=math.inf)
    _said: Any = field(init=False, default=None)

    def look(self, desk: Desk) -> list[Event]:
        """What the job has said since the last look."""
        news = files.read_json(desk.news(self.job))
        if news is None or news == self._said:
            return []
        self._said, self.node = news, news["node"]
        if self._since == math.inf:
            self._since = time.monotonic()
        return [] if news["event"] == "begun" else [Event(self.job, news["event"], news["data"])]

    @property
    def seconds(self) -> float:
        """How long it has been at its job, as far as is known; none before it has begun."""
        return time.monotonic() - self._since

    @property
    def limit(self) -> float:
        return float(self.job.body.get("limit", math.inf))

    @property
    def is_overdue(self) -> bool:
        """Whether it should long have left by itself; it may have waited as long for an orphan's locks."""
        return self.seconds > 2 * self.limit + local.PATIENCE

    def lost(self, reason: str, desk: Desk) -> Event:
        """The job's end where its worker is gone: what it has said last, or for this reason."""
        for event in self.look(desk):
            if event.kind in ENDS:
                return event
        if self.seconds + PERIOD > self.limit:  # it was seen to begin up to a period late
            reason = f"hung: not done after {self.limit:g} seconds; {desk.log_of(self.node).name} has where it was"
        elif full := desk.why_full():  # then it could not say so
            return Event(self.job, "failed", {"reason": full, "full": True})
        return Event(self.job, "failed", {"reason": reason} | ({} if self.node else {"unbegun": True}))


def check_device(device: str, gpus: float, where: str) -> str:
    """The device of a job that reserves so many GPUs: only what it reserves. Raises `ValueError` for cuda without."""
    if device == "cuda" and not gpus:
        raise ValueError(f"device 'cuda' needs a GPU a cohort on {where}: --option gpus=1")
    if device == "cpu" or not gpus:
        return "cpu"
    return "cuda"
