"""The rows that the page and the terminal share, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from harness.analysis.judged import Confirmed
from harness.analysis.load import rows_of
from harness.figures.confirmed import NAMES
from harness.report.blocks import NONE
from harness.report.findings import Report
from harness.spec import PLAIN

COMMON = ("width", "form", "alpha", "temperature", "lr")
ACCURACY, GAIN = "val accuracy (%)", "gain over control (points)"
TERMINAL = {"temperature": "T", ACCURACY: "val acc (%)", GAIN: "gain over control (points)"}
"""Heads shortened to fit."""


def number(value: Any, digits: int = 3) -> str:
    """A knob's value to `digits` significant digits; a dash where the trial has none."""
    if value is None or pd.isna(value):
        return NONE
    if isinstance(value, str):
        return value
    said = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e+" in said and abs(value) < 1e6 else said  # 110, not 1.1e+02


def accuracy(mean: float, sd: float, num_seeds: int) -> str:
    """`95.32 ± 0.14`, in percent; a single seed has no SD."""
    return f"{100 * mean:.2f}" if num_seeds < 2 or pd.isna(sd) else f"{100 * mean:.2f} ± {100 * sd:.2f}"


def points(gain: float, low: float, high: float) -> str:
    """`+0.50 [-2.04, 3.04]`, in points, cut to what a difference of accuracy can be; without the interval where the
    seeds cannot give one."""
    if pd.isna(gain):
        return NONE
    interval = "[no interval]" if pd.isna(low) else f"[{100 * max(low, -1):+.2f}, {100 * min(high, 1):.2f}]"
    return f"{100 * gain:+.2f} {interval}"


def front_columns(report: Report) -> list[str]:
    """The head of the front's table: the usual columns, and any other knob that the study searched."""
    others = [name for name in report.data.space if name not in COMMON]
    head = ["trial", "width", "params", "MACs", "form", "alpha", "temperature", "lr", *others]
    return [*head, ACCURACY, GAIN]


def front_rows(report: Report) -> list[list[str]]:
    """One row for each configuration on the front, small to large."""
    others = [name for name in report.data.space if name not in COMMON]
    rows = []
    for row in rows_of(report.front):
        plain = row["form"] == PLAIN
        gain = "plain training" if plain else points(row["gain"], row["gain_low"], row["gain_high"])
        rows.append([
            str(row["number"]), str(row["width"]), f"{row['num_params']:,}", f"{row['macs']:,}",
            str(row["form"]), NONE if plain else number(row["alpha"], 2),
            number(row["temperature"]), number(row["lr"], 2), *(number(row[name], 2) for name in others),
            accuracy(row["val_accuracy"], row["val_accuracy_sd"], int(row["num_seeds"])), gain,
        ])  # fmt: skip
    return rows


def front_table(report: Report) -> Table:
    """The front for a terminal of 80 columns; trial numbers, MACs and the optimiser's knobs are in pareto.csv.

    Its caption says what the numbers may and may not be taken for.
    """
    title = f"{report.data.name}: Pareto front on validation"
    table = Table(title=title, title_justify="left", caption=caution(report), caption_justify="left",
                  box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)  # fmt: skip
    head = front_columns(report)
    shown = [head.index(name) for name in ("width", "params", "form", "alpha", "temperature", ACCURACY, GAIN)]
    for place in shown:
        name = head[place]
        table.add_column(TERMINAL.get(name, name), justify="left" if name == "form" else "right", overflow="fold")
    for row in front_rows(report):
        table.add_row(*(Text(row[place]) for place in shown))
    return table


def caution(report: Report) -> str:
    """What stands under every table of gains."""
    if report.front.empty:
        return "No trial has finished without diverging." if len(report.data.trials) else "No trial has finished yet."
    seeds = sorted({int(count) for count in report.front["num_seeds"]})
    count = " or ".join(str(seed) for seed in seeds)
    plural = "" if seeds == [1] else "s"
    return (
        f"Mean ± SD over {count} seed{plural}; gain: mean of differences paired by seed [95% t interval]. Both sides "
        "are the best of several trials chosen on this validation split: search-stage estimates, not confirmed claims."
    )


def configuration(row: Mapping[str, Any]) -> str:
    """A configuration in words: `kl, alpha 0.31, temperature 4.2, width 8`."""
    alpha, temperature, _ = knobs(row)
    said = [NAMES.get(row["role"], str(row["form"])) if row["form"] == PLAIN else str(row["form"])]
    if row["role"] in NAMES and row["form"] != PLAIN:
        said[0] += f" ({NAMES[row['role']]})"
    said += [f"{name} {value}" for name, value in (("alpha", alpha), ("temperature", temperature)) if value != NONE]
    return ", ".join([*said, f"width {row['width']}"])


def knobs(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Alpha, temperature and lr, dashes where a configuration has none."""
    alpha = NONE if row["form"] == PLAIN else number(row["alpha"], 2)
    return alpha, number(row["temperature"]), number(row["lr"], 2)


def tested(row: Mapping[str, Any]) -> str:
    """Test accuracy with its interval, `94.42 [93.10, 95.74]`, in percent."""
    interval = "" if pd.isna(row["test_low"]) else f" [{100 * row['test_low']:.2f}, {100 * row['test_high']:.2f}]"
    return f"{100 * row['test_accuracy']:.2f}{interval}"


def least(value: Any) -> str:
    """A difference that would be found, in points: a dash where it is not known, and where there is none so large."""
    if pd.isna(value):
        return NONE
    return f"{100 * value:.2f}" if value < 1 else "over 100"


def power(rows: pd.DataFrame, sample: str) -> str:
    """A sentence on what the rule for a claim would find at the rows' widths, as the `sample` has it; empty where no
    row has a `found_80`."""
    known = rows[rows["found_80"].notna()]
    if known.empty:
        return ""
    low, high = 100 * float(known["found_80"].min()), 100 * float(known["found_80"].max())
    if low >= 100:
        return " No true difference would be found with 80% power: the spread is too large."
    most = "over 100" if high >= 100 else f"{high:.2f}"
    span = f"{low:.2f}" if f"{low:.2f}" == most else f"{low:.2f} to {most}"
    depending = ", depending on the width" if "to" in span else ""
    unknown = [str(width) for width in rows["width"] if width not in set(known["width"])]
    rest = f"; for width {listed(unknown)} nothing can be said of that" if unknown else ""
    return (
        f" The rule for a claim would find a true difference of about {span} points with 80% power{depending}, as "
        f"{sample} have it{rest}."
    )


def share(value: Any) -> str:
    """A share, `0.31`; a dash where it is not known."""
    return NONE if pd.isna(value) else f"{value:.2f}"


def probability(value: Any) -> str:
    """As `share`, of resamples: what was the case in all of them is not certain, nor is what never was impossible."""
    return NONE if pd.isna(value) else ">0.99" if value > 0.99 else "<0.01" if value < 0.01 else share(value)


def fresh(found: Confirmed) -> str:
    """`10 fresh seeds`, `1 fresh seed`, `4 to 10 fresh seeds`."""
    least, most = int(found.trials["num_seeds"].min()), int(found.trials["num_seeds"].max())
    return fresh_seeds(most) if least == most else f"{least} to {fresh_seeds(most)}"


def fresh_seeds(count: int) -> str:
    """`10 fresh seeds`, `1 fresh seed`."""
    return f"{count} fresh seed{'' if count == 1 else 's'}"


def resampled(num_seeds: int) -> str:
    """Over what P(best) and the expected regret are."""
    return (
        "test examples alone (one seed: what other seeds would say is not in them)"
        if num_seeds == 1
        else ("seeds and test examples")
    )


def listed(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
