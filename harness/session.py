"""One run of a sweep: what is looked at before it, and every way in which it may end."""

from __future__ import annotations

import errno
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import wait
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

from rich.console import Console

from harness import cli, errands, manifest, planning, screen
from harness.anew import begin_anew
from harness.aside import aside
from harness.costs import costs_from_json
from harness.course import Session, run
from harness.executors.choice import start
from harness.executors.remote import Desk
from harness.locks import driver_of
from harness.options import Options, check, searches_of
from harness.stopping import Halt, Stop, TimeUp
from harness.values import to_json

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
    session = Session(options, executor, console, stop, imported, time.monotonic())
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


def _looked_at(session: Session) -> Mapping[str, Any]:
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


def _be_its_driver(session: Session, task: Mapping[str, Any]) -> int:
    """Run the study as its only driver; `task` is what a worker says of it."""
    options = session.options
    with driver_of(options.name, options.study_dir, options.storage) as held:
        try:
            Desk.clear(options.study_dir)
            return run(replace(session, held=held), task)
        except OSError as error:
            raise Halt(f"{error}; {MENDS.get(error.errno or 0, 'make room, or let it be written to')}") from None


def _open(session: Session) -> None:
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


def _leave(session: Session, code: int) -> None:
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


def _show_plan(session: Session) -> int:
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
