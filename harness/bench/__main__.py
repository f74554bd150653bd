"""`python -m harness.bench`: trials an hour of the harness and of a plain hand-written loop, in one run."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from harness import cli, ledger, tasks
from harness.bench.measure import AT_LEAST, Question, as_json, compare, cores
from harness.space import load_study

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
def main(
    study: Annotated[
        str, typer.Argument(help="A study's name in [b]studies/[/], or a path to a .py file that defines STUDY.")
    ] = cli.DEFAULT_STUDY,
    trials: Annotated[
        int | None, typer.Option(help="Search trials of the harness; its controls come on top. Default: the study's.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(help=f"How long the plain loop may run in a repeat; it trains at least {AT_LEAST} trials.")
    ] = 30.0,
    repeats: Annotated[int, typer.Option(help="How often both sides are measured, in alternation.")] = 3,
    jobs: Annotated[int | None, typer.Option(help="Worker processes of the harness. Default: one a core.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write all that was measured to this file.")] = None,
) -> None:
    """Compare trials an hour: the harness, and the loop that a careful user would write by hand for the same study.

    Both sides search the same space, train the same networks for as many epochs, seeds and controls, and log to Optuna
    and MLflow on SQLite. The loop ([b]harness/bench/plain.py[/]) trains one student at a time in one process, with a
    DataLoader, and runs the teacher on every batch. Start-up, imports and the teacher's training count on neither
    side. Everything happens in a temporary folder. Timings are worth only as much as the machine is idle.

    [b]Examples[/]

      python -m harness.bench                              the default study, about five minutes

      python -m harness.bench digits --json bench.json     the smoke test's, with every figure in a file

      python -m harness.bench --jobs 1                     one process against one process
    """
    name, file, found = load_study(study, cli.STUDIES)
    numbers = {
        "--trials": found.trials if trials is None else trials,
        "--repeats": repeats,
        "--jobs": cores() if jobs is None else jobs,
    }
    for option, number in numbers.items():
        if number < 1:
            raise ValueError(f"{option} {number} is out of range; it must be at least 1")
    if not 0 < seconds < float("inf"):
        raise ValueError(f"--seconds {seconds:g} is out of range; it must be above 0 seconds")
    if json is not None and (json.is_dir() or not json.absolute().parent.is_dir()):
        raise ValueError(f"--json {str(json)!r} is no place for a file; its folder must exist")
    task = tasks.load(found.task if isinstance(found.task, str) else str(file))
    question = Question(name, file, found, task, numbers["--trials"], numbers["--jobs"], seconds)
    console = Console()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        with Console(stderr=True).status("") as status:
            measured = compare(question, repeats, Path(folder), lambda what: status.update(f"measuring: {what}"))
        data = as_json(question, measured)
    if json is not None:
        ledger.write_json(json, data)
    show(console, data)


def show(console: Console, data: Mapping[str, Any]) -> None:
    """Both sides as a table, and in words what the figures do and do not say."""
    plain, harness = data["plain"], data["harness"]
    table = Table(title=f"{data['study']}: median of {len(data['repeats'])} (least to greatest)", show_lines=True)
    for heading in ("", "plain loop", "harness", "ratio"):
        table.add_column(heading, justify="left" if not heading else "right")
    table.add_row("trials an hour", *(_figure(s["per_hour"]) for s in (plain, harness)), _figure(data["ratio"], 1))
    table.add_row("  for each process", _figure(plain["per_hour"]), "", _figure(data["ratio_per_process"], 1))
    cached = _figure(plain["per_hour_cached"])
    table.add_row("  were the loop's teacher free", cached, "", _figure(data["ratio_teacher_cached"], 1))
    table.add_row("µs a student-step, per process", *(_figure(s["us_step"]) for s in (plain, harness)), "")
    table.add_row("µs a student-step, all counted", *(_figure(s["us_all"]) for s in (plain, harness)), "")
    table.add_row("seconds, start-up and report too", *(_figure(s["wall"], 1) for s in (plain, harness)), "")
    table.add_row("best val accuracy", *(_figure(s["best_val_accuracy"], 4) for s in (plain, harness)), "")
    console.print(table)
    last, parts = data["repeats"][-1], data["repeats"][-1]["plain"]["parts"]
    spent = ", ".join(f"{name} {value / sum(parts.values()):.0%}" for name, value in parts.items())
    console.print(f"the loop's time (last repeat): {spent}", highlight=False)
    where = data["machine"]
    console.print(
        f"measured on {where['cores']} cores, torch {where['torch']}, one thread a process; the harness with "
        f"{where['jobs']} worker processes, the loop with one, {data['seeds']} seeds a trial on both sides",
        highlight=False,
    )
    console.print(
        f"the harness ran {last['harness']['trials']} trials, controls counted; the loop {last['plain']['trials']}, "
        "extrapolated to the same share of controls. A trial's time is from first ask to last tell. The accuracies are "
        "a sanity check only: the side with more trials has the better chance of a good one.",
        highlight=False,
    )


def _figure(values: Mapping[str, float], digits: int = 0) -> str:
    """The median, and below it the least and the greatest."""
    middle, low, high = (f"{values[name]:,.{digits}f}" for name in ("median", "min", "max"))
    return f"{middle}\n[dim]{low} to {high}[/]"


if __name__ == "__main__":
    cli.run(app)
