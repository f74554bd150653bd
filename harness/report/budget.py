"""What the study spent, and on what: teachers, their logits, search and controls, with what was discarded."""

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
    head = ["", "trials", "complete", "of them diverged", *states, "seconds", "FLOPs"]
    every = pd.concat([part for part in (data.trials, data.others.trials) if len(part)] or [data.trials])
    rows = [_arm(label, every[every["arm"] == arm], states) for arm, label in ARMS.items()
            if arm in ("search", "control") or (every["arm"] == arm).any()]  # fmt: skip
    if len(data.confirmed.trials):
        rows.append(_arm("confirmed, fresh seeds", data.confirmed.trials, states))
    if data.trials["arm"].isna().any():
        rows.append(_arm("arm unknown", data.trials[data.trials["arm"].isna()], states))
    blanks = [NONE] * (len(head) - 3)
    rows.append(_discarded(report, every, states))
    rows += [[label, *blanks, _seconds(seconds), _flops(flops)] for label, seconds, flops in teachers_cost(teacher)]
    yield Heading("Budget")
    yield Table("budget", "Trials and cost, by arm.", head, rows, "trials.csv")
    planned = data.manifest.get("budget") or {}
    wall = data.manifest.get("seconds")
    known = data.manifest.get("ended", False) and not data.manifest.get("at_least", False)
    at_least = "" if known or wall is None else "at least "
    yield Paragraph(
        f"Planned: {plain(planned.get('trials', '?'))} search trials, and at each width "
        f"{plain(planned.get('controls_per_width', '?'))} controls. "
        "Seconds of students are each one's share of its cohort's wall-clock, summed; failed trials' cost is not "
        f"recorded. The whole sweep took {at_least}{_seconds(wall)} seconds."
    )
    if teacher:
        yield Paragraph(_of_teachers(data, teacher))
    if "pruned" in states:
        yield Paragraph(_pruned(data))
    if not teacher:
        yield Paragraph("The manifest has no teacher: the sweep was stopped before one was ready.")
    elif teacher.get("val_accuracy") is not None:
        yield Paragraph(
            f"Teacher: {plain(teacher.get('name', '?'))}{_of_width(teacher)}, "
            f"{_size(teacher)}, {100 * teacher['val_accuracy']:.2f}% on validation, "
            f"key {code(teacher.get('key', '?'))}."
        )
    yield from report.figure("hypervolume")


def _pruned(data: StudyData) -> str:
    """How many trials were pruned, and when."""
    parts = [part for part in (data.trials, data.others.trials) if "pruned_at" in part]
    every = pd.concat(parts) if parts else data.trials
    at = every.loc[every["state"] == "pruned", "pruned_at"].value_counts().sort_index()
    said = ", ".join(f"{count} pruned at epoch {epoch}" for epoch, count in at.items())
    pruning: Mapping[str, Any] = (data.manifest.get("identity") or {}).get("pruning") or {}
    share = f"the best 1 / {pruning['reduction_factor']:g}" if "reduction_factor" in pruning else "the best"
    return (
        f"Pruning: {said}. At these epochs {share} of the trials of one width, arm and round of asking went on. "
        "Pruned trials were tried and discarded on validation: they are counted here and in the cost, and stand in no "
        "other table or statistic; 'best of' counts finished trials alone."
    )


def _discarded(report: Report, every: pd.DataFrame, states: Sequence[str]) -> list[str]:
    """The trials that were not chosen; their cost is in the rows above too. Without a confirm stage only the front is
    chosen, and controls are no candidates."""
    if len(chosen := report.data.confirmed.trials):
        return _arm("of these, not confirmed", every[~every["number"].isin(chosen["source"])], states)
    searched = every[every["arm"] == "search"]
    return _arm("of the search, not on the front", searched[~searched["number"].isin(report.front["number"])], states)


def teachers_cost(teacher: Mapping[str, Any]) -> Iterator[tuple[str, float | None, float | None]]:
    """What was spent on the teacher, on others where there are any, and on what they say: label, seconds and FLOPs.

    A teacher that was given has no width, and its training was another's; of a sweep of an earlier version, nothing is
    known but the training of its teacher.
    """
    given, spent = teacher.get("width") == 0, teacher.get("spent") or {}
    own = [None, None] if given else [teacher.get("seconds"), teacher.get("train_flops")]
    yield "teacher", own[0], own[1]
    others, logits = spent.get("others") or {}, spent.get("logits") or {}
    if others.get("count"):
        yield f"other teachers ({others['count']})", others.get("seconds"), others.get("flops")
    yield "teachers' logits" if others.get("count") else "teacher's logits", logits.get("seconds"), logits.get("flops")


def _of_teachers(data: StudyData, teacher: Mapping[str, Any]) -> str:
    """What is counted in the rows of the teachers, and what is not."""
    said = (
        "FLOPs of students and teachers are of training, six per multiply-accumulate and example. Those of logits are "
        "of the training and validation splits, with views and features: two per multiply-accumulate and example. "
        "Teachers and logits are kept for other studies: their cost is what they took when they were made."
    )
    sizes = (data.manifest.get("task") or {}).get("sizes") or {}
    if len(data.confirmed.trials) and sizes.get("test"):
        flops = 2.0 * (teacher.get("macs") or 0) * sizes["test"]
        own = f" ({_flops(flops)} FLOPs each)" if flops else ""
        said += f" Every worker that confirms computes logits of the test split{own}, within its students' seconds."
    return said


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


def _size(teacher: Mapping[str, Any]) -> str:
    """A given teacher may be no more than its answers."""
    count = int(teacher.get("num_params") or 0)
    return f"{count:,} parameters" if count else "of a size that is not known"


def _of_width(teacher: Mapping[str, Any]) -> str:
    """The width of a teacher that was trained here; one that was given has none, nor a known training."""
    width = teacher.get("width", "?")
    return f" of width {plain(width)}" if width else ", given, its own training not counted"
