"""The head of the page: the question, and the answer with its limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from harness.analysis.compare import SHOWN
from harness.analysis.judged import weakness
from harness.analysis.load import rows_of
from harness.report.blocks import Block, Heading, List, Paragraph, plain
from harness.report.controls import answer as confirmed_answer
from harness.report.controls import other_answers
from harness.report.findings import Report
from harness.report.language import bits_answer
from harness.report.options import options_answer
from harness.report.searches import searches_answer
from harness.report.tables import configuration, listed, number, points
from harness.report.taking import budget_answers
from harness.report.unconfirmed import unconfirmed
from harness.spec import PLAIN
from harness.values import is_number

FEW = 100
"""With fewer validation examples it is said that they choose little: one is a point or more."""


def head(report: Report) -> Iterator[Block]:
    """The title, the question and the answer."""
    task = plain((report.data.manifest.get("task") or {}).get("name", "its task"))
    knob = plain(report.data.equal)
    aside = f" And which {knob}, each tuned with as many trials?" if knob else ""
    yield Heading(report.data.name, level=1)
    yield Paragraph(
        f"**The question.** On {task}, which loss form, alpha and temperature should distil a student of each size, "
        f"and what does that gain over plain training of the same width?{aside}",
        "question",
    )
    yield from _answer(report)


def _answer(report: Report) -> Iterator[Block]:
    front = report.front
    if front.empty:
        yield Paragraph(f"**No answer yet.** {_nothing_finished(report)}", "answer")
        yield from (Paragraph(said) for said in budget_answers(report))
        return
    places = tuple(dict.fromkeys(_place(row) for row in rows_of(front)))  # equal trials are said once
    count = _count(len(front[["num_params", "val_accuracy"]].drop_duplicates()), len(front))
    confirmed = confirmed_answer(report)
    said = confirmed or f"The Pareto front on validation has {count}. {_gain_answer(report)}"
    if over := "".join(searches_answer(report)):  # it has more weight than what one search found
        yield Paragraph(f"**Answer.** {over}", "answer")
    head = "**This search alone.**" if over else "**Answer.**"
    yield Paragraph(f"{head} {said}{plain(unconfirmed(report.data))}", "answer")
    if others := (
        *budget_answers(report),
        *bits_answer(report),
        *other_answers(report),
        *options_answer(report),
    ):
        yield List(others)
    yield from _weak_students(report)
    for weak in (_weak_teacher(report), _few_to_choose_by(report)):
        if weak:
            yield Paragraph(weak)
    if confirmed:
        yield Paragraph(f"In the search, the Pareto front on validation has {count}. {_gain_answer(report)}")
    yield Paragraph("On the front, small to large, with gains in points and their 95% intervals:")
    yield List(places)


def _count(points: int, trials: int) -> str:
    """How many configurations a front has: equal ones stand at one point of it."""
    if points == trials:
        return "one configuration" if trials == 1 else f"{trials} configurations"
    return f"{trials} configurations at {'one point' if points == 1 else f'{points} points'}"


def _nothing_finished(report: Report) -> str:
    """How many trials there are, and what became of them."""
    both = pd.concat([report.data.trials, report.data.others.trials])
    count, diverged = len(both), int((both["status"] == "diverged").sum())
    said = f"Of {count} trial{'' if count == 1 else 's'} on disk, controls included, none finished without diverging."
    if not diverged:
        return said
    return (
        f"{said} {diverged} diverged: a lower lr, gradient clipping (`clip_norm`) or another optimiser is the first "
        "thing to try."
    )


def _weak_students(report: Report) -> Iterator[Block]:
    """A warning where what would be taken is not above chance, or has diverged; mostly nothing."""
    found = report.confirmed
    rows = rows_of(found.trials[found.trials["number"].isin(found.recommended["number"])].drop_duplicates("number"))
    weak = [f"{configuration(row)}: {said}" for row in rows if (said := weakness(found, row))]
    if weak:
        yield Paragraph(f"**Of what validation would take, beware of** {plain('. '.join(weak))}.")


def _weak_teacher(report: Report) -> str:
    """A warning where the teacher has nothing over a student that was trained without it; mostly empty."""
    own = (report.data.manifest.get("teacher") or {}).get("val_accuracy")
    if not is_number(own) or report.controls.empty:
        return ""
    best = rows_of(report.controls.nlargest(1, "val_accuracy"))[0]
    if own > best["val_accuracy"]:
        return ""
    return (
        f"**The teacher is no better than a student without one**: {100 * own:.2f}% on validation, plain training of "
        f"width {best['width']} has {100 * best['val_accuracy']:.2f}%. A better teacher is the first thing to try."
    )


def _few_to_choose_by(report: Report) -> str:
    """A warning where validation is so small that what it chooses is mostly a draw; mostly empty."""
    count = ((report.data.manifest.get("task") or {}).get("sizes") or {}).get("val")
    if not count or count >= FEW:
        return ""
    return (
        f"**Validation has {count} example{'' if count == 1 else 's'}**: one is {100 / count:.3g} points, and what is "
        "chosen by them is largely a draw."
    )


def _place(row: Mapping[str, Any]) -> str:
    knobs = "plain training" if row["form"] == PLAIN else f"{plain(row['form'])}, alpha {number(row['alpha'], 2)}"
    if not pd.isna(row["temperature"]):
        knobs += f", temperature {number(row['temperature'], 2)}"
    gain = "" if pd.isna(row["gain"]) else f", {points(row['gain'], row['gain_low'], row['gain_high'])} on its control"
    size = f"**Width {row['width']}** ({row['num_params']:,} parameters)"
    return f"{size}: {knobs}, {100 * row['val_accuracy']:.2f}%{gain}"


def _gain_answer(report: Report) -> str:
    gains = report.gains
    if gains.empty:
        return (
            "What distillation gains cannot be said: no width has both a finished plain control and a finished "
            "distilled trial."
        )
    shown = gains[gains["verdict"] == SHOWN]
    widths = len(gains)
    where = "the one width compared" if widths == 1 else f"any of the {widths} widths compared"
    if shown.empty:
        low, high = 100 * float(gains["gain"].min()), 100 * float(gains["gain"].max())
        span = f"{low:+.2f} points" if widths == 1 else f"{low:+.2f} to {high:+.2f} points"
        said = f"Against the tuned plain control of the same width, no difference is shown at {where} ({span}). "
    else:
        rest = widths - len(shown)
        others = f"; at the other {rest}, no difference is shown" if rest else ""
        sides = {"better": shown[shown["gain"] > 0], "worse": shown[shown["gain"] < 0]}
        each = [
            f"{side} at width {listed(own['width'].astype(str).tolist())}" for side, own in sides.items() if len(own)
        ]
        said = f"Against the tuned plain control, distillation is shown {' and '.join(each)} on validation{others}. "
    return said + _power(gains) + " " + _selection(gains)


def _power(gains: pd.DataFrame) -> str:
    seeds = int(gains["num_seeds"].min())
    least = gains["mde"].max()
    plural = "" if seeds == 1 else "s"
    if pd.isna(least):
        return f"With {seeds} seed{plural} there is no spread from which to say what could have been detected."
    if least >= 1:
        return f"With {seeds} seed{plural} no true difference would be found with 80% power: the spread is too large."
    return f"With {seeds} seed{plural}, 80% power needs a true difference of {100 * least:.2f} points."


def _selection(gains: pd.DataFrame) -> str:
    plain, distilled = (_span(gains[f"{side}_trials"]) for side in ("control", "distilled"))
    return (
        f"Each side is the best of its trials ({plain} plain, {distilled} distilled at a width), chosen on the "
        "same validation split that measures them: every gain is a search-stage estimate, not a confirmed claim."
    )


def _span(counts: pd.Series[int]) -> str:
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low} to {high}"
