"""Worker processes on this machine, kept warm: one a core, one torch thread each.

A worker is given a job when it says that it is ready. One that leaves before, for torch does not load or there is no
memory for it, costs no job anything: the others go on, and where there are none the sweep stops.
"""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.executors import Event, Job
from harness.problems import one_line
from harness.stopping import Halt
from harness.urls import redact

THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
PATIENCE = 30.0
"""Seconds beyond its limit that a worker has to leave by itself."""
STARTS, PAUSE, LONG_PAUSE = 5, 2.0, 60.0
"""How often all workers may leave before they are ready, where others were; the seconds until more are started, and the
same while there are others."""
HEARS = 1.0
"""Seconds that a worker's last words are waited for."""
NEW_GLIBC = (2, 35)
"""Older ones refuse a threshold for mapping above 32 MiB, and then fall back to 128 KiB."""
log = logging.getLogger(__name__)


def keep_memory() -> dict[str, str]:
    """Variables, in bytes, that keep glibc from giving freed memory back to the system after every step.

    Without them a step of many students spends up to a quarter of its time on getting the same pages again.
    """
    name, release = platform.libc_ver()
    if name != "glibc":
        return {}
    known = tuple(int(part) for part in release.split(".")[:2])
    most = 4 * 2**30 if known >= NEW_GLIBC else 32 * 2**20
    return {
        "MALLOC_MMAP_THRESHOLD_": str(most),
        "MALLOC_TRIM_THRESHOLD_": str(4 * 2**30),
        "MALLOC_TOP_PAD_": str(64 * 2**20),
    }


class Local:
    """An executor of `num_workers` processes. A worker that dies fails its job and is replaced; `Halt` is raised where
    none can be."""

    def __init__(self, num_workers: int, cache: Path, device: str, log: Path) -> None:
        """`cache` holds the teachers; `log` takes what the workers print. Neither is touched before a job trains."""
        paths = [str(cache.absolute()), str(log.absolute())]
        self._command = [sys.executable, "-m", "harness.executors.worker", *paths, device]
        self._news: queue.Queue[tuple[_Worker, str | None]] = queue.Queue()
        self._waiting: deque[Job] = deque()
        self._count = 0
        self._num_workers = num_workers
        self._workers: list[_Worker] = []
        self._wanted = 0  # workers
        self._start_at = -math.inf  # no other is started before
        self._in_vain = 0  # how often all that were started left so, since one was ready
        self._was_told = False  # that one left so
        self._was_ready = False

    def open(self) -> None:
        """Nothing to reach: a worker is started for the first job that waits for one."""

    def submit(self, kind: str, body: Mapping[str, Any]) -> Job:
        self._count += 1
        job = Job(self._count, kind, body)
        self._waiting.append(job)
        self._wanted = max(self._wanted, 1 if kind == "describe" else self._num_workers)  # until there is work, one
        self._start_missing()
        self._dispatch()
        return job

    def poll(self, timeout: float) -> list[Event]:
        events: list[Event] = []
        try:
            events += self._read(*self._news.get(timeout=timeout))
            while True:
                events += self._read(*self._news.get_nowait())
        except queue.Empty:
            pass
        for worker in self._workers:
            if worker.seconds > worker.limit + PATIENCE:
                worker.process.kill()  # its listener says so
            if worker.is_dead:
                worker.end_children()  # they may hold its end of the line, which keeps the listener waiting
        self._start_missing()
        self._dispatch()
        return events

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_pending(self) -> int:
        return len(self._waiting) + sum(worker.job is not None for worker in self._workers)

    def close(self) -> None:
        self._waiting.clear()
        for worker in self._workers:  # it may be interrupted, and called again
            worker.stop()
        self._workers, self._wanted = [], 0

    def kill(self) -> None:
        for worker in self._workers:
            worker.end_children()

    def _start_missing(self) -> None:
        while len(self._workers) < self._wanted and time.monotonic() >= self._start_at:
            self._workers.append(self._start())

    def _start(self) -> _Worker:
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**keep_memory(), **os.environ, **THREADS},
            start_new_session=True,  # a Ctrl-C in the terminal is the driver's to handle
        )
        worker = _Worker(process)
        threading.Thread(target=self._listen, args=(worker,), daemon=True).start()
        return worker

    def _listen(self, worker: _Worker) -> None:
        """Pass a worker's lines on, and None when it is gone."""
        assert worker.process.stdout is not None
        hearing = threading.Thread(target=worker.hear, daemon=True)
        hearing.start()
        with worker.process.stdout as lines:
            for line in lines:
                self._news.put((worker, line))
        hearing.join(HEARS)  # a child of its own may hold the other end
        self._news.put((worker, None))

    def _dispatch(self) -> None:
        for worker in self._workers:
            if worker.is_ready and worker.job is None and self._waiting:
                worker.take(self._waiting.popleft())

    def _read(self, worker: _Worker, line: str | None) -> list[Event]:
        job = worker.job
        if line is None:
            return self._lost(worker) if worker in self._workers else []
        try:
            news = json.loads(line)
        except ValueError:
            return []  # half a line: it was killed as it wrote, and its end is next
        if not isinstance(news, dict) or not news.keys() >= {"id", "event", "data"}:
            return []  # somebody printed it
        if news["event"] == "ready":
            worker.is_ready = self._was_ready = True
            self._in_vain, self._was_told = 0, False
            return []
        if job is None or news["id"] != job.id:
            return []
        if news["event"] == "begun":
            worker.begin()
            return []
        if news["event"] != "progress":
            worker.job = None
        return [Event(job, news["event"], news["data"])]

    def _lost(self, worker: _Worker) -> list[Event]:
        """A worker is gone: its job has failed, or it never had one."""
        worker.end_children()
        code = worker.process.wait()
        worker.stop()
        self._workers.remove(worker)
        reason = f"worker killed by {_signal(-code)}" if code < 0 else f"worker left with code {code}"
        if not worker.is_ready:
            return self._left_before_it_was_ready(reason, worker.last_words)
        self._start_at = -math.inf  # it is replaced at once
        if worker.seconds > worker.limit:
            reason = f"hung: not done after {worker.limit:g} seconds; worker.log has where it was"
        return [Event(worker.job, "failed", {"reason": reason})] if worker.job is not None else []

    def _left_before_it_was_ready(self, reason: str, last_words: str) -> list[Event]:
        """Let others go on without this one. Where none ever was ready, nor is started, a job has failed."""
        reason += f": {one_line(redact(last_words))}" if last_words else ""
        if not (self._was_ready or self._workers):
            return [Event(self._waiting.popleft(), "failed", {"reason": reason})] if self._waiting else []
        self._in_vain += not self._workers
        if self._in_vain == STARTS:
            raise Halt(f"{STARTS} times one after the other no worker could start: {reason}")
        if not self._was_told:
            log.warning("a worker could not start (%s); it is tried again", reason)
        self._was_told = True
        self._start_at = time.monotonic() + (LONG_PAUSE if self._workers else PAUSE)
        return []


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of real time
        return f"signal {number}"


class _Worker:
    """One process and the job it has."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.job: Job | None = None
        self.is_ready = False  # from then on it is given jobs
        self.last_words = ""  # on standard error, before it is ready
        self._since = math.inf

    def begin(self) -> None:
        """It trains: nobody else holds its trials."""
        self._since = time.monotonic()

    def hear(self) -> None:
        """Listen to its standard error until it is ready, or gone."""
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                self.last_words = line.strip() or self.last_words

    @property
    def seconds(self) -> float:
        """How long it has been at its job; none before it has begun."""
        return time.monotonic() - self._since if self.job is not None else -math.inf

    @property
    def limit(self) -> float:
        """How long its job may train."""
        return float(self.job.body.get("limit", math.inf)) if self.job is not None else math.inf

    def take(self, job: Job) -> None:
        assert self.process.stdin is not None
        self.job, self._since = job, math.inf
        with suppress(BrokenPipeError):  # if it has died its listener says so, and the job fails then
            self.process.stdin.write(json.dumps({"id": job.id, "kind": job.kind, "body": dict(job.body)}) + "\n")
            self.process.stdin.flush()

    @property
    def is_dead(self) -> bool:
        """Whether it has ended; it keeps its number until it is waited for."""
        if self.process.returncode is not None:
            return True
        try:
            return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

    def end_children(self) -> None:
        """End it, and what it has started: a study's own code may load data in processes of its own."""
        if self.process.returncode is None:  # else its number, which is its group's, may be another's
            with suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.end_children()
        self.process.wait()
        with suppress(BrokenPipeError):
            self.process.stdin.close()
