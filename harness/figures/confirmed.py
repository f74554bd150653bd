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
from harness.figures import fitting, style

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
    named = _names_fit(shown)
    figure = style.blank(
        3.1,
        f"Chosen on validation, then trained on {style.seeds_phrase(shown['num_seeds'])}, all of them fresh; mean test "
        f"accuracy, {bars}. Line: the front of the distilled, each {'named by' if named else 'in the colour of'} its "
        "form. At each width the distilled student stands at its size, its controls, as large, left of it; a mark with "
        "an arrow and its mean is below "
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
    roles = [role for role in ("distilled", *NAMES) if (shown["role"] == role).any()]
    shifts = {role: 1.035**-place for place, role in enumerate(roles)}  # the distilled student stands at its size
    outside = Outside(axes, low, (high - low) * STRIP)
    below = rows_of(shown[shown["test_accuracy"] < low])
    bottom = outside.open([(row["num_params"] * shifts[row["role"]], _below(row)) for row in below])
    axes.set_ylim(bottom, high + (high - low) * STRIP * named)  # the names need a row
    axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= high])
    colours = style.hues(forms)
    for role in roles:
        part = shown[shown["role"] == role].sort_values("num_params")
        shift = shifts[role]
        if role == "distilled":
            line = step_line(front(part, "test_accuracy"), right, "test_accuracy")
            axes.plot(line["num_params"], line["test_accuracy"], color=style.MUTED, linewidth=1, zorder=2)
        for row in rows_of(part):
            colour, marker = (colours[row["form"]], "o") if role == "distilled" else LOOKS[role]
            if float(row["test_accuracy"]) < low:
                outside.mark(row["num_params"] * shift, _below(row), (colour, marker, colour))
            else:
                _mark(axes, row["num_params"] * shift, row, (colour, marker), low, big=role == "distilled")
            if role == "distilled" and named:
                beside = shown[shown["width"] == row["width"]]  # whose bars its name is not to lie on
                top = min(float(beside["test_high"].fillna(beside["test_accuracy"]).max()), 1.0)
                axes.annotate(
                    fitting.name(row["form"]), (row["num_params"], max(top, low)), xytext=(0, 2), ha="center",
                    va="bottom", textcoords="offset points", fontsize=6, color=style.INK, zorder=5,
                    bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.2},
                )  # fmt: skip
    within = style.budget_lines(axes, budgets)
    distilled = set(shown.loc[shown["role"] == "distilled", "form"])
    lines = style.form_keys([form for form in forms if form in distilled], colours)
    lines += [style.key(*reversed_look(role)) for role in roles if role in NAMES]
    if teacher is not None and not math.isnan(teacher):
        axes.axhline(teacher, color=style.MUTED, linestyle=(0, (5, 3)), linewidth=0.9)
        lines.append(Line2D([], [], color=style.MUTED, linestyle=(0, (5, 3)), linewidth=0.9, label="teacher"))
    style.legend_above(axes, lines, columns=3, pad=1.2 if within else 0.2)
    return figure


def _names_fit(shown: pd.DataFrame) -> bool:
    """Whether the names of forms stand beside each other, each over the student of its width."""
    own = shown[shown["role"] == "distilled"].sort_values("num_params")
    if own.empty:
        return False
    whole = 1.3**2 * float(shown["num_params"].max() / shown["num_params"].min())
    places = fitting.ROOM * np.log(own["num_params"].to_numpy(float)) / math.log(whole)
    lengths = [fitting.length(fitting.name(form), 6) + 3 for form in own["form"]]
    return not any(fitting.stacked(places.tolist(), lengths))


def _below(row: Mapping[str, Any]) -> str:
    return f"↓{100 * row['test_accuracy']:.0f}"


@dataclass
class Outside:
    """What lies beyond the `edge` of a vertical axis: marks on it, their values in a strip behind it, in rows.

    `row` is a row's height, below zero where the strip is above. A mark is its own, as within the axis.
    """

    axes: Axes
    edge: float
    row: float
    rows: dict[tuple[float, str], int] = field(default_factory=dict)

    def open(self, labels: Sequence[tuple[float, str]]) -> float:
        """Where the axis must end so that labels at these horizontal places have room; the x axis is set before.

        A dotted line parts them from the rest.
        """
        if not labels:
            return self.edge
        self.axes.axhline(self.edge, color=style.MUTED, linestyle=(0, (1, 2)), linewidth=0.7, zorder=1)
        places = [fitting.ROOM * fitting.fraction(self.axes, at) for at, _ in labels]
        rows = fitting.stacked(places, [fitting.length(said, 6) + 3 for _, said in labels])
        self.rows = dict(zip(labels, rows, strict=True))
        return self.edge - self.row * (max(rows) + 1.5)

    def mark(self, at: float, said: str, look: tuple[str, str, str]) -> None:
        """A mark at a horizontal place that `open` has made room for; `look` is its colour, its marker and its face."""
        colour, marker, face = look
        self.axes.plot(at, self.edge, marker, color=colour, markerfacecolor=face, markersize=4.2, zorder=4)
        place = self.edge - self.row * (self.rows[at, said] + 1)
        self.axes.annotate(said, (at, place), ha="center", va="center", fontsize=6, color=colour)


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
    limits = gain_limits(comparisons) if len(comparisons) else (-math.inf, math.inf)
    beyond_axis = not (100 * comparisons["gain"]).between(*limits).all()
    far = "A mark on the dotted line, with an arrow and its mean, is beyond it. " if beyond_axis else ""
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
    upright = 0.5 if fitting.place_ticks(axes, [str(width) for width in widths]) else 0
    figure.set_figheight(figure.get_figheight() + 0.3 * upright)
    axes.set_xlim(-0.5, len(widths) - 0.5)
    shift = {name: 0.18 * (place - (len(controls) - 1) / 2) for place, name in enumerate(controls)}
    rows = rows_of(comparisons.assign(
        place=comparisons["width"].map(widths.index) + comparisons["control"].map(shift)
    ))  # fmt: skip
    beyond: dict[int, Outside] = {}
    ends = []
    for side, limit in zip((-1, 1), limits, strict=True):
        beyond[side] = Outside(axes, limit, -side * (limits[1] - limits[0]) * STRIP)
        far_off = [row for row in rows if side * 100 * row["gain"] > side * limit]
        ends.append(beyond[side].open([(row["place"], _far(row)) for row in far_off]))
    axes.set_ylim(*ends)
    axes.set_yticks([tick for tick in axes.get_yticks() if limits[0] <= tick <= limits[1]])
    axes.grid(axis="y")
    axes.axhline(0, color=style.INK, linewidth=0.7)
    for row in rows:
        if not math.isnan(band := 100 * float(row["mde"])):
            reach = [row["place"] - 0.09, row["place"] + 0.09]
            axes.fill_between(reach, *np.clip([-band, band], *limits), color="#f0f0f0", zorder=0, linewidth=0)
        _gain(axes, row, beyond)
    style.legend_above(axes, [style.key(*reversed_look(name)) for name in controls], columns=2)
    return figure


def _far(row: Mapping[str, Any]) -> str:
    return f"{'↑' if row['gain'] > 0 else '↓'}{100 * row['gain']:+.1f}"


def gain_limits(comparisons: pd.DataFrame) -> tuple[float, float]:
    """The ends of the axis, in points: what is nearest to zero must be seen, the clearly worse controls may go beyond.

    Whole are the intervals of what is better or worse than plain training, and of what is than another control where
    that lies within half as much again. A side on which little lies is as short as it.
    """
    ends = 100 * comparisons[["crossed_low", "crossed_high", "low", "high", "gain"]]
    reach, plain, shown = ends.abs().max(axis=1), comparisons["control"] == "ce", comparisons["verdict"] != NOT_SHOWN
    first = plain if plain.any() else ~plain
    limit = 1.25 * max(float(reach[first].quantile(0.8)), float(ends["gain"].abs().median()), 0.5)
    limit = max([limit, *(1.06 * reach[first & shown])])
    limit = max([limit, *(1.06 * end for end in reach[shown] if end <= 1.5 * limit)])
    band = min(100 * float(comparisons["mde"].max(skipna=True)), limit) if comparisons["mde"].notna().any() else 0.0
    low, high = (1.06 * max(side, band, 0.25 * limit) for side in (-float(ends.min().min()), float(ends.max().max())))
    return -min(low, limit), min(high, limit)


def _gain(axes: Axes, row: Mapping[str, Any], beyond: Mapping[int, Outside]) -> None:
    (colour, marker), gain, place = LOOKS[row["control"]], 100 * float(row["gain"]), row["place"]
    low, high = beyond[-1].edge, beyond[1].edge
    for names, width in ((("crossed_low", "crossed_high"), 0.7), (("low", "high"), 2.0)):
        ends = [100 * float(row[name]) for name in names]
        if not math.isnan(ends[0]):
            axes.plot([place, place], np.clip(ends, low, high), color=colour, linewidth=width, zorder=2)
            for end in (end for end in ends if low <= gain <= high and not low <= end <= high):  # it goes on
                side, mark = (high, CARETUP) if end > 0 else (low, CARETDOWN)
                axes.plot(place, side, marker=mark, color=colour, markersize=3.4, zorder=2)
    face = "white" if row["verdict"] == NOT_SHOWN else colour
    if not low <= gain <= high:
        beyond[1 if gain > 0 else -1].mark(place, _far(row), (colour, marker, face))
        return
    axes.plot(place, gain, marker, color=colour, markerfacecolor=face, markersize=4.6, markeredgewidth=1, zorder=3)


CLAIMS = (
    ("by_test_last_epoch", "the configuration chosen on test", "o"),
    ("by_test_best_epoch", "each seed's epoch, too", "^"),
    ("by_test_best_seed", "the best seed, too", "s"),
)


def selection_audit(audit: pd.DataFrame) -> Figure:
    """How far test accuracy would have been overstated, by width, had the choice been made on the test split."""
    apart = fitting.ROOM / max(len(audit), 1)
    over = {name: 100 * (audit[name] - audit["honest"]) for name, _, _ in CLAIMS}
    room = 0.28 * apart - 2 >= max(
        (fitting.length(f"{value:.1f}", 6) for own in over.values() for value in own), default=0
    )
    figure = style.blank(
        2.2,
        "Claim less the honest number (chosen on validation, last epoch, mean over fresh seeds), in points of test "
        "accuracy. The same confirmed configurations compete for both; no interval is shown."
        + ("" if room else " Numbers: those of the best seed."),
    )
    axes = figure.add_subplot()
    axes.set_xlabel("width")
    axes.set_ylabel("overstated by (points)")
    if audit.empty:
        style.nothing_to_show(axes, "Nothing was confirmed, so there is nothing to audit.")
        return figure
    axes.set_xlim(-0.5, len(audit) - 0.5)
    fitting.place_ticks(axes, [str(width) for width in audit["width"]])
    axes.axhline(0, color=style.INK, linewidth=0.7)
    axes.grid(axis="y")
    for place, (name, _, marker) in enumerate(CLAIMS):
        spots = [index + 0.28 * (place - 1) for index in range(len(audit))]
        colour = style.HUES[place]
        axes.vlines(spots, 0, over[name], color=colour, linewidth=1.2)
        axes.plot(spots, over[name], marker, color=colour, markersize=4.5)
        for spot, value in zip(spots, over[name], strict=True):
            if room or name == CLAIMS[-1][0]:
                axes.annotate(
                    f"{value:.1f}", (spot, value), xytext=(0, 4), textcoords="offset points", ha="center", fontsize=6
                )
    axes.margins(y=0.18)
    keys = [style.key(style.HUES[place], said, marker) for place, (_, said, marker) in enumerate(CLAIMS)]
    style.legend_above(axes, keys, columns=3)
    return figure
