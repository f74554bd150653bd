"""Where a sweep's time goes: by phase, by what the driver does meanwhile, and by what a worker does within a job.

The sweep is a real one, in this process but for its workers; functions of the driver and of the core are timed from
outside, so nothing of it is in the product. The last part trains the jobs of one round in this process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from harness import cohort, errands, ledger, tasks
from harness.bench.driving import Clock
from harness.bench.measure import Question, run_sweep
from harness.bench.plain import one_thread
from harness.cohort import calibrate, run, training
from harness.cohort.calibration import wait_for
from harness.costs import Costs
from harness.driver import Driver
from harness.executors.local import Local
from harness.packing import Work, pack
from harness.report import build
from harness.sampler import Sampler
from harness.spec import StudentSpec
from harness.tracking import Tracker

PHASES = {
    "search": (Driver, "run"),
    "confirm stage": (Driver, "confirm"),
    "latency": (errands, "measure_latency"),
    "report": (build, "write"),
}
DRIVER = {
    "ask": (Sampler, "ask"),
    "track": (Tracker, "log"),
    "tell": (Sampler, "tell"),
    "wait": (Local, "poll"),
    "persist (write)": (ledger, "write_spec"),
    "persist (read)": (ledger, "read_result"),
}
WORKER = {
    "step": (training, "take_step"),
    "validate": (training, "evaluate"),
    "balance": (training, "pull"),
    "measure at the end": (run, "final_metrics"),
    "data": (run, "load_data"),
    "stack": (run, "stack"),
}
"""What is timed, and where it is looked up."""


def measure(question: Question, folder: Path, cache: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """Seconds by part: `phases` of the whole program, `driver` and `workers` of its trials, of both stages, and `job`.

    `workers` counts process-seconds: `training` is what the records say, the rest is waiting, reading and writing, and
    teachers that controls have of their own.
    """
    tell("shares of a sweep")
    clock, phases, spent = Clock(), Clock(), Counter[str]()

    def counted(stage: Callable[..., str]) -> Callable[..., str]:
        def run(*args: Any) -> str:
            before = clock.read()
            try:
                return stage(*args)
            finally:
                after = clock.read()
                spent.update({part: after[part] - before[part] for part in (*DRIVER, "all")})

        return run

    with timed(clock, DRIVER), timed(phases, PHASES), ExitStack() as stack:
        for name in ("run", "confirm"):
            stack.enter_context(mock.patch.object(Driver, name, counted(getattr(Driver, name))))
        ran = run_sweep(question, folder / "shares", cache, question.study)
    known = phases.read()
    own = {phase: known[phase] for phase in PHASES}
    trials = spent.pop("all")
    busy = sum(record.cost.seconds for _, records in ran.trials for record in records)
    tell("shares of a job")
    return {
        "phases": {**own, "start-up, teacher": max(0.0, ran.wall - sum(own.values()))},
        "driver": {**spent, "other": max(0.0, trials - spent.total())},
        "workers": {"training": busy, "not training": max(0.0, trials * question.jobs - busy)},
        "job": inside(question, [spec for trial, _ in ran.trials for spec in trial.specs], folder, cache),
    }


def inside(question: Question, specs: list[StudentSpec], folder: Path, cache: Path) -> dict[str, float]:
    """Seconds by part of training one round's students here, as one of the sweep's workers would."""
    study = question.study
    own = specs[: study.batch * study.seeds]
    device = question.device
    costs = calibrate(own, folder / "plans", device, question.jobs)
    clock = Clock(partial(wait_for, device))
    tasks.load(own[0].task)
    with one_thread(), timed(clock, WORKER):
        _train(own, costs, question.jobs, cache, device)
    found = clock.read()
    parts = {part: found[part] for part in WORKER}
    return {**parts, "other": max(0.0, found["all"] - sum(parts.values()))}


def _train(specs: list[StudentSpec], costs: Costs, workers: int, cache: Path, device: str) -> None:
    work = [Work(place, spec.width, 1, repr(spec.cohort_key), spec.epochs) for place, spec in enumerate(specs)]
    for job in pack(work, costs, workers):
        cohort.train([specs[place] for place in job.numbers], cache=cache, device=device, how=job.how)


@contextmanager
def timed(clock: Clock, parts: Mapping[str, tuple[Any, str]]) -> Iterator[None]:
    """Count the seconds of these functions, looked up by owner and name, until left."""
    with ExitStack() as stack:
        for part, (owner, name) in parts.items():
            stack.enter_context(mock.patch.object(owner, name, clock.timed(part, getattr(owner, name))))
        yield
