"""What distillation adds to plain training of the same width: by alpha and temperature, and by width."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from harness.analysis.compare import gain_over_control
from harness.analysis.load import finished, is_plain, rows_of
from harness.figures import fitting, style

MOST_PANELS = 8
COLOURS = LinearSegmentedColormap.from_list("gain", ["#5e3c99", "#b2abd2", "#f7f7f7", "#fdb863", "#c75a00"])
"""Violet below, orange above: told apart under every common colour blindness."""
GAIN_LABEL = "gain over the best plain control of the same width (points)"


def alpha_temperature(trials: pd.DataFrame, forms: Sequence[str], near: Collection[int] = ()) -> Figure:
    """A panel a form: each finished trial at its alpha and temperature, coloured by its gain in points.

    A form without a temperature, or with only one, shows its gain against alpha instead. `near` are the numbers of
    trials that cannot be told from the best of their width (`harness.analysis.indifference`).
    """
    done = finished(trials.assign(gain=100 * gain_over_control(trials)))
    done = done[~is_plain(done) & done["gain"].notna()]
    best_of = done.groupby("form")["gain"].max()
    leading = set(best_of.nlargest(MOST_PANELS).index)
    shown = [form for form in forms if form in leading]
    left_out = f" Of {len(best_of)} forms, the {len(shown)} of most gain." if len(shown) < len(best_of) else ""
    limit = _limit(done["gain"])
    rows = max(math.ceil(len(shown) / 2), 1)
    figure = style.blank(
        1.6 * rows + 1.25,
        f"{style.trials(len(done), 'finished distilled')}, mean over {style.seeds_phrase(done['num_seeds'])}; "
        "markers tell widths apart; large: the best trial of each width, outlined: not told from it; dotted: "
        "above the control. "
        "The scale is centred on the control and "
        f"stops at ±{limit:.3g} points; beyond it, colours saturate and heights are clipped. No interval is shown."
        f"{left_out}",
    )
    if not shown:
        style.nothing_to_show(
            figure.add_subplot(), "No width has both a finished control and a finished distilled trial."
        )
        return figure
    grid = figure.subplots(rows, 2, squeeze=False)
    marks = style.markers(done["width"].tolist())
    norm = TwoSlopeNorm(0, -limit, limit)
    drawn = None
    done = done.assign(near=done["number"].isin(near))
    limits = _Limits.of(done[done["form"].isin(shown)])
    for axes, form in zip(grid.ravel(), shown, strict=False):
        drawn = _panel(axes, form, done, marks, norm, limits) or drawn
    for axes in grid.ravel()[len(shown) :]:
        axes.set_axis_off()
    if drawn is not None:
        bar = figure.colorbar(drawn, ax=grid, location="top", aspect=45, pad=0.02, extend="both", fraction=0.05)
        bar.set_label(GAIN_LABEL)
        bar.outline.set_linewidth(0.4)
    style.legend_outside(figure, style.width_keys(marks))
    return figure


def _limit(gains: pd.Series[float]) -> float:
    """Where the colour scale stops: wide enough for most trials, at least one point."""
    if gains.empty:
        return 1.0
    return max(1.0, math.ceil(2 * float(gains.abs().quantile(0.75))) / 2)


@dataclass(frozen=True)
class _Limits:
    """One range of alpha for all panels, and one of temperature for those of the `heated` forms: they are compared."""

    alpha: tuple[float, float]
    temperature: tuple[float, float]
    heated: Collection[str]

    @classmethod
    def of(cls, shown: pd.DataFrame) -> _Limits:
        """Those of the trials that are shown; a form of one temperature has no axis of it."""
        low, high = float(shown["alpha"].min()), float(shown["alpha"].max())
        alpha = (min(0.0, low), max(1.0, high)) if high - low > 0.5 else (low - 0.05, high + 0.05)
        several = shown.groupby("form")["temperature"].nunique() >= 2
        heated = several.index[several].tolist()
        heats = shown.loc[shown["form"].isin(heated), "temperature"]
        return cls(alpha, (float(heats.min()) / 1.15, float(heats.max()) * 1.15), heated)


def _panel(
    axes: Axes, form: str, done: pd.DataFrame, marks: dict[int, str], norm: TwoSlopeNorm, limits: _Limits
) -> PathCollection | None:
    part = done[done["form"] == form]
    best = set(done.loc[done.groupby("width")["val_accuracy"].idxmax(), "number"])
    flat = form not in limits.heated
    limit = float(norm.vmax or 1)
    heights = part["gain"].clip(-limit, limit) if flat else part["temperature"]
    drawn = None
    for (outlined, width), rows in part.groupby([part["number"].isin(best), "width"]):  # the best lie on top
        drawn = axes.scatter(
            rows["alpha"], heights[rows.index], c=rows["gain"], cmap=COLOURS, norm=norm, marker=marks[int(str(width))],
            s=46 if outlined else 18, linewidths=1.2 if outlined else np.where(rows["near"], 0.6, 0.3).tolist(),
            clip_on=False, zorder=3, rasterized=len(done) > style.MANY,
            edgecolors=[style.INK if outlined or near else "#b5b5b5" for near in rows["near"]],
        )  # fmt: skip
    above = part["gain"] > 0
    if above.any():  # the sign is to be seen in greyscale, too
        axes.plot(part["alpha"][above], heights[above], ".", color=style.INK, markersize=2.2, clip_on=False, zorder=4)
    axes.set_title(f"{fitting.name(form)}  (n = {len(part)})")
    axes.set_xlabel("alpha (label weight)")
    axes.set_xlim(*limits.alpha)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if flat:
        axes.axhline(0, color=style.INK, linewidth=0.7, zorder=1)
        axes.set_ylim(-1.05 * limit, 1.05 * limit)
        axes.set_ylabel("gain (points)")
    else:
        style.log_axis(axes, "y", *limits.temperature)
        axes.set_ylabel("temperature")
    return drawn


def gain_by_width(gains: pd.DataFrame, trials: pd.DataFrame, forms: Sequence[str]) -> Figure:
    """Paired gain of the best distilled trial over the best control, by width, from `compare.gains`.

    Small dots are seeds, large marks their mean, bars the 95% t interval; the band is what could not be detected.
    """
    figure = style.blank(2.9, _gain_caption(gains))
    axes = figure.add_subplot()
    axes.set_xlabel("student width (parameters)")
    axes.set_ylabel("paired gain (points)")
    if gains.empty:
        style.nothing_to_show(axes, "No width has both a finished control and a finished distilled trial.")
        return figure
    places = np.arange(len(gains), dtype=float)
    form_of = trials.set_index("number")["form"]
    colours, marks = style.hues(forms), style.form_markers(forms)
    limit = _gain_limit(gains)
    for place, row in zip(places, rows_of(gains), strict=True):
        reach = min(100 * row["mde"], 2 * limit) if row["mde"] > 0 else 0
        axes.fill_between([place - 0.5, place + 0.5], -reach, reach, color="#efefef", linewidth=0, zorder=0)
        form = str(form_of[row["distilled"]])
        _one_gain(axes, place, row, colours[form], marks[form], limit)
    axes.axhline(0, color=style.INK, linewidth=0.8, zorder=1)
    axes.set_xlim(-0.5, len(gains) - 0.5)
    said = [f"{100 * gain:+.2f}" for gain in gains["gain"]]
    upright = fitting.fits(said, 6.5)
    axes.set_ylim(-limit, (1.17 if upright else 1.55) * limit)  # the means stand in a row above the data
    axes.set_yticks([tick for tick in axes.get_yticks() if abs(tick) <= limit])
    for place, label in zip(places, said, strict=True):
        axes.text(place, 1.04 * limit, label, ha="center", va="bottom", fontsize=6.5, rotation=0 if upright else 90)
    names = [f"{w}\n({style.short(n)})" for w, n in zip(gains["width"], gains["num_params"], strict=True)]
    if fitting.place_ticks(axes, names):
        figure.set_figheight(figure.get_figheight() + 0.4)
    used = [form for form in colours if (form_of.loc[gains["distilled"]] == form).any()]
    style.legend_above(axes, style.form_keys(used, colours, marks), columns=6)
    return figure


def _gain_caption(gains: pd.DataFrame) -> str:
    seeds = style.seeds_phrase(gains["num_seeds"])
    tried = ""
    if len(gains):
        distilled, plain = (int(gains[f"{side}_trials"].sum()) for side in ("distilled", "control"))
        tried = f"of {distilled} and {plain} trials over all widths, "
    detectable = gains["mde"].dropna()
    band = (
        f"Grey: smaller than the {100 * float(detectable.max()):.1f} points detectable with 80% power at these seeds."
        if len(detectable)
        else "The seeds show no spread from which to say what could be detected."
    )
    return (
        f"Best distilled less best plain trial of the same width, {tried}{seeds}. Small dots: seeds; large marks and "
        "numbers: mean; bars: 95% t interval (arrow: continues beyond the axis; none where seeds agree exactly or "
        "n = 1). "
        f"{band} Both sides are the best of several trials chosen on this validation split: an estimate, not a "
        "confirmed gain."
    )


def _gain_limit(gains: pd.DataFrame) -> float:
    """Half the height of the axis: the seeds fill about half of it, and short intervals fit whole."""
    seeds = max((abs(100 * value) for values in gains["differences"] for value in values), default=0)
    ends = [
        abs(100 * v) for v in (*gains["low"].dropna(), *gains["high"].dropna()) if abs(100 * v) < 4 * max(seeds, 0.5)
    ]
    return 1.15 * float(max([1.6 * seeds, *ends, 0.5]))


def _one_gain(axes: Axes, place: float, row: dict[str, Any], colour: str, marker: str, limit: float) -> None:
    low, high, gain = (100 * float(row[name]) for name in ("low", "high", "gain"))
    if not math.isnan(low):
        axes.plot([place, place], [max(low, -limit), min(high, limit)], color=colour, linewidth=1.2, zorder=2)
        for end, sign, mark in ((low, -1, "v"), (high, 1, "^")):
            if abs(end) > limit and end * sign > 0:
                axes.plot(place, sign * limit * 0.985, mark, color=colour, markersize=4, zorder=2)
    values = [100 * float(value) for value in row["differences"]]
    spots = place + 0.14 + 0.07 * (np.arange(len(values)) % 4)
    axes.plot(spots, values, "o", color=colour, markersize=2.6, alpha=0.65, markeredgewidth=0, zorder=3)
    axes.plot(place, gain, marker, color=colour, markersize=5.5, markeredgecolor="white", markeredgewidth=0.6, zorder=4)
