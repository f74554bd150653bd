"""Several searches of one study: what holds for the study, and not only for what one search found."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from harness.analysis.confirmed import BETTER, NOT_SHOWN, WORSE
from harness.analysis.load import rows_of
from harness.analysis.searches import LEAST, Planned
from harness.figures.confirmed import NAMES
from harness.report.blocks import NONE, Block, Heading, Paragraph, Table
from harness.report.findings import Report
from harness.report.tables import least, listed, number, points, power


def searches_section(report: Report) -> Iterator[Block]:
    """Every search's gain and their mean, by width and control; nothing where there is one search."""
    table = report.searches
    if table.empty:
        return
    yield Heading("Over several searches")
    rows = [
        [
            str(row["width"]), NAMES[row["control"]], str(row["num_searches"]),
            points(row["gain"], row["low"], row["high"]),
            points(row["gain"], row["crossed_low"], row["crossed_high"]).partition(" ")[2], row["gains"],
            NONE if pd.isna(row["sd"]) else f"{100 * row['sd']:.2f}", number(row["holm_p"], 2),
            least(row["mde"]), least(row["found_80"]), row["verdict"],
        ]
        for row in rows_of(table)
    ]  # fmt: skip
    head = ["width", "control", "searches", "gain (points), searches", "over searches and examples",
            "each search (points)", "SD over searches", "Holm p",
            "detectable (points)", "found with 80% power", "verdict"]  # fmt: skip
    caption = "Gain of what each search chose over the control that it tuned: the mean over searches of one study."
    yield Table("searches", caption, head, rows, "searches.csv")
    yield Paragraph(
        "The same study was searched under several seeds, each with trials, controls and fresh seeds of its own; a "
        "search counts once, with the mean over its fresh seeds. Here the interval holds what another search would "
        "choose, beside seeds and, in the second column, test examples (crossed random effects). Holm's correction is "
        f"over all {len(table)} rows; a control that was plain training itself in every search has none; fewer than "
        f"{LEAST} searches show nothing. {_how_many(report.planned)} All have one teacher, one training set and one "
        "split: what others would show is not known."
    )
    yield from report.figure("searches_gain", data="searches.csv")


def _how_many(plan: Planned) -> str:
    """Whether the number of searches was set before they were looked at, as it has to be, and what follows if not."""
    if not plan.count:
        return "How many searches were planned is not on record; it has to be set before they are looked at."
    if plan.missing:
        return _unfinished(plan)
    if plan.looks > 1:
        return (
            f"**Searches were added after there had been enough to look at: this is look {plan.looks}, and Holm's p is "
            f"multiplied by {plan.looks**2}, the square of that.**"
        )
    return f"Before there were {plan.count} there were not enough to look at."


def _unfinished(plan: Planned) -> str:
    seeds = listed([str(seed) for seed in plan.missing])
    return (
        f"**Of {plan.count} planned searches {len(plan.missing)} cannot be read, seed {seeds}: nothing is claimed "
        "before all are there.**"
    )


def searches_answer(report: Report) -> Iterator[str]:
    """The answer's sentence on plain training over all searches; nothing where too few have the pair."""
    table = report.searches
    every = table[table["control"] == "ce"] if len(table) else table
    own = every[every["num_searches"] >= LEAST]
    if own.empty:
        return
    few = [str(width) for width in every.loc[every["num_searches"] < LEAST, "width"]]
    least, most = int(own["num_searches"].min()), int(own["num_searches"].max())
    count = f"{most}" if least == most else f"{least} to {most}"
    said = [_verdict(own[own["verdict"] == verdict]) for verdict in (BETTER, WORSE, NOT_SHOWN)]
    yield (
        f"Over {count} searches of this study, each with its own choices, distillation against plain training: "
        f"{'; '.join(part for part in said if part)}."
        + (f" {_unfinished(report.planned)}" if report.planned.missing else power(own, "these searches"))
        + " All else here is of this search alone."
        + (f" Fewer than {LEAST} searches compare them at width {listed(few)}." if few else "")
    )


def _verdict(rows: pd.DataFrame) -> str:
    if rows.empty:
        return ""
    verdict = rows["verdict"].iloc[0]
    each = [f"{row['width']} ({points(row['gain'], row['crossed_low'], row['crossed_high'])})" for row in rows_of(rows)]
    return f"{verdict if verdict == NOT_SHOWN else f'**{verdict}**'} at width {listed(each)}"
