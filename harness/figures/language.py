"""Language models: bits a character against size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from harness.analysis.load import rows_of
from harness.analysis.pareto import front, step_line
from harness.figures import style
from harness.figures.confirmed import LOOKS, NAMES, STRIP, Outside, reversed_look


def bits_against_size(table: pd.DataFrame) -> Figure:
    """Bits a character of `harness.analysis.language.bits` against parameters on a log axis, lower is better."""
    figure = style.blank(
        2.9,
        f"Mean test loss over {style.seeds_phrase(table['num_seeds'])}, all of them fresh; bars are one SD over seeds "
        "either way, mostly smaller than the marks. Line: the front of the distilled. Set side by side at each width; "
        "a mark on the dotted line, with an arrow and its mean, is above the axis.",
    )
    axes = figure.add_subplot()
    axes.set_xlabel("parameters")
    axes.set_ylabel("bits a character")
    style.log_axis(axes, "x", float(table["num_params"].min()) / 1.3, float(table["num_params"].max()) * 1.3)
    axes.grid(axis="y")
    main = table[table["role"].isin(["distilled", "ce"])]
    main = main if len(main) else table
    room = float(main["bits"].max() - main["bits"].min()) or 0.1
    bottom, top = float(table["bits"].min()) - 0.1 * room, float(main["bits"].max()) + 0.35 * room
    outside = Outside(axes, top, -(top - bottom) * STRIP)
    roles = [role for role in ("distilled", *NAMES) if (table["role"] == role).any()]
    shifts = {role: 1.035 ** (place - (len(roles) - 1) / 2) for place, role in enumerate(roles)}
    above = rows_of(table[(table["bits"] > top) & table["role"].isin(roles)])
    axes.set_ylim(bottom, outside.open([(row["num_params"] * shifts[row["role"]], _above(row)) for row in above]))
    axes.set_yticks([tick for tick in axes.get_yticks() if bottom <= tick <= top])
    for role in roles:
        part = table[table["role"] == role].sort_values("num_params")
        shift = shifts[role]
        colour, marker = (style.HUES[0], "o") if role == "distilled" else LOOKS[role]
        if role == "distilled":
            placed = part.assign(num_params=part["num_params"] * shift, score=-part["bits"])
            line = step_line(front(placed, "score"), axes.get_xlim()[1], "score")
            axes.plot(line["num_params"], -line["score"], color=style.MUTED, linewidth=1, zorder=2)
        for row in rows_of(part):
            if row["bits"] > top:
                outside.mark(row["num_params"] * shift, _above(row), (colour, marker, colour))
                continue
            axes.errorbar(
                row["num_params"] * shift, row["bits"], row["bits_sd"], fmt=marker, color=colour, markersize=4,
                markeredgecolor="white", markeredgewidth=0.4, linewidth=0.8, zorder=3,
            )  # fmt: skip
    lines = [style.key(style.HUES[0], "distilled", "o")] if "distilled" in roles else []
    style.legend_above(axes, [*lines, *(style.key(*reversed_look(role)) for role in roles if role in NAMES)], columns=3)
    return figure


def _above(row: Mapping[str, Any]) -> str:
    return f"↑{row['bits']:.2f}"
