"""What a sweep shows: progress bars, the front at its end, and how to go on."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from contextlib import suppress
from select import select

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from harness import cli
from harness.driver import Progress as Done
from harness.options import Options
from harness.urls import redact


def bar(console: Console, title: str) -> Progress:
    """A progress bar of one row."""
    return Progress(
        SpinnerColumn(),
        TextColumn(f"[b]{title}[/]"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=console.quiet,
    )


def show(bar: Progress, done: Done) -> None:
    """How far the trials are."""
    task = bar.task_ids[0] if bar.task_ids else bar.add_task("", note="")
    failed = f", {done.failed} failed" if done.failed else ""
    failed = (f", {done.pruned} pruned" if done.pruned else "") + failed
    note = f"best val accuracy {done.best:.4f}{failed}" if done.best else "first trials are being trained"
    bar.update(task, completed=done.done, total=done.total, note=note)


def show_confirmed(bar: Progress, done: int, count: int) -> None:
    """How many of the configurations are confirmed, or given up."""
    task = bar.task_ids[0] if bar.task_ids else bar.add_task("", note="the test split is read")
    bar.update(task, completed=done, total=count)


def put_cursor_back(console: Console) -> None:
    """In a signal's handler: without rich's lock, which may be held, and where the terminal takes it at once."""
    with suppress(OSError, ValueError):
        if console.is_terminal and select([], [sys.stdout.fileno()], [], 0)[1]:
            os.write(sys.stdout.fileno(), b"\x1b[?25h")


def say_how_to_go_on(options: Options, console: Console) -> None:
    """The command that goes on with what was stopped."""
    if not options.plan:
        console.print("\nstopped; nothing is lost. It goes on from here with")
    else:
        console.print("\nstopped; what was not yet measured is measured by the same command")
    console.print(f"[b]{escape(options.command)}[/]", soft_wrap=True)


def say_time_is_up(options: Options, console: Console, before: str) -> None:
    """That the sweep ends before something, and the command that goes on with it."""
    console.print(f"the time was up before {before}. It goes on with\n[b]{escape(options.command)}[/]", soft_wrap=True)


def say_goodbye(options: Options, console: Console, why: str, pages: Mapping[str, str], *, confirmed: bool) -> None:
    """What to do next: `pages` are those of the UI, by name; without anything `confirmed` nothing can be taken."""
    if why == "timeout":
        say_time_is_up(options, console, "the budget")
    if why == "failures":
        cli.say_error(f"stopped: too many trials failed; see {options.study_dir / 'worker*.log'}")
    out = "" if options.out == cli.OUT else f" --out {shlex.quote(str(options.out))}"
    console.print(
        f"report   {options.study_dir / 'report.html'}; summary.md and figures beside it", highlight=False, markup=False
    )
    console.print(f"again    python -m harness.report {options.name}{out}", highlight=False, markup=False)
    if confirmed:
        console.print(
            f"take     python -m harness.recommend {options.name} --max-params N{out}", highlight=False, markup=False
        )
    uri = redact(options.tracking)
    server = uri if uri.startswith("http") else "http://127.0.0.1:5000"
    if server != uri:
        console.print(
            f"runs     mlflow ui --backend-store-uri {shlex.quote(uri)}", highlight=False, markup=False, soft_wrap=True
        )
    for name, page in pages.items():
        console.print(f"         {name}: {server}{page}", highlight=False, markup=False, soft_wrap=True)
