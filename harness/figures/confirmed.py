"""What fresh seeds and the test split say: accuracy against size, gains over every control, what a choice on test
would have claimed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import CARETDOWN, CARETUP

from harness.analysis.confirmed import NOT_SHOWN
from harness.analysis.load import rows_of
from harness.analysis.pareto import front, step_line
from harness.figures import style

NAMES: Mapping[str, str] = {
    "ce": "plain training",
    "smoothing": "label smoothing",
    "self": "self-teacher",
    "shuffled": "shuffled teacher",
}
"""The controls as figures and tables call them."""
STRIP = 0.075
"""A label's row beyond the axis, as a share of its height."""
LOOKS: Mapping[str, tuple[str, str]] = {
    "ce": (style.PLAIN_COLOUR, "o"),
    "smoothing": ("#666666", "s"),
    "self": ("#8c8c8c", "^"),
    "shuffled": ("#b0b0b0", "D"),
}
"""Colour and marker of each control: greys, for hues are of loss forms."""


def confirmed_accuracy(
    trials: pd.DataFrame, forms: Sequence[str], teacher: float | None, budgets: Sequence[int] = ()
) -> Figure:
    """Test accuracy against parameters on a log axis: the best distilled student of each width and its controls.

    `trials` are those of `harness.analysis.judged.Confirmed`; `teacher` is its own test accuracy, a fraction. `budgets`
    are limits on parameters, drawn as verticals.
    """
    shown = trials[trials["role"].isin(["distilled", *NAMES])].drop_duplicates("number")
    bars = "with its 95% interval over seeds and test examples"
    bars = bars if shown["test_low"].notna().any() else "without an interval, which takes two seeds"
    limits = " Dotted verticals: size budgets." if budgets else ""
    figure = style.blank(
        3.1,
        f"Chosen on validation, then trained on {style.seeds_phrase(shown['num_seeds'])}, all of them fresh; mean test "
        f"accuracy, {bars}. Line: the front of the distilled, each named by its form. At each width the distilled "
        "student stands at its size, its controls, as large, left of it; a mark with an arrow and its mean is below "
        f"the axis, and an interval that ends in an arrowhead goes on there.{limits}",
    )
    axes = figure.add_subplot()
    axes.set_xlabel("parameters")
    axes.set_ylabel("test accuracy (%)")
    if shown.empty:
        style.nothing_to_show(axes, "Nothing was confirmed.")
        return figure
    left, right = float(shown["num_params"].min()) / 1.3, float(shown["num_params"].max()) * 1.3
    style.log_axis(axes, "x", left, right)
    style.percent_axis(axes, "y")
    axes.grid(axis="y")
    low, high = _accuracy_limits(shown, teacher)
    outside = Outside(axes, low, (high - low) * STRIP)
    below = shown[shown["test_accuracy"] < low]
    axes.set_ylim(outside.open(int(below.groupby("width").size().max() if len(below) else 0)), high)
    axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= high])
    roles = [role for role in ("distilled", *NAMES) if (shown["role"] == role).any()]
    colours = style.hues(forms)
    for place, role in enumerate(roles):
        part = shown[shown["role"] == role].sort_values("num_params")
        shift = 1.035**-place  # the distilled student stands at its size
        if role == "distilled":
            placed = part.assign(num_params=part["num_params"] * shift)
            line = step_line(front(placed, "test_accuracy"), right, "test_accuracy")
            axes.plot(line["num_params"], line["test_accuracy"], color=style.MUTED, linewidth=1, zorder=2)
        for row in rows_of(part):
            colour, marker = (colours[row["form"]], "o") if role == "distilled" else LOOKS[role]
            if float(row["test_accuracy"]) < low:
                said = f"↓{100 * row['test_accuracy']:.0f}"
                outside.mark((row["num_params"] * shift, row["width"]), said, colour, marker, colour)
            else:
                _mark(axes, row["num_params"] * shift, row, (colour, marker), low, big=role == "distilled")
            if role == "distilled":
                top = row["test_accuracy"] if math.isnan(row["test_high"]) else min(row["test_high"], 1.0)
                axes.annotate(row["form"], (row["num_params"], max(top, low)), xytext=(0, 2), ha="center", va="bottom",
                              textcoords="offset points", fontsize=6, color=style.INK)  # fmt: skip
    style.budget_lines(axes, budgets)
    lines = [style.key(colours[f], f, "o") for f in forms if f in set(shown.loc[shown["role"] == "distilled", "form"])]
    lines += [style.key(*reversed_look(role)) for role in roles if role in NAMES]
    if teacher is not None and not math.isnan(teacher):
        axes.axhline(teacher, color=style.MUTED, linestyle=(0, (5, 3)), linewidth=0.9)
        lines.append(Line2D([], [], color=style.MUTED, linestyle=(0, (5, 3)), linewidth=0.9, label="teacher"))
    style.legend_above(axes, lines, columns=3)
    return figure


@dataclass
class Outside:
    """What lies beyond the `edge` of a vertical axis: marks on it, their values in a strip behind it, one a row.

    `row` is a row's height, below zero where the strip is above. A mark is its own, as within the axis.
    """

    axes: Axes
    edge: float
    row: float
    labels: dict[Any, int] = field(default_factory=dict)

    def open(self, rows: int) -> float:
        """Where the axis must end so that so many labels have room; a dotted line parts them from the rest."""
        if not rows:
            return self.edge
        self.axes.axhline(self.edge, color=style.MUTED, linestyle=(0, (1, 2)), linewidth=0.7, zorder=1)
        return self.edge - self.row * (rows + 0.5)

    def mark(self, place: tuple[float, Any], said: str, colour: str, marker: str, face: str) -> None:
        """A mark at a horizontal place, with its group: labels of a group stand in rows of their own."""
        at, group = place
        taken = self.labels[group] = self.labels.get(group, 0) + 1
        self.axes.plot(at, self.edge, marker, color=colour, markerfacecolor=face, markersize=4.2, zorder=4)
        self.axes.annotate(said, (at, self.edge - self.row * taken), ha="center", va="center", fontsize=6, color=colour)


def reversed_look(role: str) -> tuple[str, str, str]:
    """Colour, name and marker of a control, as a legend's entry takes them."""
    colour, marker = LOOKS[role]
    return colour, NAMES[role], marker


def _accuracy_limits(shown: pd.DataFrame, teacher: float | None) -> tuple[float, float]:
    """The axis begins where the distilled students and plain training do; a control far below them is named there."""
    main = shown[shown["role"].isin(["distilled", "ce"])]
    base = main if len(main) else shown
    low = float(base["test_low"].fillna(base["test_accuracy"]).min())
    high = float(shown["test_high"].fillna(shown["test_accuracy"]).max())
    high = max(high, teacher if teacher is not None and not math.isnan(teacher) else 0.0)
    return max(low - 0.12 * (high - low), 0.0), min(high + 0.06 * (high - low), 1.005)


def _mark(axes: Axes, place: float, row: Mapping[str, Any], look: tuple[str, str], floor: float, *, big: bool) -> None:
    mean, (colour, marker) = float(row["test_accuracy"]), look
    if not math.isnan(float(row["test_low"])):
        low, high = max(float(row["test_low"]), floor), min(float(row["test_high"]), 1.0)
        axes.plot([place, place], [low, high], color=colour, linewidth=1.1 if big else 0.8, zorder=2.5)
        if float(row["test_low"]) < floor:
            axes.plot(place, floor, marker=CARETDOWN, color=colour, markersize=3.4, zorder=2.5)
    axes.plot(place, mean, marker, color=colour, markersize=5.5 if big else 3.6, markeredgecolor="white",
              markeredgewidth=0.5, zorder=3)  # fmt: skip


def confirmed_gain(comparisons: pd.DataFrame) -> Figure:
    """Distilled less each control at each width, on the test split; filled where a difference is shown.

    Thin bars: 95% over seeds and test examples; thick: over seeds alone. The band is what could not be detected.
    """
    counts: Sequence[int] = comparisons["num_seeds"].tolist()
    limit = gain_limit(comparisons) if len(comparisons) else math.inf
    gains = 100 * comparisons["gain"]
    far = "A mark on the dotted line, with an arrow and its mean, is beyond it. " if (gains.abs() > limit).any() else ""
    bars = (
        "Thick bars: 95% t interval over seeds; thin: over seeds and test examples (crossed); one that ends in an "
        "arrowhead goes on. "
    )
    bars = bars if comparisons["low"].notna().any() else "No interval: that takes two seeds that differ. "
    figure = style.blank(
        2.95,
        f"Distilled less control, paired by seed and test example; {style.seeds_phrase(counts)}. {bars}"
        f"{far}Filled: a difference is shown (Holm's p over all of them below .05, and at least "
        "the detectable difference); hollow: none is. Bands: less than is detectable.",
    )
    axes = figure.add_subplot()
    axes.set_ylabel("gain on the test split (points)")
    axes.set_xlabel("width")
    if comparisons.empty:
        style.nothing_to_show(axes, "No width has a confirmed distilled configuration and a confirmed control.")
        return figure
    widths = sorted(comparisons["width"].unique())
    controls = [name for name in NAMES if (comparisons["control"] == name).any()]
    beyond = {side: Outside(axes, side * limit, -side * 2 * limit * STRIP) for side in (-1, 1)}
    most = {side: comparisons[side * gains > limit].groupby("width").size().max() for side in beyond}
    axes.set_ylim(*(beyond[side].open(0 if math.isnan(most[side]) else int(most[side])) for side in (-1, 1)))
    axes.set_yticks([tick for tick in axes.get_yticks() if abs(tick) <= limit])
    axes.set_xlim(-0.5, len(widths) - 0.5)
    axes.set_xticks(range(len(widths)), [str(width) for width in widths])
    axes.grid(axis="y")
    axes.axhline(0, color=style.INK, linewidth=0.7)
    for index, width in enumerate(widths):
        own = comparisons[comparisons["width"] == width]
        for row in rows_of(own):
            offset = 0.18 * (controls.index(row["control"]) - (len(controls) - 1) / 2)
            if not math.isnan(band := min(100 * float(row["mde"]), limit)):
                reach = [index + offset - 0.09, index + offset + 0.09]
                axes.fill_between(reach, -band, band, color="#f0f0f0", zorder=0, linewidth=0)
            _gain(axes, index + offset, row, beyond)
    style.legend_above(axes, [style.key(*reversed_look(name)) for name in controls], columns=2)
    return figure


def gain_limit(comparisons: pd.DataFrame) -> float:
    """Half the height of the axis: what is nearest to zero must be seen, the clearly worse controls may go beyond."""
    first = comparisons[comparisons["control"] == "ce"] if (comparisons["control"] == "ce").any() else comparisons
    ends = 100 * first[["crossed_low", "crossed_high", "low", "high", "gain"]].abs().max(axis=1)
    return 1.25 * max(float(ends.quantile(0.8)), 100 * float(comparisons["gain"].abs().median()), 0.5)


def _gain(axes: Axes, place: float, row: Mapping[str, Any], beyond: Mapping[int, Outside]) -> None:
    (colour, marker), limit, gain = LOOKS[row["control"]], beyond[1].edge, 100 * float(row["gain"])
    for names, width in ((("crossed_low", "crossed_high"), 0.7), (("low", "high"), 2.0)):
        ends = [100 * float(row[name]) for name in names]
        if not math.isnan(ends[0]):
            axes.plot([place, place], np.clip(ends, -limit, limit), color=colour, linewidth=width, zorder=2)
            for end in (end for end in ends if abs(end) > limit >= abs(gain)):  # it goes on
                side, mark = (limit, CARETUP) if end > 0 else (-limit, CARETDOWN)
                axes.plot(place, side, marker=mark, color=colour, markersize=3.4, zorder=2)
    face = "white" if row["verdict"] == NOT_SHOWN else colour
    if abs(gain) > limit:
        side, arrow = (1, "↑") if gain > 0 else (-1, "↓")
        beyond[side].mark((place, row["width"]), f"{arrow}{gain:+.1f}", colour, marker, face)
        return
    axes.plot(place, gain, marker, color=colour, markerfacecolor=face, markersize=4.6, markeredgewidth=1, zorder=3)


CLAIMS = (
    ("by_test_last_epoch", "the configuration chosen on test", "o"),
    ("by_test_best_epoch", "each seed's epoch, too", "^"),
    ("by_test_best_seed", "the best seed, too", "s"),
)


def selection_audit(audit: pd.DataFrame) -> Figure:
    """How far test accuracy would have been overstated, by width, had the choice been made on the test split."""
    figure = style.blank(
        2.2,
        "Claim less the honest number (chosen on validation, last epoch, mean over fresh seeds), in points of test "
        "accuracy. The same confirmed configurations compete for both; no interval is shown.",
    )
    axes = figure.add_subplot()
    axes.set_xlabel("width")
    axes.set_ylabel("overstated by (points)")
    if audit.empty:
        style.nothing_to_show(axes, "Nothing was confirmed, so there is nothing to audit.")
        return figure
    axes.set_xlim(-0.5, len(audit) - 0.5)
    axes.set_xticks(range(len(audit)), [str(width) for width in audit["width"]])
    axes.axhline(0, color=style.INK, linewidth=0.7)
    axes.grid(axis="y")
    for place, (name, _, marker) in enumerate(CLAIMS):
        over = 100 * (audit[name] - audit["honest"])
        spots = [index + 0.28 * (place - 1) for index in range(len(audit))]
        colour = style.HUES[place]
        axes.vlines(spots, 0, over, color=colour, linewidth=1.2)
        axes.plot(spots, over, marker, color=colour, markersize=4.5)
        for spot, value in zip(spots, over, strict=True):
            axes.annotate(
                f"{value:.1f}", (spot, value), xytext=(0, 4), textcoords="offset points", ha="center", fontsize=6
            )
    axes.margins(y=0.18)
    keys = [style.key(style.HUES[place], said, marker) for place, (_, said, marker) in enumerate(CLAIMS)]
    style.legend_above(axes, keys, columns=3)
    return figure
