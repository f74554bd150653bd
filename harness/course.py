"""The course of a sweep that is its study's only driver: teacher, trials, confirm stage, report, and MLflow's last."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType

from harness import errands, files, ledger, manifest, screen
from harness.arms import targets
from harness.aside import aside
from harness.driver import Driver, Progress
from harness.executors import Executor
from harness.goals import Plan
from harness.locks import Held
from harness.options import Options
from harness.outages import Owed, Patience, StoreError
from harness.runs import in_common
from harness.sampler import Sampler
from harness.stopping import Halt, Stop, TimeUp
from harness.storage import AnotherStudy
from harness.tracking import VIEWS, Tracker
from harness.values import digest

if TYPE_CHECKING:
    from harness.report.findings import Report

SILENT = 10.0
"""Seconds after which it is said what is waited for."""
ENDS = {"complete": "FINISHED", "timeout": "KILLED", "failures": "FAILED"}
"""The parent run's status by why a sweep stopped."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Session:
    """What one run of the program works with. `held` is what it holds as the study's only driver."""

    options: Options
    executor: Executor
    console: Console
    stop: Stop
    imported: Future[None]
    started: float
    held: Held = field(default_factory=Held)

    @property
    def deadline(self) -> float:
        """The `time.monotonic` at which its time is up."""
        return self.started + self.options.timeout if self.options.timeout else math.inf


def run(session: Session, task: Mapping[str, Any]) -> int:
    """Train the teacher and the trials, and write the report."""
    options, console = session.options, session.console
    own = [task["num_params"]] if callable(options.study.task) else []  # a module may come from another file
    config_hash = digest([options.study.identity(), task["hashes"], task["teacher_key"], *own])
    said = manifest.manifest_of(options, task, config_hash)
    sampler = _open_study(session, config_hash)
    manifest.begin(options)
    opening = aside(Tracker, options.tracking, options.name, options.artifacts)
    teacher, costs = errands.prepare(options, session.executor, console, opening, session.deadline)
    tracker = _opened(opening, session.deadline)
    said["teacher"] = teacher
    if weak := manifest.said_weak(teacher, task["num_classes"]):
        log.warning("%s", weak)
    alone = manifest.said_alone(options.study.family, task["alone"])
    how = f"as measured on {costs.where}" if costs else "by a fixed rule"
    said["cohorts"] = f"{how}; {alone}" if alone else how
    manifest.write_manifest(options, said, time.monotonic() - session.started)
    plan = Plan(
        options.name,
        options.study,
        options.task,
        config_hash,
        options.study_dir,
        targets(options.study, options.trials),
        options.deterministic,
        session.deadline,
        costs,
        options.jobs,
        60 * options.limit,
    )
    owed = Owed(tracker)
    with _leaving(tracker):
        why = _drive(session, plan, sampler, owed, said)
        written, said_last = _report(session)
        metrics = manifest.sweep_metrics(written, said, session.started)
        is_logged = _end_run(options, owed, written, metrics, why)
    console.print(said_last)
    screen.say_goodbye(options, console, why, _pages(tracker), confirmed=len(written.confirmed.trials) > 0)
    if len(owed):
        number = len(owed)
        what = "1 run is" if number == 1 else f"{number} runs are"
        raise Halt(f"{what} not in MLflow yet: {owed.why}; the same command logs what is missing")
    if not is_logged:
        raise Halt("the report is not with its run in MLflow, and the same command logs it; the folder has it")
    return 1 if why == "failures" else 0


def _opened(opening: Future[Tracker], deadline: float) -> Tracker:
    """The tracking store. Raises `TimeUp` where another process makes its tables until beyond the deadline, and what
    opening it raises."""
    said_at = time.monotonic() + SILENT
    while not wait([opening], timeout=0.2).done:
        if time.monotonic() > deadline + errands.LATE:
            raise TimeUp("its tracking store was open")
        if time.monotonic() > said_at:
            log.warning("the tracking store is not open yet; it is waited for")
            said_at = math.inf
    return opening.result()


def _open_study(session: Session, config_hash: str) -> Sampler:
    """The study in its storage; directories of a study that its storage does not know are kept aside."""
    options = session.options
    patience = Patience("the storage", session.held, lambda: bool(session.stop), session.deadline)
    shared = options.storage is not None
    try:
        url, study = options.storage_url, options.study
        sampler = Sampler(url, options.name, study, config_hash, shared=shared, patience=patience)
    except AnotherStudy as another:
        raise ValueError(f"{another}. {manifest.said_changed(options, another.config_hash)}") from None
    if not sampler.has_trials and ledger.numbers(options.study_dir):
        files.put_aside(options.study_dir / "trials", "the study is new to its storage, and there are trials on disk")
    return sampler


def _drive(session: Session, plan: Plan, sampler: Sampler, owed: Owed[Tracker], said: dict[str, Any]) -> str:
    """Reach the plan's targets; gives why it stopped. `said` is what the manifest says."""
    options, tracker, stop = session.options, owed.store, session.stop
    elapsed = manifest.Elapsed(options, said, session.started)
    try:
        common = in_common(said, sampler.study_id)
        logged = tracker.begin(common, manifest.sweep_params(options, said["teacher"]))
        with screen.bar(session.console, "students of every trial") as bar, stop.waits():

            def watch(done: Progress) -> None:
                screen.show(bar, done)
                elapsed.note()

            driver = Driver(plan, sampler, owed, session.executor, watch, lambda: bool(stop))
            why = driver.run(logged)
        if why == "complete" and options.study.confirm and not stop:
            why = _confirm(session, driver, elapsed)
        if why == "complete" and not stop:
            said["teacher"] = errands.with_all_teachers(options, session.executor, said["teacher"], session.deadline)
        if stop:
            raise KeyboardInterrupt
    except StoreError as error:
        raise Halt(f"tracking failed before the first trial: {error}") from None
    finally:
        elapsed.note(ended=True)
    return why


def _confirm(session: Session, driver: Driver, elapsed: manifest.Elapsed) -> str:
    """The search is complete: train what it chose on fresh seeds; gives why that stopped."""
    from harness.confirm import configurations  # pandas takes a second to import

    options = session.options
    chosen = configurations(options.study_dir, options.study.confirm)
    if not chosen:
        return "complete"
    with screen.bar(session.console, "confirmed on fresh seeds") as bar, session.stop.waits():

        def watch(_: Progress) -> None:
            screen.show_confirmed(bar, driver.num_told(chosen), len(chosen))
            elapsed.note()

        driver.watch = watch
        why = driver.confirm(chosen)
    if why == "complete":
        widths = {params.get("width", options.study.widths[0]) for params in chosen.values()}
        errands.measure_latency(options, session.executor, session.console, widths, session.stop, session.deadline)
    return why


def _report(session: Session) -> tuple[Report, RenderableType]:
    """Write the report; gives it, and what is printed of it."""
    session.imported.result()
    from harness.report.build import write
    from harness.report.closing import closing_table

    written = write(session.options.study_dir)
    return written, closing_table(written)


@contextmanager
def _leaving(tracker: Tracker) -> Iterator[None]:
    """However this ends before its end, the sweep's own run does not stay RUNNING."""
    try:
        yield
    except BaseException:
        with suppress(StoreError):
            tracker.leave()
        raise


def _end_run(options: Options, owed: Owed[Tracker], written: Report, metrics: Mapping[str, float], why: str) -> bool:
    """Give tracking what it is owed, and the parent run its report; whether it took both."""
    tracker = owed.store
    try:
        if owed.settle():
            tracker.reopen()
            tracker.end(options.study_dir, written.files, manifest.note(options, _pages(tracker)), metrics, ENDS[why])
            return True
    except StoreError as error:
        log.warning("the report is not with its run: %s", error)
    with suppress(StoreError):
        tracker.leave()
    return False


def _pages(tracker: Tracker) -> dict[str, str]:
    return {name: tracker.page_of(name) for name in VIEWS}
