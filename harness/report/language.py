"""A language model's section: bits a character on the test split, and what distillation saves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from harness.analysis.confirmed import BETTER, NOT_SHOWN, WORSE
from harness.analysis.load import rows_of
from harness.figures.confirmed import NAMES
from harness.report.blocks import NONE, Block, Heading, List, Paragraph, Table, code
from harness.report.findings import Report
from harness.report.tables import listed, number

WORDS: Mapping[str, str] = {
    BETTER: "distilled models **save**", WORSE: "distilled models **cost more**", NOT_SHOWN: "no difference is shown",
}  # fmt: skip
SHOWN = ("distilled", "ce")
"""Whose texts are shown."""
NUM_WRITTEN = 120
"""Tokens of a sample that are the model's own; see `harness.cohort.evaluate`."""


def bits_answer(report: Report) -> tuple[str, ...]:
    """The answer in bits a character, in one sentence; nothing for other tasks."""
    table = report.bits
    plain = rows_of(table[table["role"] == "ce"]) if len(table) else []
    parts = []
    for verdict, words in WORDS.items():
        own = [row for row in plain if not pd.isna(row["saved"]) and row["verdict"] == verdict]
        each = [str(row["width"]) + ("" if verdict == NOT_SHOWN else f" ({_crossed(row)})") for row in own]
        parts += [f"{words} at width {listed(each)}"] if own else []
    return (f"In bits a character against plain training: {'; '.join(parts)}.",) if parts else ()


def language_section(report: Report) -> Iterator[Block]:
    """Bits a character by width, distilled beside every control; nothing for other tasks."""
    table = report.bits
    if table.empty:
        return
    yield Heading("Bits a character, on the test split")
    rows = [
        [str(row["width"]), NAMES.get(row["role"], "distilled"), str(row["form"]), f"{row['num_params']:,}",
         f"{row['bits']:.4f}", number(row["bits_sd"], 2), f"{row['perplexity']:.3f}", _saved(row, "low", "high"),
         _crossed(row).partition(" ")[2] or NONE, *_tests(row), row["verdict"] or NONE, str(row["num_seeds"])]
        for row in rows_of(table)
    ]  # fmt: skip
    head = [
        "width", "what", "form", "params", "bits a character", "SD", "perplexity",
        "saved by distillation (bits), seeds", "over seeds and texts", "p (Holm)", "sign flip p (floor)",
        "verdict", "seeds",
    ]  # fmt: skip
    caption = "Test loss in bits a character on fresh seeds, and what the best distilled model saves, paired by seed."
    yield Table("bits", caption, head, rows, "bits.csv")
    by = "validation loss" if report.data.selected_by == "val_loss" else "validation accuracy"
    yield Paragraph(
        f"Chosen by {by} in the search, trained again on fresh seeds. Saved: the control's bits less those of the best "
        "distilled model of its width, with its 95% t interval over seeds, then the interval over seeds and test texts "
        "(crossed), for which texts are taken as independent samples. p: the larger of both; Holm's correction is over "
        f"all {int(table['saved'].notna().sum())} comparisons. A difference is named by the rule for accuracies: "
        "Holm's p below .05, and at least what is detectable. Perplexity is of one label, "
        + ("which is one character." if report.data.characters_a_label == 1 else
           f"which stands for {report.data.characters_a_label:.3f} characters on average.")
    )  # fmt: skip
    yield from report.figure("bits", data="bits.csv")
    wrote = [(row, report.confirmed.wrote.get(int(row["number"]))) for row in rows_of(table) if row["role"] in SHOWN]
    if texts := tuple(_text(report, row, tokens) for row, tokens in wrote if tokens is not None):
        yield Paragraph("What models of the first fresh seed write on, after the bar, from a validation text:")
        yield List(texts)


def _text(report: Report, row: Mapping[str, Any], tokens: Sequence[int]) -> str:
    """A sample in one line: the text that was given, a bar, what was written."""
    pieces: Sequence[str] = (report.data.manifest.get("task") or {}).get("vocabulary") or ()
    said = [str(pieces[token]) if 0 <= token < len(pieces) else "?" for token in tokens]
    given = len(tokens) - NUM_WRITTEN
    text = "".join([*said[max(given - 30, 0) : given], "|", *said[given:]])
    one_line = text.replace("\n", "⏎").replace("`", "'")
    return f"width {row['width']}, {NAMES.get(row['role'], 'distilled')}: {code(one_line)}"


def _saved(row: Mapping[str, Any], low: str, high: str) -> str:
    if pd.isna(row["saved"]):
        return NONE
    interval = "" if pd.isna(row[low]) else f" [{row[low]:+.4f}, {row[high]:+.4f}]"
    return f"{row['saved']:+.4f}{interval}"


def _crossed(row: Mapping[str, Any]) -> str:
    return _saved(row, "crossed_low", "crossed_high")


def _tests(row: Mapping[str, Any]) -> tuple[str, str]:
    if pd.isna(row["saved"]):
        return NONE, NONE
    larger = max(row["p_t"], row["p_crossed"]) if not pd.isna(row["p_crossed"]) else row["p_t"]
    return (f"{number(larger, 2)} ({number(row['holm_p'], 2)})",
            f"{number(row['p_sign_flip'], 2)} ({number(row['p_floor'], 2)})")  # fmt: skip
