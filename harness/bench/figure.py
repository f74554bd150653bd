"""What was measured as one figure: a panel for each part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#8c8c8c"
"""Of Okabe and Ito's palette, which colour-blind readers tell apart."""
DRIVER_PARTS = ("ask", "persist", "track", "tell")


def draw(data: Mapping[str, Any]) -> Figure:
    """A figure of the parts that `data` has."""
    parts = [part for part in PANELS if part in data]
    heights = [max(2.0, 0.17 * len(data[part]) + 1.2) if part == "steps" else 2.6 for part in parts]
    figure = Figure(figsize=(8, sum(heights)), layout="constrained")
    axes = figure.subplots(len(parts), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, own in zip(parts, axes, strict=True):
        PANELS[part](own, data[part])
    where = data["machine"]
    place = where.get("accelerator", where["processor"])
    figure.supxlabel(f"{place}, torch {where['torch']}", fontsize=7, color=GREY)
    return figure


def save(data: Mapping[str, Any], path: Path) -> None:
    """Write the figure; the file's ending says in what format."""
    draw(data).savefig(path, dpi=150)


def _sweep(axes: Axes, data: Mapping[str, Any]) -> None:
    for place, (name, colour) in enumerate((("plain", ORANGE), ("harness", BLUE))):
        _point(axes, place, data[name]["per_hour"], colour)
    axes.set_yticks([0, 1], ["plain loop", "harness"])
    axes.set_ylim(1.7, -0.7)
    ratio = data["ratio"]
    axes.set_title(
        f"{data['study']}: {ratio['median']:.1f} times the trials ({ratio['min']:.1f} to {ratio['max']:.1f})"
    )
    axes.set_xlabel("trials an hour (log)")
    axes.set_xscale("log")


def _steps(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    for place, row in enumerate(rows):
        _point(axes, place, row["plain"], ORANGE, None if place else "plain loop")
        _point(axes, place, row["harness"], BLUE, None if place else "harness")
        if row["floor"]:
            label = None if place else "its products alone"
            axes.plot(row["floor"]["median"], place, "|", color="black", ms=7, label=label)
    axes.set_yticks(range(len(rows)), [f"{r['task']}, {r['widths']}, {r['cohort']}" for r in rows], fontsize=6)
    axes.set_ylim(len(rows), -2.5)
    axes.set_xscale("log")
    axes.set_xlabel("µs a student-step (log); rows: task, widths, students of a cohort")
    axes.set_title("A training step")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=7, frameon=False, ncols=3, loc="upper center")


def _shares(axes: Axes, data: Mapping[str, Mapping[str, float]]) -> None:
    for place, parts in enumerate(data.values()):
        left, whole = 0.0, sum(parts.values())
        for index, (name, seconds) in enumerate(sorted(parts.items(), key=lambda item: -item[1])):
            share = seconds / whole
            axes.barh(place, share, left=left, color=BLUE, alpha=max(0.15, 0.9 - 0.2 * index))
            if share > 0.08:
                axes.text(left + share / 2, place, f"{name}\n{share:.0%}", ha="center", va="center", fontsize=6)
            left += share
    axes.set_yticks(range(len(data)), list(data))
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of the time")
    axes.set_title("Where a sweep's time goes")
    axes.invert_yaxis()


def _driver(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    below = [0.0] * len(rows)
    for index, part in enumerate(DRIVER_PARTS):
        own = [1e3 * row[part] for row in rows]
        axes.bar(range(len(rows)), own, bottom=below, color=BLUE, alpha=0.9 - 0.2 * index, label=part)
        below = [low + more for low, more in zip(below, own, strict=True)]
    axes.set_xticks(range(len(rows)), [f"{row['trials']:,}" for row in rows])
    axes.set_xlabel("trials told")
    axes.set_ylabel("ms a trial")
    axes.set_title("Driving a trial, its training aside")
    axes.legend(fontsize=7, frameon=False, ncols=4)


def _front(axes: Axes, data: Mapping[str, Any]) -> None:
    for place, reached in enumerate(data["repeats"]):
        axes.plot(reached["loop_seconds"], place, "o", color=ORANGE, label=None if place else "plain loop")
        if reached["seconds"] is not None:
            axes.plot(reached["seconds"], place, "o", color=BLUE, label=None if place else "harness")
    count = len(data["repeats"])
    axes.set_yticks(range(count), [f"repeat {number + 1}" for number in range(count)])
    axes.set_ylim(count - 0.3, -0.7)
    axes.set_xlabel("seconds to the hypervolume of the plain loop (log)")
    axes.set_xscale("log")
    axes.set_title("A front as good")
    axes.legend(fontsize=7, frameon=False)


def _point(axes: Axes, place: int, values: Mapping[str, float], colour: str, label: str | None = None) -> None:
    """The median, and a line from the least to the greatest."""
    axes.plot([values["min"], values["max"]], [place, place], color=colour, lw=1)
    axes.plot(values["median"], place, "o", color=colour, ms=4, label=label)


PANELS: Mapping[str, Callable[[Axes, Any], None]] = {
    "sweep": _sweep,
    "steps": _steps,
    "shares": _shares,
    "driver": _driver,
    "front": _front,
}
