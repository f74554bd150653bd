"""The knobs beyond their importance over all widths: at each width, together, and how far they may be moved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from harness.analysis.load import rows_of
from harness.analysis.statistics import LEVEL
from harness.analysis.terms import distilled
from harness.figures import fitting, style
from harness.figures.gain import COLOURS

MOST_PANELS = 8
SHADES = LinearSegmentedColormap.from_list("share", ["#ffffff", "#3a3a3a"])
EVALUATORS = ("fANOVA", "PED-ANOVA")
MAP = 160.0
"""Points that a heat map has between its rows' names and its colour bar, about."""
SAME = 0.005
"""Points by which a form's values may differ between widths and be printed as one."""


def importance_by_width(table: pd.DataFrame) -> Figure:
    """Shares of importance at each width, a panel an evaluator, from `importance.importance_by_width`."""
    widths = sorted(table["width"].unique().tolist())
    knobs = (
        table.groupby("knob")[list(EVALUATORS)].mean().mean(axis=1).sort_values(ascending=False, kind="stable").index
    )
    across = len(widths) <= 6
    panel = 0.55 + 0.19 * max(len(knobs), 2)
    counts = table.drop_duplicates("width")
    thinned = " Of more trials so many, evenly spaced." if (counts["num_trials"] < counts["of"]).any() else ""
    figure = style.blank(
        1.3 + panel * (1 if across else 2.2),
        f"{style.trials(int(counts['num_trials'].sum()), 'finished distilled')}: shares of each evaluator's sum for "
        f"val accuracy among those of one width (n: how many), each the mean of its seeds.{thinned} No interval is "
        "shown, and with few trials shares are rough: "
        "where nothing matters the knobs have about equal shares under fANOVA, and PED-ANOVA rests on the best tenth, "
        "two trials of 20. A dash: too few trials have the knob.",
    )
    grid = figure.subplots(1 if across else 2, 2 if across else 1, squeeze=False, sharey=across)
    for axes, name in zip(grid.ravel(), EVALUATORS, strict=True):
        values = np.array([
            [_cell(table, width, knob, name) for width in widths] for knob in knobs
        ])  # fmt: skip
        axes.imshow(np.nan_to_num(values), cmap=SHADES, vmin=0, vmax=1, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            said = "–" if math.isnan(value) else f"{value:.2f}".lstrip("0") if value < 0.995 else "1"
            axes.text(column, row, said, ha="center", va="center", fontsize=6.5,
                      color="white" if value > 0.5 else style.INK)  # fmt: skip
        names = [f"{row['width']}\nn={row['num_trials']}" for row in rows_of(counts.sort_values("width"))]
        fitting.place_ticks(axes, names, 5.5 if across and len(widths) > 4 else 6, 90 if across else 195)
        axes.set_yticks(range(len(knobs)), [str(knob) for knob in knobs])
        axes.tick_params(length=0)
        axes.set_title(name)
    grid[-1][0].set_xlabel("width")
    grid[-1][-1].set_xlabel("width")
    return figure


def _cell(table: pd.DataFrame, width: int, knob: str, name: str) -> float:
    found = table.loc[(table["width"] == width) & (table["knob"] == knob), name]
    return float(found.iloc[0]) if len(found) else math.nan


def surrogate_surfaces(surfaces: pd.DataFrame, table: pd.DataFrame, trials: pd.DataFrame) -> Figure:
    """The surrogate's alpha x temperature, a panel a form, with the trials on top, from `interactions.interactions`."""
    judged = table[table["pair"] == "alpha x temperature"].set_index("form")
    highest = surfaces.groupby("form")["value"].max().nlargest(MOST_PANELS)
    forms = sorted(highest.index)
    count = surfaces["form"].nunique()
    left_out = f" Of {count} forms, the {len(forms)} highest." if count > len(forms) else ""
    against = set(surfaces["centre"]) == {"control"}
    rows = math.ceil(len(forms) / 2)
    done = distilled(trials)
    seeds = style.seeds_phrase(done["num_seeds"])
    figure = style.blank(
        1.8 * rows + 1.45,
        "What a Gaussian process makes of the trials of a form (n), " + (
            "less the best plain control, mean over widths, other knobs at their best"
            if against else "about its own mean, for want of controls"
        ) + f". Lines: equal heights in points, thick: 0, dashed: below. Dots: trials, {seeds}, large: the best "
        "of all forms at a width; between and beyond them the surface is a guess. R²: of trials left out, beyond their "
        "width's mean. Shown, p: the interaction against a null of errors with dealt-out signs, Holm over all pairs. "
        f"No interval is shown.{left_out}",
    )  # fmt: skip
    limit = max(0.5, math.ceil(4 * float(surfaces["value"].abs().quantile(0.9))) / 4)
    grid = figure.subplots(rows, 2, squeeze=False)
    drawn: Any = None
    for axes, form in zip(grid.ravel(), forms, strict=False):
        drawn = _surface(axes, surfaces[surfaces["form"] == form], limit)
        _dots(axes, done[done["form"] == form], done)
        row = judged.loc[form]
        verdict = "shown" if row["holm_p"] < LEVEL else "not shown"
        said = f"R² {row['r_squared']:.2f}, {verdict}, p = {row['holm_p']:.2g}"
        axes.set_title(f"{fitting.name(form)} (n = {row['num_trials']})\n{said}", fontsize=6.5)
    for axes in grid[:, 0]:
        axes.set_ylabel("temperature")
    for axes in grid.ravel()[max(len(forms) - 2, 0) : len(forms)]:
        axes.set_xlabel("alpha (label weight)")
    for axes in grid.ravel()[len(forms) :]:
        axes.set_axis_off()
    bar = figure.colorbar(drawn, ax=grid, location="top", aspect=45, pad=0.02, extend="both", fraction=0.05)
    bar.set_label(
        "surrogate's gain over the plain control (points)" if against else "surrogate about its mean (points)"
    )
    bar.outline.set_linewidth(0.4)
    return figure


def _said(p: float) -> str:
    return f"interaction {'shown' if p < LEVEL else 'not shown'}, p = {p:.2g}"


def _surface(axes: Axes, part: pd.DataFrame, limit: float) -> Any:
    alphas, temperatures = (np.array(sorted(part[name].unique())) for name in ("alpha", "temperature"))
    values = part.sort_values(["temperature", "alpha"])["value"].to_numpy(float).reshape(len(temperatures), -1)
    norm = TwoSlopeNorm(0, -limit, limit)
    drawn = axes.pcolormesh(alphas, temperatures, values, cmap=COLOURS, norm=norm, shading="gouraud", rasterized=True)
    heights = [h for h in MaxNLocator(7).tick_values(values.min(), values.max()) if values.min() < h < values.max()]
    if heights and float(np.ptp(values)) > 1e-3:
        thick = [1.3 if abs(height) < 1e-9 else 0.5 for height in heights]
        dashes = ["dashed" if height < -1e-9 else "solid" for height in heights]
        lines = axes.contour(alphas, temperatures, values, levels=heights, colors=style.INK, linewidths=thick,
                             linestyles=dashes)  # fmt: skip
        labels = axes.clabel(
            lines, fmt=lambda height: f"{height:+.2g}" if height else "0", fontsize=5.5, inline_spacing=2
        )
        for part_of_map in (lines, *(labels or ())):
            part_of_map.set_in_layout(False)  # they lie inside, and the layout would take them for decoration
    if temperatures[0] > 0:
        style.log_axis(axes, "y", float(temperatures[0]), float(temperatures[-1]))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return drawn


def _dots(axes: Axes, part: pd.DataFrame, done: pd.DataFrame) -> None:
    best = part["number"].isin(done.loc[done.groupby("width")["val_accuracy"].idxmax(), "number"])
    for rows, size in ((part[~best], 2.0), (part[best], 4.5)):
        axes.plot(rows["alpha"], rows["temperature"], "o", color="white", markeredgecolor=style.INK, markersize=size,
                  markeredgewidth=0.5, clip_on=False, in_layout=False, rasterized=len(done) > style.MANY)  # fmt: skip


def form_by_width(cells: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """A form's accuracy at each width less the mean of all forms there, from `interactions.interactions`."""
    forms = cells.groupby("form")["value"].mean().sort_values(ascending=False, kind="stable").index.tolist()
    widths = sorted(cells["width"].unique().tolist())
    grid = cells.pivot_table(index="form", columns="width", values=["value", "num_trials"]).reindex(index=forms)
    values, counts = (grid[name][widths].to_numpy(dtype=float) for name in ("value", "num_trials"))
    apart = float(np.ptp(values, axis=1).max()) > SAME
    if not apart:
        values, counts = values[:, :1], counts.sum(axis=1, keepdims=True)
    row = table[table["pair"] == "form x width"].iloc[0]
    columns = len(widths) if apart else 1
    digits = 2 if columns <= 6 else 1
    said = {
        (place, column): text if counts[place, column] else f"({text})"
        for (place, column), value in np.ndenumerate(values)
        for text in [f"{round(value, digits) + 0.0:+.{digits}f}"]
    }
    size = 6.5 if columns <= 8 else 5
    longest = max((fitting.length(text, size) for text in said.values()), default=0.0)
    on_end = longest + 3 > MAP / columns
    figure = style.blank(
        1.3 + max(0.2, (longest + 6) / 72 * on_end) * max(len(forms), 2),
        f"What a Gaussian process makes of {style.trials(int(row['num_trials']), 'finished distilled')}, each the mean "
        "of its seeds"
        f"{' of ' + str(row['of']) + ', drawn at random' if row['num_trials'] < row['of'] else ''}: accuracy of a "
        "form, averaged over the other knobs, less the mean of all forms"
        + (" at that width, in points. Outlined: the highest of a width; in brackets: no trial there. "
           if apart else ", in points. It sees no difference between widths in that. ")
        + f"R² of trials left out, beyond means of widths and forms: {row['r_squared']:.2f}. Form and width together: "
        f"{_said(float(row['holm_p']))} (null of errors with dealt-out signs, Holm over all pairs). No interval is "
        "shown.",
    )  # fmt: skip
    axes = figure.add_subplot()
    limit = max(0.25, float(np.abs(values).max()))
    image = axes.imshow(values, cmap=COLOURS, norm=TwoSlopeNorm(0, -limit, limit), aspect="auto")
    for (place, column), value in np.ndenumerate(values):
        axes.text(column, place, said[place, column], ha="center", va="center", fontsize=size,
                  rotation=90 if on_end else 0, color="white" if abs(value) > 0.75 * limit else style.INK)  # fmt: skip
    for column, place in enumerate(values.argmax(axis=0).tolist() if apart else ()):
        axes.add_patch(
            Rectangle((column - 0.47, place - 0.46), 0.94, 0.92, fill=False, edgecolor=style.INK, linewidth=1.2)
        )
    labels = [str(width) for width in widths] if apart else [f"{widths[0]} to {widths[-1]}"]
    fitting.place_ticks(axes, labels, room=MAP)
    axes.set_yticks(range(len(forms)), [fitting.name(form) for form in forms])
    axes.tick_params(length=0)
    axes.set_xlabel("width")
    bar = figure.colorbar(image, ax=axes, location="right", aspect=18, pad=0.02, fraction=0.06)
    bar.set_label("points")
    bar.outline.set_linewidth(0.4)
    return figure


def best_by_width(table: pd.DataFrame, trials: pd.DataFrame, forms: Sequence[str]) -> Figure:
    """For each width the best alpha and temperature, and the interval of those within epsilon of it, from
    `indifference.indifference`."""
    done = distilled(trials).set_index("number")
    names = [name for name in ("alpha", "temperature") if table[f"{name}_low"].notna().any()] or ["alpha"]
    known = table.loc[table["epsilon_from"] == "seeds", "epsilon"]
    ranges = " to ".join(
        dict.fromkeys(f"{100 * value:.2f}" for value in (table["epsilon"].min(), table["epsilon"].max()))
    )
    figure = style.blank(
        1.25 * len(names) + 1.3,
        f"{style.trials(len(done), 'finished distilled')}. Stars: the best of each width, its form below; bars and "
        f"dots: the trials within epsilon of it ({ranges} points), their number and that of all above. Epsilon: "
        + ("what the seeds cannot tell from the best, with their SD pooled over the more accurate half of the width"
           if len(known) else "half a point, since the seeds show no spread")
        + f"; {style.seeds_phrase(done['num_seeds'])}. "
        + ("Bars: 95% intervals (Hsu's, by Dunnett's test, if all spread alike) of the knobs of the truly best of "
           "these trials; of temperature, among those that have one."
           if len(known) == len(table) else "Bars are ranges of trials, and no intervals where no spread is known."),
    )  # fmt: skip
    colours, marks = style.hues(forms), style.form_markers(forms)
    grid = figure.subplots(len(names), 1, squeeze=False, sharex=True)[:, 0]
    for axes, name in zip(grid, names, strict=True):
        for place, row in enumerate(rows_of(table)):
            near = done.loc[[int(number) for number in row["trials"].split()]]
            _interval(axes, place, row, near, name, (colours, marks))
        axes.set_ylabel(name)
        axes.grid(axis="y")
    used = [form for form in colours if form in set(" ".join(table["forms"]).split())]
    keys = style.form_keys(used, colours, marks)
    style.legend_outside(figure, keys, columns=5)
    values = done["temperature"].dropna()
    if "temperature" in names and float(values.min()) > 0:
        low, high = float(values.min()), float(values.max())
        style.log_axis(grid[-1], "y", low / 1.2, high * 1.2)
    below, above = float(done["alpha"].min()), float(done["alpha"].max())
    slack = 0.07 * (above - below) or 0.05
    grid[0].set_ylim(below - slack, above + slack)
    counts = [f"{row['size']} of {row['num_trials']}" for row in rows_of(table)]
    upright = fitting.fits(counts, 6)
    for place, count in enumerate(counts):
        grid[0].annotate(count, (place, 1), xycoords=("data", "axes fraction"), xytext=(0, 2), ha="center", va="bottom",
                         textcoords="offset points", fontsize=6, rotation=0 if upright else 90)  # fmt: skip
    grid[-1].set_xlim(-0.5, len(table) - 0.5)
    grid[-1].xaxis.set_major_locator(FixedLocator(list(range(len(table)))))
    forms_of = [fitting.name(row["best_form"]) for row in rows_of(table)]
    widths_of = [str(row["width"]) for row in rows_of(table)]
    if max(len(form) for form in forms_of) * len(table) > 45:  # they would run into each other
        names = [f"{width}  {form}" for width, form in zip(widths_of, forms_of, strict=True)]
        grid[-1].set_xticklabels(names, rotation=35, ha="right", rotation_mode="anchor", fontsize=6)
    else:
        grid[-1].set_xticklabels([f"{width}\n{form}" for width, form in zip(widths_of, forms_of, strict=True)])
    figure.set_figheight(figure.get_figheight() + 0.25 * (not upright))
    grid[-1].set_xlabel("student width, form of its best trial")
    return figure


def _interval(
    axes: Axes, place: int, row: dict[str, Any], near: pd.DataFrame, name: str, looks: tuple[dict[str, str], ...]
) -> None:
    colours, marks = looks
    if pd.isna(row[f"{name}_low"]):
        return
    low, high = float(row[f"{name}_low"]), float(row[f"{name}_high"])
    axes.fill_between([place - 0.24, place + 0.24], low, high, color=style.FAINT, linewidth=1, zorder=1)
    forms = [form for form in colours if form in set(near["form"])]  # side by side, so that none hides another
    beside = np.linspace(-0.16, 0.16, len(forms)) if len(forms) > 1 else np.zeros(1)
    spots = dict(zip(forms, place + beside, strict=True))
    for form, spot in spots.items():
        own = near.loc[near["form"] == form, name]
        axes.scatter(np.full(len(own), spot), own, s=13, color=colours[form], marker=marks[form], linewidths=0.3,
                     edgecolors="white", zorder=2, rasterized=len(near) > style.MANY)  # fmt: skip
    if not pd.isna(row[f"best_{name}"]):
        form = str(row["best_form"])
        axes.plot(spots[form], row[f"best_{name}"], "*", color=colours[form], markersize=9, markeredgecolor="white",
                  markeredgewidth=0.5, zorder=3)  # fmt: skip
