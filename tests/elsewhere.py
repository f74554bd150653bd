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
from harness.executors.ray import Wanted
from harness.executors.remote import Desk
from harness.spec import Record, StudentSpec
from tests.fakes import fake_train


def arrange(cache: Path, *, seconds: float = 0.0, harm: str = "", guilty: float = 0.0) -> None:
    """Cohorts take `seconds`; the trial of learning rate `guilty` does `harm`."""
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "arranged.json").write_text(json.dumps({"seconds": seconds, "harm": harm, "guilty": guilty}))


def trained(cache: Path) -> list[str]:
    """The pids of workers, a line a cohort that was trained to its end."""
    said = cache / "trained"
    return said.read_text().split() if said.exists() else []


def run_on_ray(job: Job, desk: Desk, device: str, demand: Wanted) -> tuple[str, dict[str, Any]]:
    return ray_module.run_job(job, _faked(desk), device, demand)




def _faked(desk: Desk) -> Desk:
    """Replace what this process would train by what is arranged."""
    from harness.executors import worker

    arranged = json.loads((desk.cache / "arranged.json").read_text())

    def train_each(specs: Sequence[StudentSpec], **_: Any) -> Iterator[tuple[list[Record], list[Any]]]:
        time.sleep(arranged["seconds"])
        if any(spec.lr == arranged["guilty"] for spec in specs):
            _do(arranged["harm"])
        with (desk.cache / "trained").open("a") as file:
            file.write(f"{os.getpid()}\n")
        yield fake_train(specs), []

    worker.cohort.train_each = train_each  # type: ignore[assignment]
    worker.targets.prepare = lambda *_: {"name": "made up"}
    if arranged["harm"] != "blind":
        return desk
    remote.SEEN_WITHIN = 0.0
    return replace(desk, folder=desk.folder / "elsewhere")


def _do(harm: str) -> None:
    if harm == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif harm == "hung":
        time.sleep(1000)
    elif harm == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif harm == "raises":
        raise MemoryError("no room")
