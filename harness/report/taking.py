"""What to take within each size, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from harness.analysis.load import rows_of
from harness.report.blocks import NONE, Block, Heading, Paragraph, Table, plain
from harness.report.findings import Report
from harness.report.tables import configuration, resampled, share, tested


def recommendation_section(report: Report) -> Iterator[Block]:
    """What to take within each size, and how sure that is."""
    found = report.confirmed
    if found.recommended.empty and not found.left_out:
        return
    yield Heading("What to take")
    yield from _left_out(report)
    if found.recommended.empty:
        return
    by_number = {int(row["number"]): row for row in rows_of(found.trials.drop_duplicates("number"))}
    rows = []
    for row in rows_of(found.recommended):
        own, other = (
            by_number[int(row["number"])],
            by_number.get(-1 if pd.isna(row["runner_up"]) else int(row["runner_up"])),
        )
        rows.append([
            f"{int(row['budget']):,}", configuration(own), tested(own), share(row["p_best"]),
            f"{100 * row['expected_regret']:.2f}", NONE if other is None else configuration(other),
        ])  # fmt: skip
    head = ["at most (params)", "take", "test (%)", "P(best)", "expected regret (points)", "runner-up"]
    yield Table(
        "recommended", "The configuration that validation chose within each size, judged on the test split.",
        head, rows, "recommended.csv",
    )  # fmt: skip
    yield Paragraph(
        "The choice is by mean validation accuracy on the fresh seeds, among what was confirmed, but for the shuffled "
        "teacher; P(best) and the expected regret (what is lost, on average, by not having the best of these) are over "
        f"resamples of {resampled(found.num_seeds)}. For other limits, and to have the student as files: "
        f"`python -m harness.recommend {report.data.name} --max-params N --export DIR`."
    )


def _left_out(report: Report) -> Iterator[Block]:
    """The configurations that are not judged among the others, and why; mostly nothing."""
    found = report.confirmed
    rows = rows_of(found.trials[found.trials["number"].isin(found.left_out)].drop_duplicates("number"))
    if rows:
        each = [f"trial {row['number']} ({configuration(row)}): {found.left_out[row['number']]}" for row in rows]
        yield Paragraph(
            f"**Left out of P(on front), P(best) and what to take**: {plain('; '.join(each))}. The study's sweep, "
            "given again, trains again what has lost its answers."
        )
