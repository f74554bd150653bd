"""A sweep in the test's own process, its jobs too, without figures: the program but for its seconds of imports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from harness import session, sweep
from harness.cohort import calibration
from harness.executors import worker
from harness.executors.inline import Inline
from harness.report import build


@contextmanager
def jobs_here() -> Iterator[None]:
    """Sweeps that begin meanwhile train in this process, job by job, draw nothing, and hardly time any steps."""

    def start(_: str, __: int, cache: Path, device: str, ___: Path, ____: Mapping[str, str]) -> Inline:
        return Inline(lambda kind, body: worker.work(kind, body, cache, device, lambda *_: None))

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(session, "start", start))
        stack.enter_context(mock.patch.object(build, "drawings", lambda _: ()))
        stack.enter_context(mock.patch.multiple(calibration, SIZES=(1, 4), STEPS=1, SECONDS=0.0))
        yield


def sweep_here(file: Path, out: Path, **options: Any) -> int:
    """The exit code of a sweep of the study in a file. Raises `ValueError` where the program says a line."""
    with jobs_here():
        return sweep.main(str(file), out=out, **options)
