"""Whether students that imitate the teacher better are also more accurate."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from harness.analysis.load import finished, is_plain
from harness.analysis.pareto import front
from harness.figures import style


def fidelity_against_accuracy(trials: pd.DataFrame, forms: Sequence[str]) -> Figure:
    """Val accuracy against agreement with the teacher's predictions on val, both in percent; one mark a trial."""
    done = finished(trials).dropna(subset=["val_agreement"])
    points = front(done)
    low_x, low_y = (
        float(done[name].quantile(0.05)) - 0.02 if len(done) else 0.0 for name in ("val_agreement", "val_accuracy")
    )
    inside = (done["val_agreement"] >= low_x) & (done["val_accuracy"] >= low_y)
    figure = style.blank(3.3, _caption(done, int((~inside).sum())))
    axes = figure.add_subplot()
    axes.set_xlabel("agreement with the teacher on val (%)")
    axes.set_ylabel("validation accuracy (%)")
    if done.empty:
        style.nothing_to_show(axes, "No finished trial has its agreement with the teacher measured.")
        return figure
    colours, marks = style.hues(forms), style.markers(done["width"].tolist())
    shown = done[inside].assign(best=done["number"].isin(points["number"]))
    for best, width in itertools.product((False, True), marks):
        part = shown[(shown["best"] == best) & (shown["width"] == width)]
        axes.scatter(
            part["val_agreement"], part["val_accuracy"], s=26 if best else 12, marker=marks[width],
            c=[colours[form] for form in part["form"]], alpha=1 if best else 0.45, linewidths=0.8 if best else 0,
            edgecolors=style.INK if best else "none", zorder=3 if best else 2,
            rasterized=not best and len(done) > style.MANY,
        )  # fmt: skip
    axes.grid()
    axes.margins(0.04)
    style.percent_axis(axes, "x")
    style.percent_axis(axes, "y")
    style.legend_outside(figure, style.width_keys(marks))
    handles = style.form_keys([form for form in forms if (done["form"] == form).any()], colours)
    if is_plain(done).any():
        handles.append(style.key(style.PLAIN_COLOUR, "plain"))
    style.legend_above(axes, handles, columns=6)
    return figure


def _caption(done: pd.DataFrame, hidden: int) -> str:
    seeds = style.seeds_phrase(done["num_seeds"])
    outside = f" Outside the axes: {style.trials(hidden)}." if hidden else ""
    partial = ""
    if len(done) > 2 and min(done[["val_agreement", "val_accuracy"]].std()) > 0:
        rank = float(stats.spearmanr(done["val_agreement"], done["val_accuracy"]).statistic)
        partial = f" Spearman's rank correlation over all of them, widths mixed, is {rank:.2f}."
    return (
        f"{style.trials(len(done), 'finished')}, mean over {seeds}; outlined: on the Pareto front; no interval is "
        f"shown.{outside}{partial} Agreement with a good teacher is tied to accuracy: a student that is 95% right and "
        "a teacher that is 97% right agree often anyway."
    )
