"""One run of a sweep: its checks, its teacher, its trials, its report, and every way in which it may end."""

from __future__ import annotations

import errno
import logging
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType

from harness import cli, errands, ledger, manifest, planning, screen
from harness.anew import begin_anew
from harness.arms import targets
from harness.aside import aside
from harness.costs import costs_from_json
from harness.driver import Driver, Progress
from harness.executors import Executor
from harness.executors.choice import start
from harness.executors.remote import Desk
from harness.goals import Plan
from harness.locks import Held, driver_of
from harness.options import Options, check, searches_of
from harness.outages import Owed, Patience, StoreError
from harness.runs import in_common
from harness.sampler import Sampler
from harness.spec import digest, to_json
from harness.stopping import Halt, Stop, TimeUp
from harness.storage import AnotherStudy
from harness.tracking import VIEWS, Tracker

if TYPE_CHECKING:
    from harness.report.findings import Report

LATER = ("harness.tracking.loaded", "harness.importances", "harness.report.build", "harness.report.closing")
"""What takes seconds to import: it is, while workers import what they need."""
MENDS = dict.fromkeys((errno.EMFILE, errno.ENFILE), "allow more open files (ulimit -n)") | {
    errno.ENOENT: "put back what was moved or deleted while the sweep ran"
}
IMPORTS = 3.0
"""Seconds that an import under way is given when a sweep ends."""
OPENS = 5.0
"""Seconds that what runs the jobs, and was asked for, is given to be there when a sweep is to end."""
SAYS = 2.0
"""Seconds that a terminal has to take the last words of a sweep that leaves at once."""
SILENT = 10.0
"""Seconds after which it is said what is waited for."""
ENDS = {"complete": "FINISHED", "timeout": "KILLED", "failures": "FAILED"}
"""The parent run's status by why a sweep stopped."""
log = logging.getLogger(__name__)


def sweeps(options: Options) -> int:
    """Search a study several times; the exit code of the first that does not end well, else 0."""
    every, started = searches_of(options), time.monotonic()
    for each in every:
        check(each)
    anew = options.new  # still to be done
    for place, each in enumerate(every, 1):
        left = None if options.timeout is None else options.timeout - (time.monotonic() - started)
        if left is not None and left <= 0:
            to_do = options if anew else options.begun
            screen.say_time_is_up(to_do, Console(quiet=options.quiet), f"search {place} of {len(every)}")
            break
        Console(quiet=options.quiet).print(f"[b]search {place} of {len(every)}[/], seed {each.study.seed}: {each.name}")
        code, anew = _sweep(replace(each if anew else each.begun, timeout=left))
        if code:
            return code
    return 0


def sweep(options: Options) -> int:
    """Run a study and give the exit code. Raises `ValueError`, with everything as it was, for what cannot be run."""
    return _sweep(options)[0]


def _sweep(options: Options) -> tuple[int, bool]:
    """The exit code, and whether the study is still to be begun anew."""
    console = Console(quiet=options.quiet)
    said = (options.plans_dir if options.plan else options.study_dir) / "worker.log"
    executor = start(
        options.executor, options.jobs, options.out / "teachers", options.device, said, options.executor_options
    )

    def order() -> None:
        executor.kill()
        screen.put_cursor_back(console)

    stop, imported = Stop(order), aside(_import, LATER)
    session = _Session(options, executor, console, stop, imported, time.monotonic())
    with stop.listening():
        try:
            task = _looked_at(session)
            if options.new and not options.plan:
                begin_anew(options, console)
                options = options.begun
            code = _show_plan(session) if options.plan else _be_its_driver(replace(session, options=options), task)
        except KeyboardInterrupt:
            with suppress(KeyboardInterrupt):  # from a terminal that takes nothing any more
                screen.say_how_to_go_on(options, console)
            code = stop.code
        except TimeUp as up:
            screen.say_time_is_up(options, console, str(up))
            code = 0
        except Halt as halt:
            cli.say_error(f"stopped: {halt}")
            screen.say_how_to_go_on(options, console)
            code = 1
        except SystemExit:  # rich's word for it
            cli.say_error(f"stopped: nobody reads what is printed any more; it goes on with {options.command}")
            code = 1
        finally:
            with stop.waits():  # a signal that comes now is no reason to leave workers behind
                executor.close()
                wait([imported], timeout=IMPORTS)
        if stop and code == 0 and options.first is not None:  # it came at the very end, and there are other searches
            screen.say_how_to_go_on(options, console)
    return stop.code or code, options.new


def _import(names: Sequence[str]) -> None:
    """Import modules, one after the other."""
    for name in names:
        import_module(name)


@dataclass(frozen=True)
class _Session:
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


def _looked_at(session: _Session) -> Mapping[str, Any]:
    """What a worker says of the study, which it checks."""
    options = session.options
    probes = [to_json(spec) for spec in options.study.probes(options.task)]
    _open(session)
    task = errands.result(session.executor, "describe", {"specs": probes}, deadline=session.deadline)
    if alone := manifest.said_alone(options.study.family, task["alone"]):
        session.console.print(alone, highlight=False, markup=False, soft_wrap=True)
    for warning in task["warned"] if not options.plan else ():
        log.warning("%s", warning)
    return task


def _be_its_driver(session: _Session, task: Mapping[str, Any]) -> int:
    """Run the study as its only driver; `task` is what a worker says of it."""
    options = session.options
    with driver_of(options.name, options.study_dir, options.storage) as held:
        try:
            Desk.clear(options.study_dir)
            return _run(replace(session, held=held), task)
        except OSError as error:
            raise Halt(f"{error}; {MENDS.get(error.errno or 0, 'make room, or let it be written to')}") from None


def _open(session: _Session) -> None:
    """Reach what runs the jobs. A signal or a time that is up meanwhile waits for the end of it, for Ray that is cut
    off as it starts crashes as the program ends; and where that does not come, the process is left as it stands."""
    stop = session.stop
    with stop.waits(), stop.watched(OPENS, session.deadline + errands.LATE, partial(_leave, session)):
        try:
            session.executor.open()
        except Exception:
            if not stop:  # else what was to be reached has taken the signal, too
                raise
    if stop:
        raise KeyboardInterrupt


def _leave(session: _Session, code: int) -> None:
    """Say how to go on, and end the process at once: there is nothing yet that could be lost."""

    def say() -> None:
        if code:
            screen.say_how_to_go_on(session.options, session.console)
        else:
            screen.say_time_is_up(session.options, session.console, "what runs its jobs was reached")
        sys.stdout.flush()

    try:
        wait([aside(say)], timeout=SAYS)  # a terminal may stand still
        session.executor.kill()
    finally:
        os._exit(code)


def _run(session: _Session, task: Mapping[str, Any]) -> int:
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


def _open_study(session: _Session, config_hash: str) -> Sampler:
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
        ledger.put_aside(options.study_dir / "trials", "the study is new to its storage, and there are trials on disk")
    return sampler


def _drive(session: _Session, plan: Plan, sampler: Sampler, owed: Owed[Tracker], said: dict[str, Any]) -> str:
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


def _confirm(session: _Session, driver: Driver, elapsed: manifest.Elapsed) -> str:
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


def _report(session: _Session) -> tuple[Report, RenderableType]:
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


def _show_plan(session: _Session) -> int:
    """Measure what a step costs, where it is not known, and print what follows from it."""
    options = session.options
    with screen.bar(session.console, "widths measured") as bar:
        row = bar.add_task("", total=None, note="")

        def watch(said: Mapping[str, Any]) -> None:
            bar.update(row, completed=said["done"], total=said["total"])

        body = errands.calibration(options)
        said = errands.result(session.executor, "calibrate", body, watch, session.deadline, "steps were measured")
        costs = costs_from_json(said)
    found = planning.page(options.name, options.study, options.task, options.trials, costs, options.jobs)
    Console().print(found)  # it was asked for, also by who wants quiet
    return 0
