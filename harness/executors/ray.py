"""Jobs as tasks of a Ray cluster: one of its own on this machine, or a running one of many nodes.

A job is a plain task of Ray core. The driver keeps the queue and hands out `num_workers` at a time. Ray itself repeats
nothing: a job whose node is lost is handed out again here, for that is nobody's fault, and one whose process dies fails
at once, for the driver to halve its cohort. This module imports `ray` only when the first job is submitted.
"""

from __future__ import annotations

import math
import os
import platform
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness.executors import Event, Job, remote
from harness.executors.local import THREADS, keep_memory
from harness.executors.ray_cluster import OWN, Head, Wanted, check_room, connect, one_line, wanted
from harness.executors.remote import Desk, Track
from harness.stopping import Halt


def run_job(job: Job, desk: Desk, device: str, demand: Wanted) -> tuple[str, dict[str, Any]]:
    """The task: do a job on the node where this runs, on the GPU that Ray has given it."""
    if job.kind == "calibrate":
        job = replace(job, body={**job.body, "workers": min(job.body["workers"], demand.a_node())})
    if device == "cuda":
        from harness.executors import worker  # it loads torch, and the driver must not

        try:
            device = worker.share_gpu(_own_gpu(), demand.gpus)
        except ValueError as error:
            return "refused", {"reason": str(error)}
    return remote.do(job, desk, device)


def _own_gpu() -> int:
    """The place, among the GPUs that this process sees, of the one that Ray has given the task."""
    import ray

    [own] = ray.get_gpu_ids()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",").index(str(own)) if visible else int(own)


class Ray:
    """An executor of `num_workers` tasks at a time. A program that is connected to Ray already stays so."""

    def __init__(self, num_workers: int, cache: Path, device: str, log: Path, options: Mapping[str, str]) -> None:
        """`cache` holds the teachers; `log` is where workers print, each node to a file of its own beside it.

        Both must be on a file system that every node has under the same path. Raises `ValueError` for options that
        cannot be, and where ray is not installed.
        """
        self._wanted = wanted(options)
        self._device = remote.check_device(device, self._wanted.gpus, "Ray")
        if find_spec("ray") is None:
            raise ValueError("ray is not installed; pip install -e '.[ray]'")
        self._num_workers = num_workers
        self._desk = Desk.of(cache, log)
        self._waiting: deque[Track] = deque()
        self._running: dict[Any, Track] = {}
        self._count = 0
        self._task: Any = None
        self._head = Head("")
        self._connected = False  # by us, so that it is ours to leave
        self._closed = False

    def open(self) -> None:
        """Connect to the cluster, or start one.

        A `KeyboardInterrupt` that cuts this off leaves threads of Ray that crash as the program ends. Where the thread
        that is here ends, a cluster of our own does.
        """
        if self._task is None:
            self._task = self._connect()

    def submit(self, kind: str, body: Mapping[str, Any]) -> Job:
        """Queue a job; the first opens. Raises `ValueError` where the cluster cannot be reached."""
        self.open()
        if kind != "describe":
            self._desk.open()
        self._count += 1
        job = Job(self._count, kind, body)
        self._waiting.append(Track(job))
        self._dispatch()
        return job

    def poll(self, timeout: float) -> list[Event]:
        """News, as the protocol says.

        Raises `ValueError` where a node does not see the study's folder, and `Halt` where Ray died on this one or on
        the head node.
        """
        import ray

        if not self._running:
            return []
        if self._head.is_away():
            self._task, self._connected = None, False  # what is asked of Ray now waits for it
            self._running.clear()
            raise Halt(f"the Ray cluster's head node {self._head} is away, which is held against no trial")
        events = []
        ray.wait(list(self._running), timeout=timeout)
        over, going = ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        for ref in over:
            events += self._end(self._running.pop(ref), ref)
        for ref in going:
            events += self._running[ref].look(self._desk)
            if self._running[ref].is_overdue:
                ray.cancel(ref, force=True)  # the task's end says so
        self._dispatch()
        return events

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_pending(self) -> int:
        return len(self._waiting) + len(self._running)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._waiting.clear()
        if self._connected or self._running:
            import ray

            for ref in self._running:
                ray.cancel(ref, force=True)
            if self._connected:
                ray.shutdown()
        self._desk.close()

    def kill(self) -> None:
        """A driver that ends takes its tasks along."""

    def _connect(self) -> Any:
        """Reach the cluster, or start one; gives the task."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        if not ray.is_initialized():
            connect(self._wanted.address, max(1, math.ceil(self._num_workers * self._wanted.cpus)))
            self._connected = True
        if not self._wanted.address.startswith("ray://"):
            self._head = Head(ray.get_runtime_context().gcs_address)
        check_room(self._wanted.demand, ray.nodes(), self._wanted.address)  # type: ignore[no-untyped-call]
        env = {**keep_memory(), **THREADS}
        if self._device == "cuda":
            env["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"] = "1"  # a warm process may get another GPU: we choose it
        return ray.remote(
            **self._wanted.of_ray,
            max_retries=0,
            max_calls=0,  # keep the process warm, on a GPU too
            runtime_env={"env_vars": env},
        )(run_job)

    def _dispatch(self) -> None:
        while self._waiting and len(self._running) < self._num_workers:
            track = self._waiting.popleft()
            self._running[self._task.remote(track.job, self._desk, self._device, self._wanted)] = track

    def _end(self, track: Track, ref: Any) -> list[Event]:
        """The event of a task that is over; none where its node was lost and it is handed out again."""
        import ray
        from ray.exceptions import (
            LocalRayletDiedError,
            NodeDiedError,
            OutOfMemoryError,
            RayError,
            RaySystemError,
            TaskCancelledError,
            WorkerCrashedError,
        )

        try:
            kind, data = ray.get(ref)
        except (LocalRayletDiedError, RaySystemError) as error:
            where = "this machine" if self._wanted.address == OWN else "the node that the sweep is connected to"
            raise Halt(f"Ray died on {where}, which is held against no trial: {one_line(error)}") from None
        except NodeDiedError:
            if track.restarts < self._wanted.retries:
                self._desk.news(track.job).unlink(missing_ok=True)
                self._waiting.appendleft(Track(track.job, track.restarts + 1))
                return []
            return [track.lost(f"lost with its node, {track.restarts + 1} times", self._desk)]
        except OutOfMemoryError:
            return [track.lost("Ray killed its worker: the node was out of memory", self._desk)]
        except (WorkerCrashedError, TaskCancelledError):
            track.look(self._desk)  # where it was
            return [track.lost(f"worker died; see {self._desk.log_of(track.node or platform.node()).name}", self._desk)]
        except RayError as error:
            return [track.lost(one_line(error), self._desk)]
        if kind == remote.BLIND:
            raise ValueError(f"{data['reason']}; --out must be a folder that every node has under the same path")
        return [Event(track.job, kind, data)]
