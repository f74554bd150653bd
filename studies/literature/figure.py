"""The figure of a claim: what the arms reach on test, and under it the effects that the claim is judged by."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.analysis.statistics import paired
from harness.figures import style
from studies.literature.claim import Results
from studies.literature.verdict import Finding

DASHES = ((0, ()), (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
"""A line is told by marker and dash as well as by colour, so that the figure can be read in grey."""


def draw(results: Results, findings: Sequence[Finding]) -> Figure:
    """Test metric by arm above, effects with their intervals below; one column wide."""
    count = results.tested["seed"].nunique()
    figure = style.blank(
        3.2 + 0.32 * len(findings),
        f"{count} pipelines, a teacher and students of one seed each. Dots: every pipeline; marks: mean on test, bars: "
        "95% t interval. Below: effect d paired by seed, 95% t interval; the claim says it is right of the line at 0; "
        "ticks: smallest effect of interest.",
    )
    above, below = figure.subplots(2, 1, height_ratios=[2.4, 0.35 + 0.32 * len(findings)])
    _arms(above, results)
    _effects(below, findings)
    return figure


def _arms(axes: Axes, results: Results) -> None:
    claim, view, table = results.claim, results.claim.view, results.wide()
    scale = 100.0 if claim.metric == "accuracy" else 1.0
    places = list(dict.fromkeys(label for line in view.lines.values() for label in line))
    handles = []
    for number, (label, line) in enumerate(view.lines.items()):
        colour, marker, dash = style.HUES[number], style.MARKERS[number], DASHES[number % len(DASHES)]
        shift = 0.1 * (number - (len(view.lines) - 1) / 2)
        at = [places.index(place) + shift for place in line]
        means = [scale * float(table[arm].mean()) for arm in line.values()]
        axes.plot(at, means, color=colour, linestyle=dash, marker=marker, markersize=4, zorder=3)
        for place, arm in zip(at, line.values(), strict=True):
            values = scale * table[arm]
            beside = [place + 0.07] * len(values)
            axes.plot(beside, values, "o", color=colour, markersize=1.8, alpha=0.5, markeredgewidth=0)
            own = paired(values.tolist())
            if not math.isnan(own.low):
                axes.plot([place, place], [own.low, own.high], color=colour, linewidth=1.1, zorder=2.5)
        handles.append(Line2D([], [], color=colour, linestyle=dash, marker=marker, markersize=4, label=label))
    for number, (label, arm) in enumerate(view.levels.items()):
        dash = DASHES[(number + 1) % len(DASHES)]
        axes.axhline(scale * float(table[arm].mean()), color=style.MUTED, linestyle=dash, linewidth=0.9)
        handles.append(Line2D([], [], color=style.MUTED, linestyle=dash, linewidth=0.9, label=label))
    axes.set_xticks(range(len(places)), places)
    axes.set_xlim(-0.5, len(places) - 0.5)
    axes.set_xlabel(view.axis)
    axes.set_ylabel("test accuracy (%)" if claim.metric == "accuracy" else "test cross-entropy (nats)")
    axes.grid(axis="y")
    style.legend_above(axes, handles, columns=3)


def _effects(axes: Axes, findings: Sequence[Finding]) -> None:
    axes.axvline(0, color=style.INK, linewidth=0.8)
    for place, finding in enumerate(findings):
        effect = finding.effect
        under = [place + 0.27] * effect.num_seeds
        axes.plot(finding.differences, under, "o", color=style.MUTED, markersize=1.8, markeredgewidth=0)
        if not math.isnan(effect.low):
            axes.plot([effect.low, effect.high], [place, place], color=style.INK, linewidth=1.4)
        axes.plot(effect.mean, place, "o", color=style.INK, markersize=4)
        axes.plot(finding.part.delta, place, "|", color=style.INK, markersize=7, markeredgewidth=1.2)
        said = f"{finding.part.name}: {effect.mean:+.3g} [{effect.low:.3g}, {effect.high:.3g}], {finding.verdict}"
        behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}
        across = axes.get_yaxis_transform()
        axes.text(0, place - 0.34, said, transform=across, fontsize=6, va="center", bbox=behind, zorder=4)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(findings) - 0.5, -0.6)
    axes.set_xlabel(f"effect d ({findings[0].part.unit})")
