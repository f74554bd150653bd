"""What the study spent, and on what: teacher, search and controls, with what failed or diverged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from harness.analysis.load import STATES, StudyData
from harness.report.blocks import NONE, Block, Heading, Paragraph, Table, code, plain
from harness.report.findings import Report

ARMS = {
    "search": "search (distilled)",
    "control": "controls (plain)",
    "smoothing": "controls (label smoothing)",
    "self": "controls (self-teacher)",
    "shuffled": "controls (shuffled teacher)",
}


def budget_section(report: Report) -> Iterator[Block]:
    """The part of the page on trials and cost."""
    data = report.data
    teacher: Mapping[str, Any] = data.manifest.get("teacher") or {}
    states = [state for state in STATES[1:] if state != "pruned" or (data.trials["state"] == "pruned").any()]
    head = ["", "trials", "complete", "of them diverged", *states, "seconds", "training FLOPs"]
    every = pd.concat([part for part in (data.trials, data.others.trials) if len(part)] or [data.trials])
    rows = [_arm(label, every[every["arm"] == arm], states) for arm, label in ARMS.items()
            if arm in ("search", "control") or (every["arm"] == arm).any()]  # fmt: skip
    if len(data.confirmed.trials):
        rows.append(_arm("confirmed, fresh seeds", data.confirmed.trials, states))
    if data.trials["arm"].isna().any():
        rows.append(_arm("arm unknown", data.trials[data.trials["arm"].isna()], states))
    blanks = [NONE] * (len(head) - 3)
    rows.append(["teacher", *blanks, _seconds(teacher.get("seconds")), _flops(teacher.get("train_flops"))])
    yield Heading("Budget")
    yield Table("budget", "Trials and cost, by arm.", head, rows, "trials.csv")
    planned = data.manifest.get("budget") or {}
    wall = data.manifest.get("seconds")
    yield Paragraph(
        f"Planned: {plain(planned.get('trials', '?'))} search trials, and at each width "
        f"{plain(planned.get('controls_per_width', '?'))} controls. "
        "Seconds of students are each one's share of its cohort's wall-clock, summed; failed trials' cost is not "
        f"recorded. The whole sweep took {_seconds(wall)} seconds."
    )
    if "pruned" in states:
        yield Paragraph(_pruned(data))
    if not teacher:
        yield Paragraph("The manifest has no teacher: the sweep was stopped before one was ready.")
    elif teacher.get("val_accuracy") is not None:
        yield Paragraph(
            f"Teacher: {plain(teacher.get('name', '?'))}{_of_width(teacher)}, "
            f"{int(teacher.get('num_params') or 0):,} parameters, {100 * teacher['val_accuracy']:.2f}% on validation, "
            f"key {code(teacher.get('key', '?'))}."
        )
    yield from report.figure("hypervolume")


def _pruned(data: StudyData) -> str:
    """How many trials were pruned, and when."""
    at = data.trials.loc[data.trials["state"] == "pruned", "pruned_at"].value_counts().sort_index()
    said = ", ".join(f"{count} pruned at epoch {epoch}" for epoch, count in at.items())
    pruning: Mapping[str, Any] = (data.manifest.get("identity") or {}).get("pruning") or {}
    share = f"the best 1 / {pruning['reduction_factor']:g}" if "reduction_factor" in pruning else "the best"
    return (
        f"Pruning: {said}. At these epochs {share} of the trials of one width, arm and round of asking went on. "
        "Pruned trials were tried and discarded on validation: they are counted here and in the cost, and stand in no "
        "other table or statistic; 'best of' counts finished trials alone."
    )


def _arm(label: str, trials: pd.DataFrame, others: Sequence[str]) -> list[str]:
    states = trials["state"].value_counts()
    diverged = int((trials["status"] == "diverged").sum())
    counts = [int(states.get(state, 0)) for state in (STATES[0], *others)]
    cost = [_seconds(float(trials["seconds"].sum())), _flops(float(trials["train_flops"].sum()))]
    return [label, str(len(trials)), str(counts[0]), str(diverged), *(str(count) for count in counts[1:]), *cost]


def _seconds(value: float | None) -> str:
    return NONE if value is None else f"{value:.1f}"


def _flops(value: float | None) -> str:
    return NONE if value is None else f"{value:.2e}"


def _of_width(teacher: Mapping[str, Any]) -> str:
    """The width of a teacher that was trained here; one that was given has none, nor a known training."""
    width = teacher.get("width", "?")
    return f" of width {plain(width)}" if width else ", given, its own training not counted"
