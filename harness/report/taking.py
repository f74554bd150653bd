"""What to take within each size, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from harness.analysis.confirmed import FEW_SEEDS
from harness.analysis.judged import against_plain
from harness.analysis.load import rows_of
from harness.report.blocks import NONE, Block, Heading, Paragraph, Table, plain
from harness.report.findings import Report
from harness.report.tables import configuration, points, probability, resampled, tested


def recommendation_section(report: Report) -> Iterator[Block]:
    """What to take within each size, and how sure that is."""
    found = report.confirmed
    if found.recommended.empty and not found.left_out:
        return
    yield Heading("What to take")
    yield from _left_out(report)
    if found.recommended.empty:
        return
    by_number = _by_number(report)
    rows = []
    for row in rows_of(found.recommended):
        own, other = (by_number.get(-1 if pd.isna(row[name]) else int(row[name])) for name in ("number", "runner_up"))
        rows.append([
            f"{int(row['budget']):,}", "nothing confirmed is as small" if own is None else configuration(own),
            NONE if own is None else tested(own), _sure(row),
            NONE if own is None else f"{100 * row['expected_regret']:.2f}",
            NONE if other is None else configuration(other), probability(row["runner_up_p_best"]),
        ])  # fmt: skip
    head = ["at most (params)", "take", "test (%)", "P(best)", "expected regret (points)", "runner-up", "its P(best)"]
    yield Table(
        "recommended", "The configuration that validation chose within each size, judged on the test split.",
        head, rows, "recommended.csv",
    )  # fmt: skip
    yield Paragraph(
        "The choice is by mean validation accuracy on the fresh seeds, among what was confirmed, but for the shuffled "
        "teacher. The runner-up is the likeliest of the others to be the best on the test split, and may be likelier "
        "than the choice; to take it for that would be to choose on the test split. P(best) and the expected regret "
        "(what is lost, on average, by not having the best of these) are over resamples of "
        f"{resampled(found.num_seeds)}.{_few(found.num_seeds)} For other limits, and to have the student as files: "
        f"`python -m harness.recommend {report.data.name} --max-params N --export DIR`."
    )


def _few(num_seeds: int) -> str:
    """What few seeds do to the resamples, as a sentence; empty where there are enough."""
    if not 1 < num_seeds < FEW_SEEDS:
        return ""
    return (
        f" With {num_seeds} seeds their spread is hardly known: resamples are wide, and the regret is said too large."
    )


def _unsure(num_seeds: int) -> str:
    """What is not in the resamples of so few seeds, as an aside; empty where there are enough."""
    if num_seeds >= FEW_SEEDS:
        return ""
    return " (one seed: what others would say is not in this)" if num_seeds == 1 else f" (on {num_seeds} seeds alone)"


def _by_number(report: Report) -> dict[int, Mapping[str, Any]]:
    """The confirmed trials, each once."""
    return {int(row["number"]): row for row in rows_of(report.confirmed.trials.drop_duplicates("number"))}


def budget_answers(report: Report) -> Iterator[str]:
    """What to take within each of the study's size budgets, one line a budget; nothing where it has none."""
    found, budgets = report.confirmed, report.data.size_budgets
    if budgets and found.recommended.empty:
        limits = ", ".join(f"{limit:,}" for limit in budgets)
        yield f"What to take within **{limits} parameters** is not said: nothing was confirmed on fresh seeds."
    by_number = _by_number(report)
    for row in rows_of(found.recommended) if budgets else ():
        head = f"Within **{int(row['budget']):,} parameters**: "
        if pd.isna(row["number"]):
            yield f"{head}nothing that was confirmed is as small."
            continue
        own = by_number[int(row["number"])]
        lead = f"{head}{plain(configuration(own))}, {int(own['num_params']):,} parameters, {tested(own)}% on test"
        if pd.isna(row["runner_up"]):
            yield f"{lead}{_over(report, own)}. Nothing else that was confirmed and can be judged fits."
            continue
        yield (
            f"{lead}{_over(report, own)}. P(best) {_sure(row)} among what was confirmed and fits, expected regret "
            f"{100 * row['expected_regret']:.2f} points{_unsure(found.num_seeds)}{_runner_up(by_number, row)}."
        )


def _sure(row: Mapping[str, Any]) -> str:
    """P(best) of what is taken; of the only one that fits there is none."""
    return NONE if pd.isna(row["runner_up"]) else probability(row["p_best"])


def _runner_up(by_number: Mapping[int, Mapping[str, Any]], row: Mapping[str, Any]) -> str:
    """The likeliest of the others to be the best, and what it has on test, as a clause."""
    other = by_number[int(row["runner_up"])]
    likelier = " (likelier than what validation chose)" if row["runner_up_p_best"] > row["p_best"] else ""
    said = f"{plain(configuration(other))}, {tested(other)}%, P(best) {probability(row['runner_up_p_best'])}"
    return f"; runner-up {said}{likelier}"


def _over(report: Report, own: Mapping[str, Any]) -> str:
    """What a configuration has over plain training of its width, as a clause; empty where that is not known."""
    gain = against_plain(report.confirmed, int(own["number"]))
    if gain is None:
        return ""
    value = points(gain["gain"], gain["crossed_low"], gain["crossed_high"])
    holm = NONE if pd.isna(gain["holm_p"]) else f"{gain['holm_p']:.2g}"
    others = report.confirmed.others_against_plain["distilled_number"]
    apart = " in a table of its own" if (others == own["number"]).any() else ""
    return f", {value} points against plain training of its width: {gain['verdict']} (Holm p {holm}{apart})"


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
