"""`python -m harness.verify`: whether Optuna, MLflow and the trial directories agree, and mending where they do not."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from harness import cli
from harness.outages import StoreError
from harness.urls import DATABASES, SERVERS, check_url, sqlite_url, storage_of
from harness.verify.fault import Fault

if TYPE_CHECKING:
    from harness.verify.check import Findings, Place, Watch

MOST_NAMED = 5
"""How many leftover files are named."""
app = cli.program()


@cli.command(app)
def main(
    study: Annotated[str, typer.Argument(help="A study's name, or the path of its .py file.")] = cli.DEFAULT_STUDY,
    out: Annotated[Path, typer.Option(help="The folder that holds the results of all studies.")] = cli.OUT,
    storage: Annotated[
        str | None,
        typer.Option(
            envvar="OPTUNA_STORAGE", help="The sweep's Optuna storage. Default: sqlite in the study's folder."
        ),
    ] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(envvar="MLFLOW_TRACKING_URI", help="The sweep's MLflow server or database. Default: in --out."),
    ] = None,
    mend: Annotated[bool, typer.Option("--repair", help="Finish what can be finished without training.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but faults and errors.")] = False,
) -> int:
    """Hold Optuna, MLflow and the trial directories of a study against each other, trial by trial.

    A trial has one directory, a result of its own students, and one finished run with every point of its curves; Optuna
    has the values that follow. Nothing is RUNNING when no sweep is. Each fault is a line that says what to do. Nothing
    is written, so it is safe at any time; while a sweep runs, what it has told is checked.

    [b]--repair[/] tells trials whose result is there, logs missing, deleted and unequal runs from the ledger, and puts
    damaged results aside. It trains nothing, changes no trial that was told, and is refused while a sweep runs.

    Exit code 0: no fault, or none left. 1: faults. 2: there is no such study or store.

    [b]Examples[/]

      python -m harness.verify

      python -m harness.verify my_study.py --repair

      python -m harness.verify digits --storage postgresql://me@host/db \\
          --tracking-uri http://host:5000
    """
    # These take a second to import: a Ctrl-C meanwhile is for `cli.run` to catch.
    from harness.kept import read_study
    from harness.locks import driver_of
    from harness.options import stores
    from harness.tracking import Tracker
    from harness.verify.check import Place, check
    from harness.verify.repair import repair

    check_url("--storage", storage, DATABASES)
    check_url("--tracking-uri", tracking_uri, (*DATABASES, *SERVERS))
    folder = cli.results_of(study, out)
    place = Place(
        folder,
        storage_of(folder, storage),
        tracking_uri or sqlite_url(out / "mlflow.db"),
        "",
    )
    place = replace(place, command=_command(place, out, stores(storage, tracking_uri)))
    console = Console()
    if not mend:
        with _bar(console, quiet=quiet) as bar:
            found = check(place, _watch(bar))
        return _conclude(console, found, 0, quiet=quiet)

    def say(fault: Fault) -> None:
        _print(console, fault.line(mended=True))

    with driver_of(place.name, place.study_dir, storage), _bar(console, quiet=quiet) as bar:
        read_study(place.storage, place.name)  # which says what is wrong before anything is made
        artifacts = None if place.tracking.startswith(("http://", "https://")) else (out / "mlartifacts").absolute()
        try:
            found, num_mended = repair(place, Tracker(place.tracking, place.name, artifacts), say, _watch(bar))
        except StoreError as error:
            raise ValueError(f"tracking failed meanwhile, what was mended stays so: {error}") from None
    return _conclude(console, found, num_mended, quiet=quiet)


def _command(place: Place, out: Path, said: Sequence[str]) -> str:
    """The command that sweeps the study."""
    from harness.options import again

    seeds = place.manifest.get("confirm_seeds")
    which = again(place.manifest, place.study_dir, len(seeds) if isinstance(seeds, list) else None)
    own_out = [] if out == cli.OUT else ["--out", str(out)]
    return shlex.join([*which, *own_out, *said])


def _conclude(console: Console, found: Findings, num_mended: int, *, quiet: bool) -> int:
    """The faults that are left, a line each, and what it comes to; gives the exit code."""
    for fault in found.faults:
        _print(console, fault.line())
    num = len(found.faults)
    if quiet:
        return int(num > 0)
    if found.is_running:
        _print(console, "a sweep is running: what it has told so far was checked")
    for folder in found.strangers:
        said = "its storage did not know these trials, and they were kept; to go on with them put their database back"
        _print(console, f"{folder}: {said}")
    if found.leftovers:
        named = ", ".join(map(str, found.leftovers[:MOST_NAMED]))
        more = f" and {len(found.leftovers) - MOST_NAMED} more" if len(found.leftovers) > MOST_NAMED else ""
        _print(console, f"nothing reads these any more, they may be deleted: {named}{more}")
    counted = f"{len(found.study.trials)} trials, {found.num_runs} runs, {found.num_students} students"
    mended = f"{num_mended} mended, " if num_mended else ""
    left = " left" if num_mended else ""
    _print(console, f"{counted}: {mended}{'no fault' if not num else '1 fault' if num == 1 else f'{num} faults'}{left}")
    return int(num > 0)


def _print(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, markup=False, highlight=False)


def _bar(console: Console, *, quiet: bool) -> Progress:
    columns = (SpinnerColumn(), TextColumn("trials"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)


def _watch(bar: Progress) -> Watch:
    row = bar.add_task("", total=None)
    return lambda done, total: bar.update(row, completed=done, total=total)


if __name__ == "__main__":
    cli.run(app)
