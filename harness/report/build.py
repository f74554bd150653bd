"""What a report writes into the study's directory: each file whole or not at all, and the same bytes each time."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from harness.files import whole
from harness.report import beside, html, latex, markdown
from harness.report.drawings import drawings
from harness.report.findings import Report, judge
from harness.report.page import blocks

FIGURES = "HARNESS_FIGURES"
"""The variable that, as `none`, leaves the figures out: they are most of a report's seconds."""
OWN = ("figures/*.png", "figures/*.pdf", "figures/*.svg", "tables/*.tex")
"""What is removed where an older report left it."""


def write(study_dir: Path) -> Report:
    """Read `<out>/<study>` and write into it the CSV files, figures/, tables/, summary.md and report.html.

    Raises `FileNotFoundError` where the directory holds no study. A study that has hardly begun is reported as such.
    """
    draws = os.environ.get(FIGURES) != "none"
    with beside.helper(draws) as helper:
        report = judge(study_dir)
        rendered = beside.render(drawings(report), helper) if draws else []
    report = dataclasses.replace(report, drawn={drawing.stem: drawn for drawing, (_, drawn) in rendered})
    data = report.data
    on_front = data.trials["number"].isin(report.front["number"])
    tables = {
        "trials.csv": data.trials.assign(on_front=on_front),
        "pareto.csv": report.front,
        "controls.csv": report.controls,
        "gains.csv": _flat(report.gains),
        "importance.csv": report.importance.reset_index(names="knob"),
    }
    tables |= _knob_tables(report)
    if data.equal:
        tables[f"gains_by_{data.equal}.csv"] = _flat(report.options)
    if len(report.pulls):
        tables["pull.csv"] = report.pulls
    if len(data.others.trials):
        tables["other_controls.csv"] = data.others.trials
    if len(report.confirmed.trials):
        tables |= _confirmed_tables(report)
    if len(report.searches):
        tables["searches.csv"] = report.searches
    contents = {name: table.to_csv(index=False, lineterminator="\n").encode() for name, table in tables.items()}
    for drawing, (files, _) in rendered:
        contents |= {f"figures/{drawing.stem}.{kind}": content for kind, content in files.items()}
    contents |= {name: text.encode(errors="replace") for name, text in _pages(report)}
    for name, content in contents.items():
        with whole(study_dir / name, lasting=False) as place:
            place.write_bytes(content)
    written = tuple(study_dir / name for name in contents)
    for stale in itertools.chain(*(study_dir.glob(pattern) for pattern in OWN)):
        if stale not in written:
            stale.unlink()
    return dataclasses.replace(report, files=written)


def _confirmed_tables(report: Report) -> dict[str, pd.DataFrame]:
    found = report.confirmed
    tables = {"confirmed.csv": found.trials, "comparisons.csv": found.comparisons, "audit.csv": found.audit}
    tables |= {"bits.csv": report.bits} if len(report.bits) else {}
    tables |= {
        "recommended.csv": found.recommended,
        "classes.csv": found.classes,
        "reliability.csv": found.reliability,
    }
    tables |= {"comparisons_by_option.csv": found.by_option} if len(found.by_option) else {}
    tables |= {"comparisons_of_others.csv": found.others_against_plain} if len(found.others_against_plain) else {}
    return tables | ({"options_compared.csv": found.options_compared} if len(found.options_compared) else {})


def _knob_tables(report: Report) -> dict[str, pd.DataFrame]:
    found = report.knobs
    return {
        "importance_by_width.csv": found.importance,
        "interactions.csv": found.interactions.table,
        "indifference.csv": found.indifference,
        "robust.csv": found.robust,
    }


def _pages(report: Report) -> Iterator[tuple[str, str]]:
    """The tables and pages that are written from the blocks, by path."""
    found = blocks(report)
    for name, table in latex.tables(found).items():
        yield f"tables/{name}.tex", table
    yield "summary.md", markdown.page(found)
    yield "report.html", html.page(found, {stem: drawn.picture for stem, drawn in report.drawn.items()})


def _flat(table: pd.DataFrame) -> pd.DataFrame:
    """The gains with each row's per-seed differences as one cell, parted by blanks."""
    return table.assign(differences=[" ".join(f"{value:.6g}" for value in row) for row in table["differences"]])
