"""What was measured as tables, and in words what the figures do and do not say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

Data = Mapping[str, Any]


def show(console: Console, data: Data) -> None:
    """Every part that was measured, in order."""
    for part, table in TABLES.items():
        if part in data:
            table(console, data[part])
    where = data["machine"]
    machine = ", ".join(where[name] for name in ("accelerator", "processor") if name in where)
    text = f"measured on {machine}, torch {where['torch']}; a median has its least and greatest below it"
    console.print(text, highlight=False)


def _sweep(console: Console, data: Data) -> None:
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
    ours, theirs = last["harness"]["trials"], last["plain"]["trials"]
    console.print(
        f"the harness has {data['jobs']} worker processes, the loop is one process of one thread; {data['seeds']} "
        f"seeds a trial on both sides. The harness ran {ours} trials, controls counted, the loop {theirs}, "
        "extrapolated to the same share of controls. A trial's time is from first ask to last tell. The accuracies are "
        "a sanity check only: the side with more trials has the better chance of a good one.",
        highlight=False,
    )


def _steps(console: Console, rows: Sequence[Data]) -> None:
    table = Table(title="µs that a training step takes a student: medians", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for place, heading in enumerate(("task", "widths", "cohort", "loop", "harness", "ratio", "floor", "over it")):
        table.add_column(heading, justify="left" if place < 2 else "right", no_wrap=True)
    for place, row in enumerate(rows):
        figures = [f"{row[name]['median']:,.0f}" for name in ("plain", "harness")]
        least = [f"{row['floor']['median']:,.0f}", _range(row["times_floor"])] if row["floor"] else ["", ""]
        ends = place + 1 == len(rows) or rows[place + 1]["widths"] != row["widths"]
        names = [row[name] for name in ("task", "widths", "cohort")]
        table.add_row(*names, *figures, _range(row["ratio"]), *least, end_section=ends)
    console.print(table)
    console.print(
        "one process, one thread; a ratio with its least and greatest. floor: the matrix products of the same step and "
        "no more, replayed; over it: how many times as long the step takes. auto: as many cohorts as the calibration "
        "thinks best",
        highlight=False,
    )


def _shares(console: Console, data: Data) -> None:
    names = {
        "phases": "the whole program",
        "workers": "the workers' processes in search and confirm stage",
        "driver": "the driver in search and confirm stage",
        "job": "inside the jobs of one round, one process",
    }
    for name, title in names.items():
        parts, whole = data[name], sum(data[name].values())
        table = Table(title=f"{title}: {whole:.1f} s")
        for heading in ("", "seconds", "share"):
            table.add_column(heading, justify="left" if not heading else "right")
        for part, seconds in sorted(parts.items(), key=lambda item: -item[1]):
            table.add_row(part, f"{seconds:.2f}", f"{seconds / whole:.1%}")
        console.print(table)


def _driver(console: Console, rows: Sequence[Data]) -> None:
    table = Table(title="ms that driving a trial costs, its training aside, by the trials told so far")
    for heading in ("trials", "ask", "persist", "track", "tell", "together", "peak MiB"):
        table.add_column(heading, justify="right")
    for row in rows:
        parts = [f"{1e3 * row[name]:.1f}" for name in ("ask", "persist", "track", "tell")]
        together = 1e3 * sum(row[name] for name in ("ask", "persist", "track", "tell"))
        table.add_row(f"{row['trials']:,}", *parts, f"{together:,.1f}", f"{row['peak_mib']:,.0f}")
    console.print(table)


def _front(console: Console, data: Data) -> None:
    table = Table(title="the plain loop's hypervolume, reached by the harness")
    for heading in ("loop s", "loop trials", "hypervolume", "harness s", "with start-up", "trials", "its last"):
        table.add_column(heading, justify="right")
    for reached in data["repeats"]:
        got = ["never"] * 3
        if reached["seconds"] is not None:
            got = [f"{reached['seconds']:.1f}", f"{reached['seconds_from_start']:.1f}", str(reached["trials"])]
        loop = [f"{reached['loop_seconds']:.0f}", str(reached["loop_trials"]), f"{reached['hypervolume']:.4f}"]
        table.add_row(*loop, *got, f"{reached['final_hypervolume']:.4f}")
    console.print(table)


TABLES: Mapping[str, Callable[[Console, Any], None]] = {
    "sweep": _sweep,
    "steps": _steps,
    "shares": _shares,
    "driver": _driver,
    "front": _front,
}
"""The parts of the benchmark, in order."""


def _range(values: Mapping[str, float]) -> str:
    """The median, and the least and the greatest behind it."""
    low, middle, high = (
        f"{values[name]:.0f}" if values[name] >= 10 else f"{values[name]:.1f}" for name in ("min", "median", "max")
    )
    return f"{middle} [dim]({low}-{high})[/]"


def _figure(values: Mapping[str, float], digits: int = 0) -> str:
    """The median, and below it the least and the greatest."""
    middle, low, high = (f"{values[name]:,.{digits}f}" for name in ("median", "min", "max"))
    return f"{middle}\n[dim]{low} to {high}[/]"
