"""The search itself: which knobs mattered, and how fast the front grew."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from harness.figures import style

FILLS = ("#3a3a3a", "#a8a8a8", "#d0d0d0")  # greys: hues belong to the loss forms


def importance_bars(table: pd.DataFrame, num_trials: int, total: int = 0) -> Figure:
    """Each knob's share of importance, one bar an evaluator, from `importance.importance_table`.

    `num_trials` were evaluated, of `total`.
    """
    thinned = f" (of {total}, evenly spaced)" if total > num_trials else ""
    figure = style.blank(
        0.95 + 0.42 * max(len(table), 2),
        f"Importance for val accuracy, as shares of each evaluator's sum, over "
        f"{style.trials(num_trials, 'finished distilled')}{thinned}, each the mean of its seeds, without the diverged; "
        "no spread is shown. The evaluators measure different things (fANOVA: all trials; PED-ANOVA: what sets the "
        "best apart) and may rank oppositely. A knob that some forms lack is weighed on the trials that have it.",
    )
    axes = figure.add_subplot()
    if table.empty:
        style.nothing_to_show(axes, "No importance could be computed.")
        return figure
    ordered = table.iloc[::-1]
    thick = 0.76 / len(ordered.columns)
    for index, name in enumerate(ordered.columns):
        places = [row + 0.38 - thick * (index + 0.5) for row in range(len(ordered))]
        values = ordered[name].astype(float)
        axes.barh(places, values.fillna(0), height=0.9 * thick, color=FILLS[index % len(FILLS)], label=str(name))
        for place, value in zip(places, values, strict=True):
            said = "not evaluated" if pd.isna(value) else f"{value:.2f}"
            axes.annotate(
                said, (0 if pd.isna(value) else value, place), xytext=(3, 0), textcoords="offset points", va="center",
                fontsize=6.5, color=style.MUTED,
            )  # fmt: skip
    axes.set_yticks(range(len(ordered)), [str(name) for name in ordered.index])
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, max(1.12 * float(ordered.max().max()), 0.1))
    axes.set_xlabel("importance for val accuracy (share)")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=3, borderaxespad=0.2, handlelength=1.0)
    return figure


def expected_best_of(table: pd.DataFrame) -> Figure:
    """The expected highest val accuracy of k random trials, from `best_of.expected_best`."""
    figure = style.blank(
        2.3,
        f"Mean of the maximum over all subsets of k of {style.trials(len(table), 'distilled')} drawn at random, each "
        "the mean of its seeds; band: 95% over resampled trials, too narrow towards the last k.",
    )
    axes = figure.add_subplot()
    axes.fill_between(table["k"], table["low"], table["high"], color=style.FAINT, linewidth=0)
    axes.plot(table["k"], table["expected"], color=style.HUES[0])
    axes.set_xlabel("random trials (k)")
    axes.set_ylabel("best validation accuracy (%)")
    style.percent_axis(axes, "y")
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    axes.grid(axis="y")
    return figure


def hypervolume_growth(
    by_number: pd.DataFrame,
    by_time: pd.DataFrame,
    controls_alone: float | None,
    reference: tuple[float, float],
    size: str = "num_params",
) -> Figure:
    """The front's hypervolume as search trials finish, against their number and against wall-clock.

    Both tables are from `pareto.hypervolume_over_trials`, the second in the order of `elapsed`, in seconds.
    `controls_alone` is the hypervolume of all plain controls, a dashed line.
    """
    names = {"num_params": "parameters", "macs": "MACs"}
    clock = "since the sweep began, with its teacher, the controls asked in between, and any stop before it was resumed"
    figure = style.blank(
        2.6,
        f"{style.trials(len(by_number), 'finished search')}, mean over seeds; one search, no spread. "
        f"Area in accuracy × decades of {names.get(size, size)}, against the fixed reference of chance accuracy "
        f"({100 * reference[0]:.3g}%) at {style.short(reference[1])} {names.get(size, size)}. Wall-clock: "
        f"{clock if len(by_time) else 'not on record'}. Dashed: all plain controls alone.",
    )
    if by_number.empty:
        style.nothing_to_show(figure.add_subplot(), "No search trial has finished without diverging.")
        return figure
    unit, seconds = _unit(float(by_time["elapsed"].max()))
    drawn = [(by_number["count"], by_number, "search trials, by number")]
    if len(by_time):
        drawn.append((by_time["elapsed"] / seconds, by_time, f"wall-clock ({unit})"))
    panels = figure.subplots(1, len(drawn), sharey=True, squeeze=False)[0]
    panels[0].set_ylabel("hypervolume")
    for axes, (place, table, label) in zip(panels, drawn, strict=True):
        axes.set_xlabel(label)
        axes.step(place, table["hypervolume"], where="post", color=style.HUES[0])
        grew = table["hypervolume"].diff().fillna(1) > 0
        axes.plot(place[grew], table["hypervolume"][grew], "o", color=style.HUES[0], markersize=3, markeredgewidth=0)
        if controls_alone is not None:
            axes.axhline(controls_alone, color=style.PLAIN_COLOUR, linestyle=(0, (5, 3)), linewidth=0.9)
        axes.grid(axis="y")
        axes.set_xlim(0, 1.03 * float(place.max()) or 1)
        axes.margins(y=0.12)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=table is by_number))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return figure


def _unit(most: float) -> tuple[str, int]:
    """What to give times up to `most` seconds in, and how many seconds that is."""
    return ("s", 1) if not most >= 300 else ("min", 60) if most < 3 * 3600 else ("h", 3600)
