"""Options that were given equal budgets, side by side, and how strongly the loss forms pull."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.load import MOMENTS, rows_of
from harness.figures import style

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
        axes.axvspan(-mde, mde, color="#efefef", linewidth=0, zorder=0)
    axes.axvline(0, color=style.INK, linewidth=0.8, zorder=1)
    for place, row in enumerate(ordered):
        colour, shown = style.HUES[0], row["verdict"] != "no difference shown"
        if not pd.isna(row["low"]):
            axes.plot([100 * row["low"], 100 * row["high"]], [place, place], color=colour, linewidth=1.0, zorder=2)
        seeds = [100 * value for value in row["differences"]]
        axes.plot(seeds, [place] * len(seeds), "o", color=style.MUTED, markersize=2, markeredgewidth=0, zorder=3)
        face = colour if shown else "white"
        axes.plot(100 * row["gain"], place, "o", color=colour, markerfacecolor=face, markersize=4.5, zorder=4)
    axes.set_yticks(range(len(ordered)), [str(row["option"]) for row in ordered])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.7, len(ordered) - 0.3)
    axes.grid(axis="x")


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
        left.plot(ordered[f"kd_ratio_{moment}"].astype(float), places, label=moment, **marks)
        right.plot(ordered[f"kd_cosine_{moment}"].astype(float), places, **marks)
    left.set_xscale("log")
    left.axvline(1, color=style.INK, linewidth=0.8)
    right.axvline(0, color=style.INK, linewidth=0.8)
    right.set_xlim(-1.05, 1.05)
    left.set_yticks(range(len(ordered)), [str(form) for form in ordered["form"]])
    left.set_xlabel("ratio of gradient norms, KD / CE")
    right.set_xlabel("cosine of the two gradients")
    left.set_ylim(-0.6, len(ordered) - 0.4)
    for axes in (left, right):
        axes.grid(axis="both")
        axes.tick_params(axis="y", length=0)
    left.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, handletextpad=0.2, columnspacing=1.0)
    return figure
