"""The page as blocks: the question, the answer with its limits, tables and figures, the protocol.

A section is a function in a file of its concern that takes the report and yields blocks (`Heading` first, nothing where
there is nothing to say), and its name in `SECTIONS`. Its tables become LaTeX files, its figures are taken from
`Report.figure`. How blocks look in a format is that format's file: `markdown`, `html`, `latex`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from harness.report import markdown
from harness.report.answer import head
from harness.report.blocks import Block, Figure, Heading
from harness.report.budget import budget_section
from harness.report.comparisons import front_section, gain_section, option_section
from harness.report.confirmed import audit_section, calibration_section, confirmed_section
from harness.report.controls import comparison_section
from harness.report.findings import Report
from harness.report.knobs import knob_section, learning_section, pull_section
from harness.report.language import language_section
from harness.report.options import option_comparison_section
from harness.report.protocol import protocol
from harness.report.searches import searches_section
from harness.report.taking import recommendation_section
from harness.report.together import indifference_section, interaction_section, width_section

SECTIONS: tuple[Callable[[Report], Iterable[Block]], ...] = (
    head,
    confirmed_section,
    language_section,
    comparison_section,
    searches_section,
    option_comparison_section,
    recommendation_section,
    front_section,
    gain_section,
    option_section,
    knob_section,
    width_section,
    interaction_section,
    indifference_section,
    pull_section,
    learning_section,
    calibration_section,
    audit_section,
    budget_section,
)


def blocks(report: Report) -> list[Block]:
    """The whole page. A figure that no section shows stands before the protocol, which is always last."""
    found = [block for section in SECTIONS for block in section(report)]
    shown = {block.stem for block in found if isinstance(block, Figure)}
    return [*found, *_other_figures(report, shown), *protocol(report)]


def page(report: Report) -> str:
    """The whole page as Markdown."""
    return markdown.page(blocks(report))


def _other_figures(report: Report, shown: set[str]) -> Iterator[Block]:
    if rest := [stem for stem in report.drawn if stem not in shown]:
        yield Heading("Other figures")
        for stem in rest:
            yield from report.figure(stem)
