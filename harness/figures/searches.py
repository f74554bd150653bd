"""Gains of several searches of one study: each search, and their mean."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.figure import Figure

from harness.analysis.confirmed import NOT_SHOWN
from harness.analysis.load import rows_of
from harness.figures import style
from harness.figures.confirmed import LOOKS, NAMES, gain_limit


def searches_gain(table: pd.DataFrame) -> Figure:
    """Distilled less each control over several searches, a panel a control, from `analysis.searches.over_searches`."""
    controls = [name for name in NAMES if (table["control"] == name).any()]
    low, high = int(table["num_searches"].min()), int(table["num_searches"].max())
    count = str(high) if low == high else f"{low} to {high}"
    figure = style.blank(
        2.6,
        f"Distilled less control on the test split; {count} searches of one study, each the mean over its fresh seeds "
        "(small crosses). Marks: the mean over searches, with its 95% t interval over searches (thick), and over "
        "searches and test examples (thin, crossed); crosses and bars beyond the axis are left out. Filled: a "
        "difference is shown (Holm's p over all below .05, and at least detectable); hollow: none is.",
    )
    panels = figure.subplots(1, len(controls), sharey=True, squeeze=False)[0]
    limit, widths = gain_limit(table), sorted(table["width"].unique())
    for axes, control in zip(panels, controls, strict=True):
        colour, marker = LOOKS[control]
        axes.set_title(NAMES[control].replace(" ", "\n"), fontsize=7)
        axes.set_ylim(-limit, limit)
        axes.set_xlim(-0.6, len(widths) - 0.4)
        axes.set_xticks(range(len(widths)), [str(width) for width in widths])
        axes.set_xlabel("width")
        axes.grid(axis="y")
        axes.axhline(0, color=style.INK, linewidth=0.7)
        for row in rows_of(table[table["control"] == control]):
            place = widths.index(row["width"])
            each = [float(gain) for gain in row["gains"].split()]
            axes.plot([place + 0.22] * len(each), each, "x", color=colour, markersize=2.6, markeredgewidth=0.6)
            for names, width in ((("crossed_low", "crossed_high"), 0.7), (("low", "high"), 2.0)):
                ends = [100 * float(row[name]) for name in names]
                if not math.isnan(ends[0]):
                    axes.plot([place, place], ends, color=colour, linewidth=width, zorder=2)
            face = "white" if row["verdict"] == NOT_SHOWN else colour
            axes.plot(place, 100 * row["gain"], marker, color=colour, markerfacecolor=face, markersize=4.4, zorder=3)
    panels[0].set_ylabel("gain on the test split (points)")
    return figure
