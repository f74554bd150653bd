"""Gains of several searches of one study: each search, and their mean."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.confirmed import NOT_SHOWN
from harness.analysis.load import rows_of
from harness.figures import fitting, style
from harness.figures.confirmed import LOOKS, NAMES, gain_limits

ROOM = 0.3
"""The height of the strip for what is beyond an axis, as a share of half the axis, for two rows of labels."""
GAIN = "gain on the test split (points)"
MOST_ACROSS = 6
"""With more widths than this, panels stand one above the other."""


def searches_gain(table: pd.DataFrame) -> Figure:
    """Distilled less each control over several searches, a panel a control, from `analysis.searches.over_searches`."""
    controls = [name for name in NAMES if (table["control"] == name).any()]
    fewest, most = int(table["num_searches"].min()), int(table["num_searches"].max())
    count = str(most) if fewest == most else f"{fewest} to {most}"
    widths = sorted(table["width"].unique())
    across = len(widths) <= MOST_ACROSS
    figure = style.blank(
        2.6 if across else 1.1 + 1.3 * len(controls),
        f"Distilled less control on the test split; {count} searches of one study, each the mean over its fresh seeds "
        "(small crosses). Marks: the mean over searches, with its 95% t interval over searches (thick), and over "
        "searches and test examples (thin, crossed); a search beyond the dotted line is named, a bar cut there. "
        "Filled: a difference is shown (Holm's p over all below .05, and at least detectable); hollow: none is.",
    )
    shape = (1, len(controls)) if across else (len(controls), 1)
    panels = figure.subplots(*shape, sharex=True, sharey=True, squeeze=False).ravel()
    room = 0.75 * fitting.ROOM / shape[1] if across else fitting.ROOM  # points of a panel
    low, high = gain_limits(table)
    sides = ((-1, low), (1, high))
    beyond = {
        (control, sign): _beyond(table[table["control"] == control], widths, (sign, limit), room / len(widths))
        for control in controls for sign, limit in sides
    }  # fmt: skip
    strip = {sign: _strip([beyond[control, sign] for control in controls], (high - low) / 2) for sign in (-1, 1)}
    for axes, control in zip(panels, controls, strict=True):
        colour, marker = LOOKS[control]
        axes.set_title(NAMES[control].replace(" ", "\n" if across else " "), fontsize=7)
        axes.set_ylim(low - strip[-1], high + strip[1])
        axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= high])
        axes.set_xlim(-0.6, len(widths) - 0.4)
        fitting.place_ticks(axes, [str(width) for width in widths], room=room)
        axes.grid(axis="y")
        axes.axhline(0, color=style.INK, linewidth=0.7)
        for row in rows_of(table[table["control"] == control]):
            place = widths.index(row["width"])
            each = [float(gain) for gain in row["gains"].split()]
            inside = [gain for gain in each if low <= gain <= high]
            axes.plot([place + 0.22] * len(inside), inside, "x", color=colour, markersize=2.6, markeredgewidth=0.6)
            for names, width in ((("crossed_low", "crossed_high"), 0.7), (("low", "high"), 2.0)):
                bar = [min(max(100 * float(row[name]), low), high) for name in names]
                if not math.isnan(bar[0]):
                    axes.plot([place, place], bar, color=colour, linewidth=width, zorder=2)
            face = "white" if row["verdict"] == NOT_SHOWN else colour
            axes.plot(place, 100 * row["gain"], marker, color=colour, markerfacecolor=face, markersize=4.4, zorder=3)
        for sign, limit in sides:
            _name_beyond(axes, beyond[control, sign], (limit, sign * strip[sign]), colour)
    for axes in panels if across else panels[-1:]:
        axes.set_xlabel("width")
    if across:
        panels[0].set_ylabel(GAIN)
    else:
        figure.supylabel(GAIN, fontsize=7.5)
    return figure


Beyond = Sequence[tuple[float, str, int]]
"""Labels of what is beyond an axis: the left end of each, what it says, and its row of the strip."""


def _beyond(part: pd.DataFrame, widths: Sequence[int], side: tuple[int, float], slot: float) -> Beyond:
    """The labels of one control's searches beyond a side's limit; two widths stand `slot` points apart."""
    (sign, limit), labels = side, []
    for row in rows_of(part.sort_values("width")):
        far = sorted(gain for gain in map(float, row["gains"].split()) if sign * gain > sign * limit)
        if far:
            labels.append((widths.index(row["width"]) - 0.45, " ".join(f"{gain:+.1f}" for gain in far)))
    lengths = [fitting.length(said, 5.5) + 3 for _, said in labels]
    middles = [place * slot + length / 2 for (place, _), length in zip(labels, lengths, strict=True)]
    return [(*label, row) for label, row in zip(labels, fitting.stacked(middles, lengths), strict=True)]


def _strip(beyond: Sequence[Beyond], half: float) -> float:
    """The height of the strip in which all these labels have room, of an axis of which half is so high."""
    rows = max((row + 1 for labels in beyond for _, _, row in labels), default=0)
    return ROOM * half * max(rows, 2) / 2 if rows else 0.0


def _name_beyond(axes: Axes, labels: Beyond, strip: tuple[float, float], colour: str) -> None:
    """Name the searches beyond one end of the axis, in the strip behind it, parted from it by a dotted line."""
    limit, height = strip
    if not labels:
        return
    axes.axhline(limit, color=style.MUTED, linestyle=(0, (1, 2)), linewidth=0.7, zorder=1)
    rows = max(2, *(row + 1 for _, _, row in labels))
    for place, said, row in labels:
        axes.annotate(said, (place, limit + height * (row + 0.6) / rows), ha="left", va="center", fontsize=5.5,
                      color=colour)  # fmt: skip
