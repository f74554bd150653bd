"""Where distillation helps and where it hurts: confidence, classes, and how far training and validation part."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from harness.analysis.load import finished, is_plain
from harness.analysis.statistics import LEVEL
from harness.figures import fitting, style
from harness.figures.gain import COLOURS

MOST_PANELS = 6
MOST_CLASSES = 30
MAP = 235.0
"""Points that the classes' cells have side by side, about."""
PAIR: Mapping[str, tuple[str, str, str]] = {
    "distilled": (style.HUES[0], "distilled", "o"),
    "ce": (style.PLAIN_COLOUR, "plain training", "^"),
}
"""Colour, name and marker of the two that are compared."""


def reliability_diagram(table: pd.DataFrame) -> Figure:
    """Accuracy against confidence in bins, distilled beside plain, for the narrowest and the widest students.

    `table` is that of `harness.analysis.judged.Confirmed`.
    """
    widths = sorted(table["width"].unique()) if len(table) else []
    shown = widths if len(widths) <= MOST_PANELS else [*widths[:3], *widths[-3:]]
    skipped = f" The {len(shown)} narrowest and widest of {len(widths)} widths." if len(shown) < len(widths) else ""
    rows = max(1, math.ceil(len(shown) / 2))
    figure = style.blank(
        1.75 * rows + 0.75,
        "Test examples of all fresh seeds in 15 bins of confidence; a mark's size grows with the number in its bin, "
        "and bins of fewer than 10 are left out. On the dashed line confidence is right; below it the student is too "
        f"sure. ECE: expected calibration error, mean over seeds; students that diverged are left out. No interval is "
        f"shown.{skipped}",
    )
    if not shown:
        style.nothing_to_show(figure.add_subplot(), "What confirmed students answered is not on disk.")
        return figure
    grid = figure.subplots(rows, 2, squeeze=False)
    for axes, width in zip(grid.ravel(), shown, strict=False):
        axes.plot([0, 1], [0, 1], color=style.MUTED, linestyle=(0, (4, 3)), linewidth=0.8)
        said = []
        for role, (colour, _, marker) in PAIR.items():
            part = table[(table["width"] == width) & (table["role"] == role) & (table["count"] >= 10)]
            if part.empty:
                continue
            sizes = 4 + 40 * np.sqrt(part["count"] / part["count"].max())
            axes.plot(part["mean_confidence"], part["accuracy"], color=colour, linewidth=0.9,
                      linestyle="-" if role == "distilled" else (0, (1, 1)))  # fmt: skip
            axes.scatter(part["mean_confidence"], part["accuracy"], s=sizes, marker=marker, color=colour, alpha=0.75,
                         linewidths=0)  # fmt: skip
            lost = int(part["num_diverged"].iloc[0])
            said.append(
                f"{PAIR[role][1].split()[0]} {100 * float(part['ece'].iloc[0]):.1f}"
                + (f"\nwithout {lost} diverged" if lost else "")
            )
        axes.set_title(f"width {width}")
        axes.text(0.03, 0.97, "ECE (points)\n" + "\n".join(said), transform=axes.transAxes, ha="left", va="top",
                  fontsize=6, color=style.MUTED)  # fmt: skip
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        style.percent_axis(axes, "x")
        style.percent_axis(axes, "y")
    for axes in grid.ravel()[len(shown) :]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_ylabel("accuracy (%)")
    for axes in grid[-1]:
        axes.set_xlabel("confidence (%)")
    keys = [style.key(*look) for look in PAIR.values()]
    figure.legend(handles=keys, loc="outside upper left", ncols=2, handletextpad=0.2, columnspacing=1.2)
    return figure


def class_gain(classes: pd.DataFrame, *, answered: bool = True) -> Figure:
    """Distilled less plain training by class and width, in points of test accuracy: one cell each, classes named where
    the table has a column `name`.

    `answered`: whether any confirmed student's answers are on disk, for the reason why there is nothing to show.
    """
    widths = sorted(classes["width"].unique()) if len(classes) else []
    every = sorted(classes["label"].unique()) if len(classes) else []
    labels = every[:MOST_CLASSES]
    left_out = f" The first {MOST_CLASSES} of {len(every)} classes." if len(labels) < len(every) else ""
    counts: list[int] = classes["num_seeds"].tolist() if len(classes) else []
    values = (
        100 * classes.pivot_table(index="width", columns="label", values="gain").reindex(index=widths, columns=labels)
        if widths
        else classes
    )
    table = values.to_numpy(dtype=float) if widths else np.zeros((0, 0))
    size = 5.5 if len(labels) > 8 else 6.5
    numbers = fitting.fits([f"{value:+.1f}" for value in np.nanmax(abs(table), axis=0, initial=0)], size, MAP)
    left_out += "" if numbers else " The cells have no room for numbers: classes.csv."
    names = [fitting.name(called) for called in _names(classes, labels)]
    on_end = names != list(map(str, labels)) and not fitting.fits(names, 7, MAP)
    figure = style.blank(
        1.35 + 0.26 * max(len(widths), 2) + on_end * max(map(fitting.length, names), default=0) / 72,
        f"Best distilled less best plain configuration, {style.seeds_phrase(counts)}; each cell a class of test "
        "examples. Outlined: Holm's p over the classes of all widths is below .05, over seeds and examples. Hatched: "
        f"distilled is worse. No interval is shown.{left_out}",
    )
    axes = figure.add_subplot()
    if not widths:
        without = "No width has both a distilled configuration and plain training with answers on disk."
        style.nothing_to_show(axes, without if answered else "What confirmed students answered is not on disk.")
        return figure
    limit = max(1.0, float(np.nanmax(np.abs(table))))
    image = axes.imshow(table, cmap=COLOURS, norm=TwoSlopeNorm(0, -limit, limit), aspect="auto")
    found = classes.set_index(["width", "label"])["holm_p"]
    for row, width in enumerate(widths):
        for column, label in enumerate(labels):
            value = float(table[row, column])
            if math.isnan(value):
                continue
            dark = abs(value) > 0.75 * limit
            if value < -0.05:  # greyscale shows both signs alike
                axes.add_patch(
                    Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, hatch="////", linewidth=0,
                              edgecolor="#ffffff99" if dark else "#6b6b6b66")
                )  # fmt: skip
            said = f"{round(value, 1) + 0.0:+.1f}"
            if numbers:
                axes.text(column, row, said, ha="center", va="center", fontsize=size,
                          color="white" if dark else style.INK)  # fmt: skip
            if found.get((width, label), 1.0) < LEVEL:
                axes.add_patch(
                    Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor=style.INK, linewidth=1.1)
                )
    step = 1 if on_end else next(step for step in range(1, len(names) + 1) if fitting.fits(names[::step], 7, MAP))
    axes.set_xticks(range(0, len(names), step), names[::step], rotation=90 * on_end, parse_math=False)
    axes.set_yticks(range(len(widths)), [str(width) for width in widths])
    axes.set_xlabel("class")
    axes.set_ylabel("width")
    axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, location="top", aspect=45, pad=0.02, fraction=0.08)
    bar.set_label("gain of distillation (points)")
    bar.outline.set_linewidth(0.4)
    return figure


def _names(classes: pd.DataFrame, labels: Sequence[int]) -> list[str]:
    """What the classes are called; a class without a name has its number."""
    known = dict(zip(classes["label"], classes["name"], strict=True)) if "name" in classes else {}
    return [str(known.get(label) or label) for label in labels]


def fit_panel(trials: pd.DataFrame) -> Figure:
    """Train against val accuracy of every finished trial, plain beside distilled: who overfits and who underfits."""
    done = finished(trials).dropna(subset=["train_accuracy"])
    figure = style.blank(
        2.75,
        f"{style.trials(len(done), 'finished')}, mean over {style.seeds_phrase(done['num_seeds'])}; filled: distilled, "
        "hollow: plain. On the dashed line train and validation agree; far below it a student overfits; low on both it "
        "underfits. The lowest 10% of either are outside the axes. No interval is shown.",
    )
    axes = figure.add_subplot()
    axes.set_xlabel("train accuracy (%)")
    axes.set_ylabel("validation accuracy (%)")
    if done.empty:
        style.nothing_to_show(axes, "No finished trial has its train accuracy measured.")
        return figure
    low = min(float(done[name].quantile(0.1)) for name in ("train_accuracy", "val_accuracy")) - 0.01
    colours = dict(zip(sorted(done["width"].unique()), style.HUES * 3, strict=False))
    marks = style.markers(list(colours))
    axes.plot([low, 1], [low, 1], color=style.MUTED, linestyle=(0, (4, 3)), linewidth=0.8)
    for width, colour in colours.items():
        for plain in (False, True):
            part = done[(done["width"] == width) & (is_plain(done) == plain)]
            axes.scatter(
                part["train_accuracy"], part["val_accuracy"], s=15, marker=marks[width], alpha=0.8, linewidths=0.8,
                facecolors="none" if plain else colour, edgecolors=colour,
            )  # fmt: skip
    axes.set_xlim(low, 1.003)
    axes.set_ylim(low, max(float(done["val_accuracy"].max()) + 0.01, low + 0.02))
    style.percent_axis(axes, "x")
    style.percent_axis(axes, "y")
    axes.grid()
    style.legend_above(axes, [style.key(c, f"width {w}", marks[w]) for w, c in colours.items()], columns=5)
    return figure
