"""Gains of several searches of one study: each search, and their mean."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.confirmed import NOT_SHOWN
from harness.analysis.load import rows_of
from harness.figures import style
from harness.figures.confirmed import LOOKS, NAMES, gain_limits

ROOM = 0.3
"""The height of the strip for what is beyond an axis, as a share of half the axis."""


def searches_gain(table: pd.DataFrame) -> Figure:
    """Distilled less each control over several searches, a panel a control, from `analysis.searches.over_searches`."""
    controls = [name for name in NAMES if (table["control"] == name).any()]
    fewest, most = int(table["num_searches"].min()), int(table["num_searches"].max())
    count = str(most) if fewest == most else f"{fewest} to {most}"
    figure = style.blank(
        2.6,
        f"Distilled less control on the test split; {count} searches of one study, each the mean over its fresh seeds "
        "(small crosses). Marks: the mean over searches, with its 95% t interval over searches (thick), and over "
        "searches and test examples (thin, crossed); a search beyond the dotted line is named, a bar cut there. "
        "Filled: a difference is shown (Holm's p over all below .05, and at least detectable); hollow: none is.",
    )
    panels = figure.subplots(1, len(controls), sharey=True, squeeze=False)[0]
    (low, high), widths = gain_limits(table), sorted(table["width"].unique())
    every = [float(gain) for gains in table["gains"] for gain in gains.split()]
    strip = ROOM * (high - low) / 2
    ends = (low - strip * any(gain < low for gain in every), high + strip * any(gain > high for gain in every))
    for axes, control in zip(panels, controls, strict=True):
        colour, marker = LOOKS[control]
        axes.set_title(NAMES[control].replace(" ", "\n"), fontsize=7)
        axes.set_ylim(*ends)
        axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= high])
        axes.set_xlim(-0.6, len(widths) - 0.4)
        axes.set_xticks(range(len(widths)), [str(width) for width in widths])
        axes.set_xlabel("width")
        axes.grid(axis="y")
        axes.axhline(0, color=style.INK, linewidth=0.7)
        for row in rows_of(table[table["control"] == control]):
            place = widths.index(row["width"])
            each = [float(gain) for gain in row["gains"].split()]
            inside = [gain for gain in each if low <= gain <= high]
            axes.plot([place + 0.22] * len(inside), inside, "x", color=colour, markersize=2.6, markeredgewidth=0.6)
            _name_beyond(axes, place, each, (low, high), colour)
            for names, width in ((("crossed_low", "crossed_high"), 0.7), (("low", "high"), 2.0)):
                bar = [min(max(100 * float(row[name]), low), high) for name in names]
                if not math.isnan(bar[0]):
                    axes.plot([place, place], bar, color=colour, linewidth=width, zorder=2)
            face = "white" if row["verdict"] == NOT_SHOWN else colour
            axes.plot(place, 100 * row["gain"], marker, color=colour, markerfacecolor=face, markersize=4.4, zorder=3)
    panels[0].set_ylabel("gain on the test split (points)")
    return figure


def _name_beyond(axes: Axes, place: int, gains: Sequence[float], limits: tuple[float, float], colour: str) -> None:
    """Name the searches beyond the axis of one width, in the strip behind it, parted from it by a dotted line."""
    for sign, limit in zip((-1, 1), limits, strict=True):
        if beyond := [gain for gain in gains if sign * gain > sign * limit]:
            axes.axhline(limit, color=style.MUTED, linestyle=(0, (1, 2)), linewidth=0.7, zorder=1)
            row = 0.3 + 0.4 * (place % 2)  # neighbours do not run into each other
            said = " ".join(f"{gain:+.1f}" for gain in sorted(beyond))
            at = limit + sign * ROOM * row * (limits[1] - limits[0]) / 2
            axes.annotate(said, (place - 0.45, at), ha="left", va="center", fontsize=5.5, color=colour)
