"""Which executor runs the jobs, by name: the one table of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harness.executors import Executor
from harness.executors.local import Local

EXECUTORS = ("local", "ray", "slurm")


def start(name: str, num_workers: int, cache: Path, device: str, log: Path, options: Mapping[str, str]) -> Executor:
    """The executor of this name; `options` are its own settings. Raises `ValueError` in one line for those it does not
    know, and where what it needs is not there."""
    if name == "ray":
        from harness.executors.ray import Ray  # takes seconds to import

        return Ray(num_workers, cache, device, log, options)
    if name == "slurm":
        from harness.executors.slurm import Slurm

        return Slurm(num_workers, cache, device, log, options)
    if options:
        raise ValueError(f"unknown option {next(iter(options))!r} of executor 'local', which has none")
    return Local(num_workers, cache, device, log)
