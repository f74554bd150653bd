"""The knobs at each width, together, and how far they may be moved: tables with their figures."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from harness.analysis.indifference import UNKNOWN
from harness.analysis.load import rows_of
from harness.analysis.statistics import LEVEL
from harness.figures.knobs import EVALUATORS
from harness.report.blocks import NONE, Block, Heading, Paragraph, Table, code, plain
from harness.report.findings import Report
from harness.report.tables import least, listed, number

MOST_CELLS = 6


def width_section(report: Report) -> Iterator[Block]:
    """Which knobs mattered at each width, where a width has trials enough."""
    found = report.knobs
    yield Heading("The knobs at each width")
    yield from report.figure("importance_by_width", data="importance_by_width.csv")
    if found.importance_missing:
        yield Paragraph(f"Without importance of its own: {plain('; '.join(found.importance_missing))}.")
    elif found.importance.empty:
        yield Paragraph("No distilled trial has finished without diverging, so no width has an importance of its own.")
    if apart := _disagreed(found.importance):
        yield Paragraph(
            f"At width {listed(apart)} the two evaluators name different knobs first: there neither says "
            "more than a guess would."
        )


def _disagreed(importance: pd.DataFrame) -> list[str]:
    """The widths at which the evaluators do not agree on which knob explains most."""
    return [
        str(width)
        for width, own in importance.set_index("knob").groupby("width")
        if len({own[name].idxmax() for name in EVALUATORS}) > 1
    ]


def interaction_section(report: Report) -> Iterator[Block]:
    """Whether alpha and temperature, and form and width, work together; how good the surrogate is that says so."""
    table = report.knobs.interactions.table
    yield Heading("Knobs together")
    if table.empty:
        yield Paragraph(
            "Neither alpha with temperature nor form with width can be judged: no distilled trial with a temperature "
            "has finished, and there are not two forms or widths."
        )
        return
    rows = [
        [
            row["pair"], row["form"], _count(row), number(row["r_squared"], 2),
            *(number(row[f"share_{part}"], 2) for part in ("first", "second", "interaction")),
            number(row["points"], 2), number(row["null_points"], 2), number(row["p"], 2), number(row["holm_p"], 2),
            row["verdict"],
        ]
        for row in rows_of(table)
    ]  # fmt: skip
    head = ["pair", "form", "trials", "R² left out", "share, first", "share, second", "share, together",
            "together (points)", "95% of null (points)", "p", "p (Holm)", "verdict"]  # fmt: skip
    caption = "Variance that a surrogate of val accuracy sees in two knobs, each alone and together."
    yield Table("interactions", caption, head, rows, "interactions.csv")
    yield Paragraph(
        "The surrogate is a Gaussian process of the finished distilled trials (of many, so many drawn at random). R²: "
        "of trials left out, a fifth at a time and all fitted anew, beyond the means of widths (and forms); where it "
        "is 0 or below, the surrogate says nothing, and nothing of it is drawn. Shares: functional ANOVA over a "
        "balanced grid of the two knobs, which weighs all of it alike and not where the search went. Together, in "
        "points: the SD of the interaction over the grid, beside the 95% quantile of what is found where there is "
        "none: the surrogate refitted without the interaction, the signs of its errors dealt out anew 999 times. p: "
        "how often such a null is as likely to have one. Holm's correction is over the pairs; an interaction is called "
        f"shown below {LEVEL:g}. Not distinguishable is not absent."
    )
    yield from report.figure("surrogate_surfaces")
    yield from report.figure("form_by_width")


def _count(row: dict[str, object]) -> str:
    return f"{row['num_trials']}" if row["num_trials"] == row["of"] else f"{row['num_trials']} of {row['of']}"


def indifference_section(report: Report) -> Iterator[Block]:
    """What is as good as the best of each width, and a setting that is nearly as good at all of them."""
    table = report.knobs.indifference
    yield Heading("How far the knobs may be moved")
    if table.empty:
        yield Paragraph("No distilled trial has finished without diverging.")
        return
    rows = [
        [
            str(row["width"]), f"{row['size']} of {row['num_trials']}", least(row["epsilon"]),
            str(row["best"]), row["best_form"], number(row["best_alpha"], 2), _range(row, "alpha"),
            number(row["best_temperature"], 2), _range(row, "temperature"), ", ".join(row["forms"].split()),
        ]
        for row in rows_of(table)
    ]  # fmt: skip
    head = ["width", "trials within epsilon", "epsilon (points)", "best trial", "its form", "its alpha", "alpha within",
            "its temperature", "temperature within", "forms within"]  # fmt: skip
    caption = "The best distilled trial of each width, and the range of those not worse by more than epsilon."
    yield Table("indifference", caption, head, rows, "indifference.csv")
    unknown = [str(row["width"]) for row in rows_of(table) if row["epsilon_from"] != "seeds"]
    guess = (
        f" At width {plain(', '.join(unknown))} the seeds show no spread: {100 * UNKNOWN:g} points." if unknown else ""
    )
    yield Paragraph(
        "Epsilon: the larger of the true difference of two trials that their seeds would find with 80% power, and of "
        "what luck may lift the highest of so many means above the truly best trial's (Dunnett's one-sided 95%, as Hsu "
        "uses it), from the SD of seeds pooled over the more accurate half of the width's finished distilled trials, "
        f"as if they shared no seed.{guess} Where it is from the seeds, these are normal and spread alike in good "
        "trials, the set holds the truly best of these trials in 95% of studies, and each range is a 95% interval of "
        "its knob (a temperature's, of those that have one); where some trials are far noisier, or students collapse, "
        "it holds less often. Not all within it need be as good, and settings that were not tried are not in it."
    )
    yield from report.figure("best_by_width", data="indifference.csv")
    yield from _robust(report)


def _robust(report: Report) -> Iterator[Block]:
    cells = report.knobs.robust
    if cells.empty:
        yield Paragraph(f"No robust default is named: {plain(report.knobs.no_robust)}.")
        return
    widths = len(report.knobs.indifference)
    rows = [
        [
            row["form"], _range(row, "alpha"), _range(row, "temperature"), f"{row['shortfall']:.2f}",
            f"{row['shortfall_high']:.2f}", str(row["worst_width"]), str(row["num_trials"]),
            f"{row['widths_tried']} of {widths}",
            NONE if pd.isna(row["tried_shortfall"]) else f"{row['tried_shortfall']:.2f}",
        ]
        for row in rows_of(cells.head(MOST_CELLS))
    ]  # fmt: skip
    head = ["form", "alpha", "temperature", "shortfall at worst (points)", "97.5% (points)", "worst width",
            "trials in it", "widths tried", "shortfall of tried (points)"]  # fmt: skip
    caption = "Cells of form, alpha and temperature by how far they fall short of the best cell at their worst width."
    yield Table("robust", caption, head, rows, "robust.csv")
    first = rows_of(cells.head(1))[0]
    setting = f"{code(first['form'])}, alpha {_range(first, 'alpha')}"
    if not pd.isna(first["temperature_low"]):
        setting += f", temperature {_range(first, 'temperature')}"
    seen = (
        f"under the surrogate at most {first['shortfall']:.2f} points below the best cell of any width, in 97.5% of "
        f"draws of its posterior at most {first['shortfall_high']:.2f}"
    )
    epsilon = 100 * float(report.knobs.indifference["epsilon"].max())
    if first["shortfall_high"] > epsilon:
        yield Paragraph(
            f"No robust default is named: the surrogate's first, {setting}, is {seen}, which is more than the "
            f"{epsilon:.2f} points that seeds can tell. It does not know."
        )
        return
    if first["num_trials"] == 0:
        rests = "**No trial lies there: this is a model's guess.**"
    elif first["widths_tried"] < widths:
        rests = (
            f"Its trials are of {first['widths_tried']} of the {widths} widths: "
            "**at the others this is a model's guess.**"
        )
    else:
        rests = "Trials of every width lie there."
    yield Paragraph(
        f"The robust default is {setting}: {seen}. {rests} Shortfall of tried: the best trial in the cell less the "
        "best of its width, at the worst width that was tried, which is luck of the draw as well."
    )


def _range(row: dict[str, object], name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if pd.isna(low):  # type: ignore[call-overload]
        return NONE
    return number(low, 2) if low == high else f"{number(low, 2)} to {number(high, 2)}"
