"""Jobs as Slurm jobs, through submitit: a cohort is a job of its own, queued and accounted for by the cluster.

The driver runs where `sbatch` is, and asks nothing of it but to queue: what a job has to say stands in its news file
(see `remote.py`), and the accounts are looked at once a minute, for jobs that ended without a word. The study is
checked (`describe`) by a process beside the driver, without a job. This module imports `submitit` with the first job.
"""

from __future__ import annotations

import logging
import shlex
import shutil
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness.executors import Event, Job, options, remote
from harness.executors.local import THREADS, Local, keep_memory
from harness.executors.remote import BLIND, ENDS, PERIOD, Desk, Track

OPTIONS = (
    "cluster", "partition", "account", "qos", "constraint", "time", "cpus", "gpus", "memory", "setup",
)  # fmt: skip
CLUSTERS = ("slurm", "local")
ASKED_EVERY = {"slurm": 60.0, "local": PERIOD}
"""Seconds between two looks at the accounts: `sacct` is shared by all of a cluster."""
GOING_ON = ("READY", "PENDING", "RUNNING", "UNKNOWN", "REQUEUED", "COMPLETING", "RESIZING", "SUSPENDED")
SLURMS_OWN = ("partition", "account", "qos", "constraint", "setup")
DONE = ("FINISHED", "COMPLETED")
"""How the accounts have a job that was ended from outside, too."""
QUEUED_AGAIN = {"SystemExit: -1": -1, "SystemExit: 144": 144}
"""What submitit ends a preempted job with, on a cluster and here, once it has queued it again: no failure."""
TRIES, AGAIN_AFTER = 20, 30.0
"""How often, and after how many seconds, a job is offered again that `sbatch` did not take."""
log = logging.getLogger(__name__)


def run_job(job: Job, desk: Desk, device: str) -> None:
    """What a Slurm job does: one job of the harness, whose end it tells the driver by a file."""
    if job.kind == "calibrate":
        job = replace(job, body={**job.body, "workers": 1})  # it has its share of the node for itself
    kind, data = remote.do(job, desk, device)
    if kind == BLIND:
        raise RuntimeError(data["reason"])  # the job's own log is all that it can tell
    if kind == "failed" and data["reason"] in QUEUED_AGAIN:
        raise SystemExit(QUEUED_AGAIN[data["reason"]])
    desk.tell(job, kind, data)


def parameters(said: Mapping[str, str], name: str) -> dict[str, Any]:
    """What submitit is told of every job. Raises `ValueError` for an option that is unknown or cannot be."""
    options.known(said, OPTIONS, "slurm")
    memory = options.size(said, "memory")
    gpus = options.count(said, "gpus", 0)
    found: dict[str, Any] = {
        "name": name,
        "timeout_min": options.count(said, "time", 120, least=1),
        "cpus_per_task": options.count(said, "cpus", 1, least=1),
    }
    found |= {"gpus_per_node": gpus} if gpus else {}
    found |= {"mem_gb": memory / 2**30} if memory else {}
    if cluster(said) == "local":
        if own := [key for key in SLURMS_OWN if key in said]:
            raise ValueError(f"option {own[0]} is for Slurm, and with cluster=local there is none")
    else:
        first = [f"export {key}={shlex.quote(value)}" for key, value in {**keep_memory(), **THREADS}.items()]
        found["slurm_setup"] = [*first, said["setup"]] if "setup" in said else first
        found |= {f"slurm_{key}": said[key] for key in SLURMS_OWN[:-1] if key in said}
    return found


def cluster(said: Mapping[str, str]) -> str:
    """`slurm`, or `local` for processes of this machine instead of jobs. Raises `ValueError` where that cannot be."""
    found = said.get("cluster", "slurm")
    if found not in CLUSTERS:
        raise ValueError(f"option cluster={found} must be one of {', '.join(CLUSTERS)}")
    if found == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
        raise ValueError("sbatch and srun are not here; start the sweep on a node from which jobs can be submitted")
    return found


class Slurm:
    """An executor of at most `num_workers` Slurm jobs at a time, queued or running."""

    def __init__(self, num_workers: int, cache: Path, device: str, log: Path, options: Mapping[str, str]) -> None:
        """`cache` and `log` as for `Ray`. Raises `ValueError` for options that cannot be, or without submitit."""
        self._parameters = parameters(options, f"harness-{log.absolute().parent.name}")
        self._cluster = cluster(options)
        self._device = remote.check_device(device, self._parameters.get("gpus_per_node", 0), "Slurm")
        if find_spec("submitit") is None:
            raise ValueError("submitit is not installed; pip install -e '.[slurm]'")
        self._num_workers = num_workers
        self._desk = Desk.of(cache, log)
        self._here = Local(1, cache, "cpu", log)
        self._waiting: deque[Job] = deque()
        self._running: list[tuple[Track, Any]] = []
        self._count = 0
        self._over: set[int] = set()  # jobs that the accounts have as over, and whose last word may be on its way
        self._submitit: Any = None
        self._look_at = self._ask_at = self._offer_at = 0.0
        self._refusals = 0

    def open(self) -> None:
        """Nothing to reach before there is something to queue."""

    def submit(self, kind: str, body: Mapping[str, Any]) -> Job:
        """Queue a job. Raises `ValueError` where Slurm does not take the first one."""
        if kind == "describe":
            return self._here.submit(kind, body)
        if self._submitit is None:
            self._submitit = self._open()
        self._count += 1
        job = Job(self._count, kind, body)
        self._waiting.append(job)
        self._dispatch()
        return job

    def poll(self, timeout: float) -> list[Event]:
        """News, as the protocol says. Raises `ValueError` where Slurm has taken no job for long."""
        if self._here.num_pending:
            events = self._here.poll(timeout)
            if not self._here.num_pending:
                self._here.close()
            return [
                replace(event, data={**event.data, "device": self._device}) if event.kind == "done" else event
                for event in events
            ]
        time.sleep(min(timeout, max(0.0, self._look_at - time.monotonic())))
        if time.monotonic() < self._look_at or not self.num_pending:
            return []
        self._look_at = time.monotonic() + PERIOD
        events = [event for track, _ in self._running for event in track.look(self._desk)]
        ended = {event.job.id for event in events if event.kind in ENDS}
        self._running = [pair for pair in self._running if pair[0].job.id not in ended]
        events += self._ask()
        self._dispatch()
        return events

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_pending(self) -> int:
        return len(self._waiting) + len(self._running) + self._here.num_pending

    def close(self) -> None:
        self._waiting.clear()
        self._here.close()
        running, self._running = self._running, []
        for _, task in running:
            task.cancel(check=False)
        if self._submitit is not None:
            self._desk.close()

    def kill(self) -> None:
        self._here.kill()
        for _, task in self._running:
            task.cancel(check=False)

    def _open(self) -> Any:
        import submitit

        self._desk.open()
        found = submitit.AutoExecutor(folder=self._desk.folder / "submitit", cluster=self._cluster)
        found.update_parameters(**self._parameters)
        return found

    def _dispatch(self) -> None:
        """Offer what waits to Slurm; what it does not take is offered again a little later."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        while self._waiting and len(self._running) < self._num_workers and time.monotonic() >= self._offer_at:
            job = self._waiting[0]
            try:
                task = self._submitit.submit(run_job, job, self._desk, self._device)
            except (FailedJobError, FailedSubmissionError) as error:
                self._refusals += 1
                reason = " ".join(str(error).split())
                if job.id == 1 or self._refusals == TRIES:
                    raise ValueError(f"Slurm does not take the job: {reason}") from None
                log.warning("Slurm does not take a job, it is offered again: %s", reason)
                self._offer_at = time.monotonic() + AGAIN_AFTER
                return
            self._refusals = 0
            self._waiting.popleft()
            self._running.append((Track(job), task))

    def _ask(self) -> list[Event]:
        """Look at the accounts, when it is time: the ends of jobs that were over a look ago, and have not said so."""
        if time.monotonic() < self._ask_at or not self._running:
            return []
        self._ask_at = time.monotonic() + ASKED_EVERY[self._cluster]
        self._running[0][1].get_info(mode="force")  # one call tells of all jobs
        events, going = [], []
        for track, task in self._running:
            state = task.state.upper()
            is_over = track.is_overdue or not state.startswith(GOING_ON)
            if is_over and track.job.id in self._over:
                events += self._last_word(track, task, state)
                continue
            going.append((track, task))
            if is_over:
                self._over.add(track.job.id)
        self._running = going
        return events

    def _last_word(self, track: Track, task: Any, state: str) -> list[Event]:
        """The end of a job that is over: what it said last, or how Slurm has it."""
        said = track.look(self._desk)
        if any(event.kind in ENDS for event in said):
            return said
        task.cancel(check=False)  # a preempted one may be queued again, and we train what it has left
        lines = (task.stderr() or "").splitlines() if not track.node else []
        why = f": {lines[-1].strip()}" if lines else ""
        how = state.lower() if state not in DONE else "over, without a word"
        return [*said, track.lost(f"Slurm job {task.job_id} is {how}{why}", self._desk)]
