"""Options that were given equal budgets, in the search and confirmed, and how strongly the loss forms pull."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.confirmed import NOT_SHOWN
from harness.analysis.load import MOMENTS, rows_of
from harness.figures import fitting, style

BAND = "#efefef"
"""What 80% power could not detect."""
SHADES = ("#0072B2", "#7f7f7f", "#D55E00")


def gain_by_option(options: pd.DataFrame, knob: str) -> Figure:
    """Paired gain over the best plain control for each option, a panel a width, from `compare.gains_by_option`."""
    widths = sorted(options["width"].unique()) if len(options) else []
    tall = max((int((options["width"] == width).sum()) for width in widths), default=2)
    tried = sorted({int(count) for count in options["distilled_trials"]}) if len(options) else [0]
    each = style.trials(tried[0], "finished") if len(tried) == 1 else f"{tried[0]} to {tried[-1]} finished trials"
    figure = style.blank(
        1.1 + 0.17 * tall * max(len(widths), 1) + 0.35 * len(widths),
        f"Best trial of each {knob} ({each} a width) less the best plain trial of the same width, "
        f"{style.seeds_phrase(options['num_seeds'])}. Small dots: seeds; large: mean; bars: 95% t interval. Filled: a "
        "difference on validation, after Holm's correction over all rows, and beyond the grey band, which 80% power "
        "could not detect. Chosen on the validation split that measures them: estimates, not confirmed gains.",
    )
    if not widths:
        style.nothing_to_show(figure.add_subplot(), "No width has both a finished control and a finished option.")
        return figure
    grid = figure.subplots(len(widths), 1, squeeze=False, sharex=True)
    for axes, width in zip(grid.ravel(), widths, strict=True):
        _option_panel(axes, options[options["width"] == width])
        if len(widths) > 1:
            axes.set_title(f"width {width}")
    grid.ravel()[-1].set_xlabel("paired gain over plain training (points)")
    return figure


def _option_panel(axes: Axes, part: pd.DataFrame) -> None:
    ordered = rows_of(part.sort_values(["gain", "option"], ascending=[True, False]))
    mde = 100 * float(part["mde"].max())
    if mde > 0:
        axes.axvspan(-mde, mde, color=BAND, linewidth=0, zorder=0)
    _option_rows(axes, ordered)
    for place, row in enumerate(ordered):
        colour, shown = style.HUES[0], row["verdict"] != "no difference shown"
        if not pd.isna(row["low"]):
            axes.plot([100 * row["low"], 100 * row["high"]], [place, place], color=colour, linewidth=1.0, zorder=2)
        seeds = [100 * value for value in row["differences"]]
        axes.plot(seeds, [place] * len(seeds), "o", color=style.MUTED, markersize=2, markeredgewidth=0, zorder=3)
        face = colour if shown else "white"
        axes.plot(100 * row["gain"], place, "o", color=colour, markerfacecolor=face, markersize=4.5, zorder=4)


def _option_rows(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """A line of the panel for each option, the first at the foot, and the line of no gain."""
    axes.axvline(0, color=style.INK, linewidth=0.8, zorder=1)
    axes.set_yticks(range(len(rows)), [fitting.name(row["option"]) for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.grid(axis="x")


def options_compared(compared: pd.DataFrame, knob: str) -> Figure:
    """The chosen option less every other on the test split, a panel a width, from `confirmed.options_compared`.

    What is least behind the chosen one stands at the top. An interval or mean far beyond the others ends in an arrow.
    """
    widths = sorted(compared["width"].unique())
    rows = len(compared) + 0.6 * len(widths)
    figure = style.blank(
        1.65 + 0.17 * rows + 0.45 * len(widths),
        f"Each {knob} at the configuration that validation chose of it, {style.seeds_phrase(compared['num_seeds'])}, "
        f"all of them fresh, paired by seed and test example with the {knob} that validation chose of all. Right of "
        "zero: the chosen one is more accurate. Thick bars: 95% t interval over seeds; thin: over seeds and test "
        "examples (crossed), each for one comparison; arrows go on beyond the axis. Filled: a difference is shown "
        "(Holm's p over all rows below .05, and at least the detectable difference); hollow: none is. Grey: below 80% "
        "power. Each width has an axis of its own.",
    )
    if not widths:
        style.nothing_to_show(figure.add_subplot(), f"No width has two confirmed options of {knob}.")
        return figure
    heights = [0.6 + int((compared["width"] == width).sum()) for width in widths]
    grid = figure.subplots(len(widths), 1, squeeze=False, height_ratios=heights)
    for axes, width in zip(grid.ravel(), widths, strict=True):
        own = compared[compared["width"] == width]
        ordered = rows_of(own.sort_values(["gain", "option"], ascending=[False, False]))
        _option_rows(axes, ordered)
        limits = _compared_limits(own)
        axes.set_xlim(limits)
        for place, row in enumerate(ordered):
            _compared(axes, place, row, limits)
        axes.set_title(f"width {width}, validation chose {fitting.name(own['chosen'].iloc[0])}")
    grid.ravel()[-1].set_xlabel(f"chosen {knob} less this one, test split (points)")
    return figure


def _compared_limits(compared: pd.DataFrame) -> tuple[float, float]:
    """The axis in points: most intervals whole; the few options that are far worse than the rest go beyond it."""
    columns = ["gain", "low", "high", "crossed_low", "crossed_high"]
    least, most = (100 * getattr(compared[columns], side)(axis=1) for side in ("min", "max"))
    reach = 1.5 * max(float(np.quantile(np.maximum(most, -least), 0.8)), 0.5)
    low, high = min(float(least.min()), -0.1 * reach), max(float(most.max()), 0.1 * reach)
    return max(1.08 * low, -reach), min(1.08 * high, reach)


def _compared(axes: Axes, place: int, row: Mapping[str, Any], limits: tuple[float, float]) -> None:
    colour, (low, high) = style.HUES[0], limits
    band = 100 * float(row["mde"])
    if band > 0:
        axes.fill_betweenx(
            [place - 0.42, place + 0.42], max(-band, low), min(band, high), color=BAND, linewidth=0, zorder=0
        )
    for names, width in ((("crossed_low", "crossed_high"), 0.8), (("low", "high"), 2.2)):
        ends = [100 * float(row[name]) for name in names]
        if not math.isnan(ends[0]):
            axes.plot(np.clip(ends, low, high), [place, place], color=colour, linewidth=width, zorder=2,
                      solid_capstyle="butt")  # fmt: skip
            for end, edge, mark in ((ends[0], low, "<"), (ends[1], high, ">")):
                if (end - edge) * math.copysign(1, edge) > 0:
                    axes.plot(edge, place, mark, color=colour, markersize=3, clip_on=False, zorder=3)
    gain = 100 * float(row["gain"])
    face = "white" if row["verdict"] == NOT_SHOWN else colour
    if not low <= gain <= high:
        axes.plot(high if gain > 0 else low, place, ">" if gain > 0 else "<", color=colour, markerfacecolor=face,
                  markersize=4.5, clip_on=False, zorder=4)  # fmt: skip
        axes.annotate(f"{gain:+.1f}", (high if gain > 0 else low, place), xytext=(-5 if gain > 0 else 5, 0),
                      textcoords="offset points", ha="right" if gain > 0 else "left", va="center", fontsize=6,
                      backgroundcolor="white")  # fmt: skip
        return
    axes.plot(gain, place, "o", color=colour, markerfacecolor=face, markersize=4.5, zorder=4)


def pull_by_form(pulls: pd.DataFrame) -> Figure:
    """Each form's gradient norm over cross-entropy's, and their cosine, through training, from `pull.pulls_by_form`."""
    figure = style.blank(
        1.15 + 0.2 * max(len(pulls), 2),
        f"Medians over the {pulls['num_students'].sum()} students of finished trials, before alpha, any warm-up done. "
        "Left: norm of the form's gradient over that of cross-entropy's, log scale. Right: cosine of the angle between "
        "the two. Equal alphas weigh forms of unequal ratio unequally.",
    )
    left, right = figure.subplots(1, 2, sharey=True)
    if pulls.empty:
        style.nothing_to_show(left, "No record says how its losses pull.")
        style.nothing_to_show(right, "")
        return figure
    ordered = pulls.iloc[::-1]
    for moment, colour, marker in zip(MOMENTS, SHADES, ("o", "s", "^"), strict=True):
        places: Sequence[int] = range(len(ordered))
        marks = {"color": colour, "markersize": 3.6, "markeredgewidth": 0, "linestyle": "none", "marker": marker}
        left.plot(ordered[f"kd_ratio_{moment}"].astype(float), places, **marks)
        right.plot(ordered[f"kd_cosine_{moment}"].astype(float), places, **marks)
    left.set_xscale("log")
    left.axvline(1, color=style.INK, linewidth=0.8)
    right.axvline(0, color=style.INK, linewidth=0.8)
    right.set_xlim(-1.05, 1.05)
    left.set_yticks(range(len(ordered)), [fitting.name(form) for form in ordered["form"]])
    left.set_xlabel("norms, KD / CE")
    right.set_xlabel("cosine, KD and CE")
    left.set_ylim(-0.6, len(ordered) - 0.4)
    for axes in (left, right):
        axes.grid(axis="both")
        axes.tick_params(axis="y", length=0)
    keys = zip(SHADES, MOMENTS, ("o", "s", "^"), strict=True)
    style.legend_outside(figure, [style.key(*look) for look in keys])
    return figure
