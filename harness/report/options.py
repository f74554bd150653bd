"""Which option? The one that validation chose against every other, on fresh seeds and the test split."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from harness.analysis.confirmed import BETTER, NOT_SHOWN, WORSE
from harness.analysis.load import rows_of
from harness.report.blocks import Block, Heading, List, Paragraph, Table, plain
from harness.report.controls import COMPARED, compared_cells
from harness.report.findings import Report
from harness.report.tables import least, listed, points

FEW = 3
"""The answer names so many options of a verdict; of more it says how many there are."""


def option_comparison_section(report: Report) -> Iterator[Block]:
    """Every option beside the one that validation chose; nothing where no choice has equal budgets."""
    table = report.confirmed.options_compared
    if not report.data.equal or report.confirmed.trials.empty:
        return
    knob = plain(report.data.equal)
    yield Heading(f"Every {report.data.equal} against the one that validation chose")
    if len(table):
        rows = [[str(row["width"]), row["chosen"], row["option"], *compared_cells(row)] for row in rows_of(table)]
        caption = (
            f"The {knob} that validation chose less every other, each at its best configuration, on fresh seeds and "
            "the test split, paired by seed and test example."
        )
        head = ["width", f"chosen {report.data.equal}", f"less {report.data.equal}", *COMPARED]
        yield Table("options_compared", caption, head, rows, "options_compared.csv")
    yield List(tuple(_width(report, width) for width in _widths(report)))
    if table.empty:
        return
    family = "the one row" if len(table) == 1 else f"all {len(table)} rows"
    yield Paragraph(
        f"The reference of a width is the {knob} of its best distilled trial, chosen by the search's validation alone: "
        "it is not the winner of the test, and another may be shown to be better. Every other is compared with it "
        "alone: two that are not told apart from it may still differ from one another, and rows stand in the order of "
        "their test means, which is no ranking. Not told apart is not equal: the intervals, each for one comparison, "
        "say how far apart they may be. Columns and verdicts are those of the comparisons with controls, with the "
        f"chosen {knob} in the place of distillation; Holm's correction is over {family} of this table. "
        f"Each {knob} stands here with the best configuration that this search found of it: another search may find "
        "others."
    )
    yield from report.figure("options_compared", data="options_compared.csv")


def options_answer(report: Report) -> Iterator[str]:
    """The answer's sentences on which option; nothing where none was compared."""
    table = report.confirmed.options_compared
    if table.empty:
        return
    each = [
        f"at width {width}, {plain(own['chosen'].iloc[0])}, which validation chose, is {_verdicts(own, few=FEW)}"
        for width, own in table.groupby("width")
    ]
    yield (
        f"Which {plain(report.data.equal)}, on the test split? {_sentence('; '.join(each))}. Each is compared with "
        "that choice alone, and not told apart is not equal."
    )


def _widths(report: Report) -> list[int]:
    trials = report.confirmed.trials
    return sorted({int(width) for width in trials["width"]})


def _width(report: Report, width: int) -> str:
    """What is shown at a width, and which options could not be compared there."""
    table, trials = report.confirmed.options_compared, report.confirmed.trials
    own = table[table["width"] == width]
    here = trials[trials["width"] == width]
    numbers = set(here.loc[here["role"] == "distilled", "number"])
    options = here[here["role"] == "option"]
    chosen = options.loc[options["number"].isin(numbers), "option"].astype(str).tolist()
    if not chosen:
        return f"**Width {width}**: what validation chose here is not among what was confirmed, so nothing is compared."
    said = f"**Width {width}**: validation chose {plain(chosen[0])}. "
    if len(own):
        said += f"On the test split it is {_verdicts(own)}."
    declared = {str(option) for option in getattr(report.data.space.get(report.data.equal), "options", ())}
    if missing := sorted(declared - {*chosen, *own["option"]}):
        said += f" Not compared, for want of a confirmed trial at this width: {plain(listed(missing))}."
    elif own.empty:
        said += "There is no other to compare it with."
    return " ".join(said.split())


def _verdicts(own: pd.DataFrame, few: int | None = None) -> str:
    """`better than kl (+1.30 [+0.40, 2.20]); not told apart from dist and mse, ...`, of the rows of one width.

    With `few`, no more than so many are named for a verdict, and without their numbers.
    """
    return "; ".join(
        _verdict(own[own["verdict"] == verdict], len(own), few)
        for verdict in (BETTER, WORSE, NOT_SHOWN)
        if (own["verdict"] == verdict).any()
    )


def _verdict(rows: pd.DataFrame, others: int, few: int | None) -> str:
    """As `_verdicts`, of those of the `others` that have one verdict."""
    verdict = rows["verdict"].iloc[0]
    shown = verdict != NOT_SHOWN
    names = [plain(option) for option in rows["option"]]
    if few is not None and len(names) > few:
        every = "all" if shown else "any of the"
        whom = f"{every} {others} others" if len(names) == others else f"{len(names)} of the {others} others"
    elif few is None and shown:
        gains = [points(row["gain"], row["crossed_low"], row["crossed_high"]) for row in rows_of(rows)]
        whom = listed([f"{name} ({gain})" for name, gain in zip(names, gains, strict=True)])
    else:
        whom = listed(names)
    if shown:
        return f"**{verdict}** than {whom}" + (", so validation missed the best" if verdict == WORSE else "")
    said, found = f"not told apart from {whom}", _span(rows)
    if not found:
        return said
    where = "where a true difference of"
    return f"{said}, {where} {found} is found with 80% power" if few is None else f"{said} ({found} is found at 80%)"


def _span(rows: pd.DataFrame) -> str:
    """The true differences that the rule finds with 80% power in these rows, in points; empty where none is known."""
    if rows["found_80"].isna().all():
        return ""
    low, high = (least(value) for value in (rows["found_80"].min(), rows["found_80"].max()))
    return f"{low if low == high else f'{low} to {high}'} points"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
