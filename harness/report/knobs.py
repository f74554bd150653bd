"""What the knobs did: alpha and temperature, importance, how the losses pull, and how students learnt."""

from __future__ import annotations

from collections.abc import Iterator

from harness.analysis.load import rows_of
from harness.report.blocks import Block, Heading, Paragraph, Table, plain
from harness.report.findings import Report
from harness.report.tables import number


def knob_section(report: Report) -> Iterator[Block]:
    """Where in alpha and temperature distillation gains, and which knobs mattered."""
    yield Heading("The knobs")
    yield from report.figure("alpha_temperature", data="trials.csv")
    yield from report.figure("importance", data="importance.csv")
    if report.no_importance:
        yield Paragraph(f"Importance is not shown: {plain(report.no_importance)}.")


def pull_section(report: Report) -> Iterator[Block]:
    """How strongly each loss form pulls, and where to; nothing where no record says."""
    if report.pulls.empty:
        return
    yield Heading("How the losses pull")
    moments = ("start", "middle", "end")
    rows = [
        [str(row["form"]), str(row["num_students"])]
        + [number(row[f"{kind}_{moment}"], 2) for kind in ("kd_ratio", "kd_cosine") for moment in moments]
        for row in rows_of(report.pulls)
    ]
    head = ["form", "students", *(f"{kind}, {moment}" for kind in ("ratio", "cosine") for moment in moments)]
    caption = "How each loss form pulls beside cross-entropy: medians over students at three moments of training."
    yield Table("pulls", caption, head, rows, "pull.csv")
    yield Paragraph(
        "Norm of the distillation loss's gradient over that of cross-entropy's, before alpha, and the cosine of the "
        "angle between them: medians over the students of finished trials. One alpha does not mean the same under two "
        "forms of different ratio."
    )
    yield from report.figure("pull", data="pull.csv")


def learning_section(report: Report) -> Iterator[Block]:
    """How the students of the front learnt, and whether imitating the teacher went with being right."""
    if not {"learning_curves", "fidelity"} & set(report.drawn):
        return
    yield Heading("How the students learnt")
    yield from report.figure("learning_curves")
    yield from report.figure("fidelity", data="trials.csv")
