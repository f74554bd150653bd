"""What driving a trial costs: everything but its training, on real stores, with a trainer that costs nothing.

One study grows in a process of its own, whose memory is then the driver's alone. Every trial is a search trial: those
are dearer to ask for than controls. To time another part of the driver, add its owner and name to `measure_here`.

`python -m harness.bench.driving STUDY FOLDER COUNT ...` is that process; it writes its findings as JSON lines.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness import cli
from harness.arms import targets
from harness.driver import Driver, Progress
from harness.executors.inline import Inline
from harness.executors.trials import Training, run_cohort
from harness.goals import Plan
from harness.records import Cost, Curve, Record
from harness.runs import Sweep
from harness.sampler import Sampler
from harness.space import Study
from harness.spec import PLAIN, StudentSpec
from harness.study_files import load_study
from harness.tracking import Tracker
from harness.values import digest, to_json

COUNTS = (10, 100, 1000, 5000)
WINDOW = 100
ROUND = 10
"""Trials a round, so that every count is the end of one and every window has as many asks as tells."""


@dataclass(frozen=True)
class Driving:
    """The driver's seconds a trial around one count of trials, by part, and its peak memory up to there.

    `ask` proposes and keeps a trial, `track` logs its MLflow run, `tell` commits it; `persist` is the rest: writing its
    directory, reading its result, forming cohorts. Means over the last `window` trials. `peak_mib` is the process's
    greatest resident set so far, nan on systems that do not tell.
    """

    trials: int
    window: int
    ask: float
    persist: float
    track: float
    tell: float
    peak_mib: float

    @property
    def seconds(self) -> float:
        """All parts together."""
        return self.ask + self.persist + self.track + self.tell


def measure(study: str, folder: Path, counts: Sequence[int], tell: Callable[[int], None]) -> list[Driving]:
    """Drive a study, by name or path, up to the greatest of `counts` trials in a process of its own.

    `folder` takes the stores; `tell` is called with the trials done. Raises `ValueError` for a count that is not of
    whole rounds, and where the process fails.
    """
    for count in counts:
        check(count)
    command = [sys.executable, "-m", "harness.bench.driving", study, str(folder), *map(str, sorted(set(counts)))]
    found = []
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **threads}) as process:
        assert process.stdout is not None
        for line in process.stdout:
            news = json.loads(line)
            if "done" in news:
                tell(news["done"])
            else:
                found.append(Driving(**news))
    if process.returncode:
        raise ValueError(f"the process that drives {study!r} left with code {process.returncode}")
    return found


def check(count: int) -> None:
    """Raise `ValueError` for a count that is not of whole rounds."""
    if count < ROUND or count % ROUND:
        raise ValueError(f"a count of {count} trials is no multiple of {ROUND}, the trials of a round")


def measure_here(
    name: str,
    study: Study,
    folder: Path,
    counts: Sequence[int],
    tell: Callable[[int], None],
    found: Callable[[Driving], None],
) -> None:
    """Drive a study in this process; `found` is called with what each count cost as soon as it is reached."""
    study = replace(study, controls=0, batch=ROUND)
    config_hash = digest(study.identity())
    sampler = Sampler(f"sqlite:///{folder / 'study.db'}", name, study, config_hash, shared=False)
    tracker = Tracker(f"sqlite:///{folder / 'mlflow.db'}", name, folder / "mlartifacts")
    dataset = {"name": name, "digest": config_hash, "source": "none"}
    tags = {f"version.{number}": "1.0" for number in range(8)}  # as many as a sweep's
    logged = tracker.begin(Sweep(name, sampler.study_id, dataset, tags, f"{name}.py"), {"family": study.family})
    clock = Clock()
    for part, owner, method in (("ask", sampler, "ask"), ("track", tracker, "log"), ("tell", sampler, "tell")):
        setattr(owner, method, clock.timed(part, getattr(owner, method)))
    marks = {0: clock.read()}

    def watch(progress: Progress) -> None:
        if progress.done in marks:
            return
        marks[progress.done] = clock.read()
        tell(progress.done)
        if progress.done in counts:
            window = min(WINDOW, progress.done)
            found(_driving(progress.done, window, marks[progress.done - window], marks[progress.done]))

    training = Training[None](
        lambda specs, *_: [([fake_record(spec) for spec in specs], [])], lambda *_: None, lambda *_: None
    )

    def work(kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
        assert kind == "cohort"
        run_cohort([Path(folder) for folder in body["folders"]], None, training)
        return {}

    task = study.task if isinstance(study.task, str) else name
    plan = Plan(name, study, task, config_hash, folder, targets(study, max(counts)), deterministic=True)
    Driver(plan, sampler, tracker, Inline(clock.timed("train", work)), watch).run(logged)


def _driving(count: int, window: int, before: Mapping[str, float], after: Mapping[str, float]) -> Driving:
    """What the clock went on by between two readings."""
    spent = {part: (after[part] - before[part]) / window for part in ("all", "ask", "track", "tell", "train")}
    persist = spent["all"] - spent["ask"] - spent["track"] - spent["tell"] - spent["train"]
    return Driving(count, window, spent["ask"], persist, spent["track"], spent["tell"], peak_mib())


class Clock:
    """Seconds by part since it was made; a part is over when `finished` says so."""

    def __init__(self, finished: Callable[[], None] = lambda: None) -> None:
        self._finished = finished
        self._start = time.perf_counter()
        self._spent: defaultdict[str, float] = defaultdict(float)

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time counted."""

        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._finished()
                self._spent[part] += time.perf_counter() - start

        return run

    def read(self) -> Mapping[str, float]:
        """Seconds by part, and `all` of them."""
        return defaultdict(float, self._spent, all=time.perf_counter() - self._start)


def peak_mib() -> float:
    """The greatest resident set that this process has had, in MiB; nan where the system does not tell.

    Not `getrusage`: its figure for a child process begins with its parent's.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return math.nan
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), math.nan)


def fake_record(spec: StudentSpec) -> Record:
    """A record as long as a real one, that depends on its spec alone and costs nothing."""
    luck = int(digest(to_json(spec)), 16) / 16**16
    best = (
        0.9 + 0.04 * math.log2(spec.width) / 3 - 0.1 * (spec.alpha - 0.3) ** 2 - 0.02 * abs(math.log10(spec.lr / 0.02))
    )
    accuracy = best + 0.01 * luck
    shape = [1 - math.exp(-(epoch + 1) / 3) for epoch in range(spec.epochs)]
    falling, rising = tuple(2.3 - 2 * s for s in shape), tuple(accuracy * s / shape[-1] for s in shape)
    kd = () if spec.form == PLAIN else falling
    metrics = {"val_accuracy": accuracy, "val_loss": falling[-1], "val_agreement": accuracy, "val_kl": 0.1}
    metrics |= {"train_accuracy": accuracy, "train_loss": falling[-1]}
    curve = Curve(falling, falling, kd, falling, rising)
    return Record(spec, "ok", curve, metrics, 100 * spec.width, 1000 * spec.width, Cost(0.1, 1e6, 12, "cpu"))


def main(study: str, folder: str, counts: Sequence[str]) -> None:
    """Measure here, and write progress and findings as JSON lines."""
    name, _, found = load_study(study, cli.STUDIES)

    def write(news: Mapping[str, Any]) -> None:
        sys.stdout.write(json.dumps(news) + "\n")
        sys.stdout.flush()

    numbers = [int(count) for count in counts]
    measure_here(
        name, found, Path(folder), numbers, lambda done: write({"done": done}), lambda driving: write(asdict(driving))
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
