"""Accuracy against a student's size: the question of every study in one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from harness.analysis.compare import best_by_width
from harness.analysis.load import finished, is_plain, rows_of
from harness.analysis.pareto import front, step_line
from harness.figures import fitting, style
from harness.spec import PLAIN

SHIFT = 1.045
"""How far the faint trials of a width spread sideways by form, as a factor at most: the sizes themselves are equal."""
LABELS = {
    "num_params": "parameters", "macs": "multiply-accumulates for one example",
    "latency_ms": "milliseconds for one example (measured median)",
}  # fmt: skip
NARROW = 2.0
"""Sizes within this factor stand on a linear axis: a logarithmic one would have no ticks."""


@dataclass(frozen=True)
class Teacher:
    """What the dashed line needs: val accuracy (a fraction) and the teacher's size, NaN where it is not known."""

    val_accuracy: float
    size: float


def accuracy_against_size(
    trials: pd.DataFrame,
    students: pd.DataFrame,
    forms: Sequence[str],
    size: str,
    teacher: Teacher | None,
    budgets: Sequence[int] = (),
) -> Figure:
    """Val accuracy against `size` on a log axis: every finished trial, the front, the tuned controls, the teacher.

    `budgets` are limits on `size`, drawn as verticals.
    """
    done = finished(trials)
    points = front(done, size=size)
    controls = best_by_width(trials, plain=True)
    low = _floor(done, points, controls, teacher)
    hidden = int((done["val_accuracy"] < low).sum())
    below = f" Below the axis: {style.trials(hidden)}." if hidden else ""
    figure = style.blank(
        3.25,
        f"Faint: {style.trials(len(done), 'finished')}, mean over {style.seeds_phrase(done['num_seeds'])}, set "
        f"side by side by form about their size, plain training first.{below} At their size: outlined, the front; "
        "controls, the best of the plain trials of each width; bars span its seeds. Front and controls are both chosen "
        "on this same validation split."
        + (_measured(done) if size == "latency_ms" else "")
        + (" Dotted verticals: size budgets." if budgets else ""),
    )
    axes = figure.add_subplot()
    axes.set_xlabel(LABELS.get(size, size))
    axes.set_ylabel("validation accuracy (%)")
    if done.empty:
        style.nothing_to_show(axes, "No trial has finished without diverging, so there is nothing to place.")
        return figure
    right, shift = _size_axis(axes, done[size])
    shift = min(shift, _room(done[size], budgets))
    best = float(done["val_accuracy"].max())
    top = max(best, teacher.val_accuracy if teacher else 0)
    # Room at the foot for the widths' names and at the head for the teacher's.
    axes.set_ylim(low - 0.13 * (top - low), top + 0.09 * (top - low))
    style.percent_axis(axes, "y")
    axes.grid(axis="y")
    _cloud(axes, done[done["val_accuracy"] >= low], forms, size, shift)
    line = step_line(points, right, size=size)
    axes.plot(line[size], line["val_accuracy"], color=style.MUTED, linewidth=1.3, zorder=2.5, solid_joinstyle="miter")
    _controls(axes, controls, students, size)
    _front_marks(axes, points, forms, size)
    keys = _legend(done, forms)
    if teacher is not None:
        seeds = students.loc[students["number"].isin(controls["number"]), "val_accuracy"].max()
        keys += _teacher_line(axes, teacher, size, alone=teacher.val_accuracy > max(best, float(seeds)))
    within = style.budget_lines(axes, budgets)
    style.legend_above(axes, keys, columns=3 if len(keys) > 4 else 4, pad=1.2 if within else 0.2)
    _width_labels(axes, done, size)
    return figure


def _measured(done: pd.DataFrame) -> str:
    """What the milliseconds are, and whether widths differ by more than calls of one width do."""
    said = " Milliseconds: median of calls at batch 1, by width; the axis does not begin at 0."
    span = float(done["latency_ms"].max() - done["latency_ms"].min())
    calls = float((done["latency_p95_ms"] - done["latency_ms"]).median())
    if span < calls:
        said += (
            f" Widths differ by {span:.2g} ms at most, the calls of one by {calls:.2g} (95th percentile less median)."
        )
    return said


def _size_axis(axes: Axes, sizes: pd.Series[float]) -> tuple[float, float]:
    """Set the axis of sizes; its right end, and how far a column of trials spreads sideways, as a factor."""
    least, most = float(sizes.min()), float(sizes.max())
    if 1 < most / least < NARROW:
        room = (most / least) ** 0.2
        axes.set_xlim(least / room, most * room)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        return most * room, min(SHIFT, room**0.25)
    style.log_axis(axes, "x", least / 1.22, most * 1.22)
    return most * 1.22, SHIFT


def _room(sizes: pd.Series[float], budgets: Sequence[int]) -> float:
    """The factor by which sizes can move sideways and none comes to lie beyond a budget that it keeps, or reversed."""
    known = [float(size) for size in sizes.unique()]
    gaps = [abs(math.log(limit / size)) for limit in budgets for size in known]  # one at a budget stands on its line
    return math.exp(0.8 * min(gaps, default=math.inf))


def _floor(done: pd.DataFrame, points: pd.DataFrame, controls: pd.DataFrame, teacher: Teacher | None) -> float:
    """The axis begins where the results do: a few badly tuned trials must not flatten the rest."""
    if done.empty:
        return 0.0
    worst = float(min([*points["val_accuracy"], *controls["val_accuracy"]]))
    best = max(float(done["val_accuracy"].max()), teacher.val_accuracy if teacher else 0)
    return max(float(done["val_accuracy"].min()) - 0.01, worst - 0.45 * (best - worst) - 0.005, 0.0)


def _cloud(axes: Axes, done: pd.DataFrame, forms: Sequence[str], size: str, spread: float) -> None:
    """All trials, faint: plain training left of the true size, then the forms in order, within a few percent of it."""
    colours, marks = style.hues(forms), style.form_markers(forms)
    shown = [PLAIN, *forms]
    shifts = np.geomspace(1 / spread, spread, len(shown))
    for form, shift in zip(shown, shifts, strict=True):
        part = done[done["form"] == form]
        axes.scatter(
            part[size] * shift, part["val_accuracy"], s=8, color=colours[form], marker=marks[form], alpha=0.4,
            linewidths=0.9 if form == PLAIN else 0, rasterized=len(done) > style.MANY,
        )  # fmt: skip


def _controls(axes: Axes, controls: pd.DataFrame, students: pd.DataFrame, size: str) -> None:
    """The best control of each width, with the span of its seeds."""
    ordered = controls.sort_values(size)
    places = ordered[size]
    axes.plot(places, ordered["val_accuracy"], color=style.PLAIN_COLOUR, linewidth=1, linestyle=(0, (1, 1.2)))
    seeds = students[students["number"].isin(ordered["number"])].groupby("number")["val_accuracy"]
    middle = ordered["val_accuracy"].to_numpy()
    low = middle - seeds.min().reindex(ordered["number"]).to_numpy()
    high = seeds.max().reindex(ordered["number"]).to_numpy() - middle
    axes.errorbar(
        places, middle, yerr=[np.maximum(low, 0), np.maximum(high, 0)], fmt="_", color=style.PLAIN_COLOUR,
        markersize=5, elinewidth=0.9, capsize=1.5, zorder=2.8,
    )  # fmt: skip


def _front_marks(axes: Axes, points: pd.DataFrame, forms: Sequence[str], size: str) -> None:
    colours, marks = style.hues(forms), style.form_markers(forms)
    for row in rows_of(points):
        plain = row["form"] == PLAIN  # a bar has no edge
        axes.scatter(
            row[size], row["val_accuracy"], s=32, marker=marks[row["form"]], color=colours[row["form"]], zorder=3,
            edgecolors=None if plain else style.INK, linewidths=2.4 if plain else 0.8,
        )  # fmt: skip


def _teacher_line(axes: Axes, teacher: Teacher, size: str, *, alone: bool) -> list[Line2D]:
    """The teacher's accuracy, named on its line where nothing lies above that; else it gives a legend's entry."""
    dashes = (0, (5, 3))
    axes.axhline(teacher.val_accuracy, color=style.MUTED, linestyle=dashes, linewidth=0.9)
    unit = {"num_params": "parameters", "macs": "MACs"}.get(size, size)
    said = f"teacher: {100 * teacher.val_accuracy:.1f}%"
    if not alone:
        return [Line2D([], [], color=style.MUTED, linestyle=dashes, linewidth=0.9, label=said)]
    said += "" if math.isnan(teacher.size) else f" with {style.short(teacher.size)} {unit}"
    axes.annotate(
        said, (0, teacher.val_accuracy), xycoords=("axes fraction", "data"), xytext=(3, 2), color=style.MUTED,
        textcoords="offset points", va="bottom", fontsize=6.5,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.2},
    )  # fmt: skip
    return []


def _legend(done: pd.DataFrame, forms: Sequence[str]) -> list[Line2D]:
    colours, marks = style.hues(forms), style.form_markers(forms)
    handles = style.form_keys([form for form in forms if (done["form"] == form).any()], colours, marks)
    if is_plain(done).any():
        handles.append(
            Line2D([], [], color=style.PLAIN_COLOUR, linestyle=(0, (1, 1.2)), marker="_", label="plain control")
        )
    return [*handles, Line2D([], [], color=style.MUTED, linewidth=1.3, label="Pareto front")]


def _width_labels(axes: Axes, done: pd.DataFrame, size: str) -> None:
    """Each width's name at the foot of its column of trials, or near it and led there where columns are close."""
    columns = done.groupby("width")[size].median().sort_values(kind="stable")
    names = [str(width) for width in columns.index]
    true = [fitting.ROOM * fitting.fraction(axes, float(place)) for place in columns]
    half = max(fitting.length(name, 6.5) for name in names) / 2
    names[0] = f"width {names[0]}"
    first = fitting.length(names[0], 6.5) / 2
    left = max(true[0], first + 2)
    beside = left + first + 3 + half
    places = [left, *style.spread(true[1:], 2 * half + 3, fitting.ROOM - half, beside)]
    for name, place, at in zip(names, places, true, strict=True):
        axes.annotate(
            name, (place / fitting.ROOM, 0), xycoords="axes fraction", xytext=(0, 2), textcoords="offset points",
            ha="center", va="bottom", fontsize=6.5, color=style.MUTED,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.2},
        )  # fmt: skip
        if abs(place - at) > 5:
            axes.plot([place / fitting.ROOM, at / fitting.ROOM], [0.08, 0.12], transform=axes.transAxes, linewidth=0.4,
                      color=style.MUTED)  # fmt: skip
