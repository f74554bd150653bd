"""How the configurations on the front learnt, epoch by epoch."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.analysis.load import rows_of
from harness.figures import fitting, style

MOST = 8
PARTS = (("val_accuracy", "val accuracy (%)"), ("train_ce", "train CE (nats)"), ("train_kd", "train KD"))


def learning_curves(
    curves: pd.DataFrame, front: pd.DataFrame, forms: Sequence[str], pruned: Collection[int] = ()
) -> Figure:
    """Val accuracy, and the label and teacher parts of the training loss, by epoch, for trials on the front.

    Lines are means over seeds, bands the range of the seeds. The val accuracy of `pruned` trials is shown faint.
    """
    chosen = _some(front)
    left = f" Of the {len(front)} on the front, these span its sizes." if len(chosen) < len(front) else ""
    seeds = style.seeds_phrase(chosen["num_seeds"])
    figure = style.blank(
        3.9,
        f"{style.trials(len(chosen))} on the Pareto front, mean over {seeds}; bands: range of the seeds.{left} The KD "
        "part is on each form's own scale (forms differ in units), and plain training has none."
        + (f" Grey: {style.trials(len(pruned), 'pruned')}." if pruned else ""),
    )
    shown = curves[curves["number"].isin(chosen["number"])]
    if shown.empty:
        style.nothing_to_show(figure.add_subplot(), "No trial on the front has left a learning curve.")
        return figure
    panels = figure.subplot_mosaic([["val_accuracy"] * 2, ["train_ce", "train_kd"]], height_ratios=(1.35, 1))
    for _, part in curves[curves["number"].isin(pruned)].groupby("number"):
        means = part.groupby("epoch")["val_accuracy"].mean()
        panels["val_accuracy"].plot(means.index, means, color=style.MUTED, alpha=0.25, linewidth=0.5, zorder=1)
    for name, label in PARTS:
        axes = panels[name]
        _lines(axes, shown, chosen, forms, name)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(axis="y")
        if name != "val_accuracy":
            _loss_axis(axes, shown[name])
    style.percent_axis(panels["val_accuracy"], "y")
    _end_labels(panels["val_accuracy"], shown, chosen, forms)
    return figure


def _some(front: pd.DataFrame) -> pd.DataFrame:
    """The front, thinned evenly to what one panel can show; of equal sizes the first."""
    front = front.drop_duplicates("num_params")
    if len(front) <= MOST:
        return front
    steps = [round(index * (len(front) - 1) / (MOST - 1)) for index in range(MOST)]
    return front.iloc[steps]


def _lines(axes: Axes, shown: pd.DataFrame, chosen: pd.DataFrame, forms: Sequence[str], name: str) -> None:
    colours, marks = style.hues(forms), style.markers(chosen["width"].tolist())
    for row in rows_of(chosen):
        part = shown[(shown["number"] == row["number"]) & shown[name].notna()]
        if part.empty:
            continue
        by_epoch = part.groupby("epoch")[name].agg(["mean", "min", "max"])
        colour = colours[row["form"]]
        axes.fill_between(by_epoch.index, by_epoch["min"], by_epoch["max"], color=colour, alpha=0.15, linewidth=0)
        axes.plot(
            by_epoch.index, by_epoch["mean"], color=colour, marker=marks[row["width"]], markersize=3, linewidth=1.1,
            markeredgewidth=0, markevery=max(1, len(by_epoch) // 6),
        )  # fmt: skip


def _loss_axis(axes: Axes, values: pd.Series[float]) -> None:
    """Losses fall by factors, so on a log axis, where they are positive."""
    positive = values[values > 0]
    if len(positive) and (values.dropna() > 0).all():
        style.log_axis(axes, "y", float(positive.min()) / 1.15, float(positive.max()) * 1.15)
    elif not len(values.dropna()):
        style.nothing_to_show(axes, "none")


def _end_labels(axes: Axes, shown: pd.DataFrame, chosen: pd.DataFrame, forms: Sequence[str]) -> None:
    """Each line's name at its end, moved apart where lines end together."""
    colours = style.hues(forms)
    last = shown[shown["epoch"] == shown.groupby("number")["epoch"].transform("max")]
    ends = last.groupby("number")["val_accuracy"].mean()
    rows = [row for row in rows_of(chosen) if row["number"] in ends.index]
    low, high = axes.get_ylim()
    gap = 0.1 * (high - low)
    places = style.spread([float(ends[row["number"]]) for row in rows], gap, high)
    final = int(shown["epoch"].max())
    for row, place in zip(rows, places, strict=True):
        said = f"width {row['width']}, {fitting.name(row['form'])}"
        axes.annotate(
            said, (final, float(ends[row["number"]])), xytext=(1.03, place),
            textcoords=axes.get_yaxis_transform(), va="center", color=colours[row["form"]], fontsize=6.5,
            arrowprops={
                "arrowstyle": "-", "linewidth": 0.4, "color": style.MUTED, "shrinkA": 1, "shrinkB": 3,
                "relpos": (0, 0.5),
            },
        )  # fmt: skip
