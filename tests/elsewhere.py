"""What runs on a node in the tests of Ray and Slurm: the real worker, but its training is made up.

`arrange(cache, ...)` says, in a file that every worker reads, how long a cohort takes and what a guilty trial does.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.executors import Job, remote
from harness.executors import ray as ray_module
from harness.executors import slurm as slurm_module
from harness.executors.ray_cluster import Wanted
from harness.executors.remote import Desk
from harness.records import Record
from harness.spec import StudentSpec
from tests.fakes import fake_train


def arrange(cache: Path, *, seconds: float = 0.0, harm: str = "", guilty: float = 0.0, held: bool = False) -> None:
    """Every job is `held` until `let_go`, cohorts take `seconds`; the trial of learning rate `guilty` does `harm`."""
    cache.mkdir(parents=True, exist_ok=True)
    facts = {"seconds": seconds, "harm": harm, "guilty": guilty, "held": held}
    (cache / "arranged.json").write_text(json.dumps(facts))


def let_go(cache: Path) -> None:
    """Let the cohorts that are held go on."""
    (cache / "go").touch()


def trained(cache: Path) -> list[str]:
    """The pids of workers, a line a cohort that was trained to its end."""
    said = cache / "trained"
    return said.read_text().split() if said.exists() else []


def run_on_ray(job: Job, desk: Desk, device: str, demand: Wanted) -> tuple[str, dict[str, Any]]:
    return ray_module.run_job(job, _faked(desk), device, demand)


def run_on_a_pretended_gpu(job: Job, desk: Desk, device: str, demand: Wanted) -> tuple[str, dict[str, Any]]:
    """Give what a task would train on, and when, where torch sees one GPU, which Ray has to share out.

    It waits for as many as have room there, for half a minute at most, and half a second for one more.
    """
    from unittest import mock

    import torch

    def do(job: Job, desk: Desk, device: str) -> tuple[str, dict[str, Any]]:
        begun = time.time()
        (desk.cache / f"begun-{job.id}").touch()
        while len(list(desk.cache.glob("begun-*"))) < 1 / demand.gpus and time.time() < begun + 30:
            time.sleep(0.05)
        time.sleep(0.5)
        return "done", {"device": device, "begun": begun, "ended": time.time(), "told": list(told.call_args.args)}

    with (
        mock.patch.object(torch.cuda, "device_count", lambda: 1),
        mock.patch.object(torch.cuda, "set_per_process_memory_fraction") as told,
        mock.patch.object(remote, "do", do),
    ):
        return ray_module.run_job(job, desk, device, demand)


def run_on_slurm(job: Job, desk: Desk, device: str) -> None:
    slurm_module.run_job(job, _faked(desk), device)


def _faked(desk: Desk) -> Desk:
    """Replace what this process would train by what is arranged."""
    from harness import cohort, targets  # they load torch, and a driver must not

    arranged = json.loads((desk.cache / "arranged.json").read_text())

    def prepare() -> dict[str, Any]:
        while arranged["held"] and not (desk.cache / "go").exists():
            time.sleep(0.02)
        return {"name": "made up"}

    def train_each(specs: Sequence[StudentSpec], **_: Any) -> Iterator[tuple[list[Record], list[Any]]]:
        time.sleep(arranged["seconds"])
        if any(spec.lr == arranged["guilty"] for spec in specs):
            _do(arranged["harm"], desk.cache)
        with (desk.cache / "trained").open("a") as file:
            file.write(f"{os.getpid()}\n")
        yield fake_train(specs), []

    cohort.train_each = train_each
    targets.prepare = lambda *_: prepare()
    if arranged["harm"] != "blind":
        return desk
    remote.SEEN_WITHIN = 0.0
    return replace(desk, folder=desk.folder / "elsewhere")


def _do(harm: str, cache: Path) -> None:
    if harm == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif harm == "hung":
        time.sleep(1000)
    elif harm == "preempted" and not (cache / "preempted").exists():
        (cache / "preempted").touch()
        os.kill(os.getpid(), signal.SIGUSR2)  # as Slurm does, a little before it takes the node away
    elif harm == "raises":
        raise MemoryError("no room")
