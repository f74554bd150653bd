"""`summary.md`: the question, the answer with its limits, the tables, the protocol and the figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from harness.analysis.compare import SHOWN
from harness.analysis.importance import edges
from harness.analysis.load import is_plain, rows_of
from harness.report.budget import budget_section
from harness.report.findings import Report
from harness.report.tables import NONE, accuracy, caution, front_columns, front_rows, markdown, number, points
from harness.space import direction
from harness.spec import PLAIN

FORMULAS = {
    "convex": "`alpha * CE(student, labels) + (1 - alpha) * KD(student, teacher)`",
    "additive": "`CE(student, labels) + alpha * KD(student, teacher)`",
}


def page(report: Report) -> str:
    """The whole page, ending in a newline."""
    parts = [*_head(report), *_front_section(report), *_gain_section(report), *_option_section(report)]
    parts += [*_pull_section(report), *budget_section(report.data)]
    parts += [*_protocol(report), *_figure_section(report)]
    return "\n\n".join(parts) + "\n"


def _head(report: Report) -> Iterator[str]:
    task = (report.data.manifest.get("task") or {}).get("name", "its task")
    yield f"# {report.data.name}"
    yield _answer(report)
    knob = report.data.equal
    aside = f" And which {knob}, each tuned with as many trials?" if knob else ""
    yield (
        f"**The question.** On {task}, which loss form, alpha and temperature should distil a student of each size, "
        f"and what does that gain over plain training of the same width?{aside}"
    )


def _answer(report: Report) -> str:
    front = report.front
    if front.empty:
        found = len(report.data.trials)
        return (
            f"**No answer yet.** Of {found} trial{'' if found == 1 else 's'} on disk, none finished without diverging."
        )
    said = [_place(row) for row in rows_of(front)]
    listed = said[0] if len(said) == 1 else "; ".join(said)
    count = "one configuration" if len(said) == 1 else f"{len(said)} configurations"
    head = f"**Answer.** The Pareto front on validation has {count} (gains in points, with 95% intervals)"
    return f"{head}: {listed}. {_gain_answer(report)}"


def _place(row: Mapping[str, Any]) -> str:
    knobs = "plain training" if row["form"] == PLAIN else f"{row['form']}, alpha {number(row['alpha'], 2)}"
    if not pd.isna(row["temperature"]):
        knobs += f", temperature {number(row['temperature'], 2)}"
    gain = "" if pd.isna(row["gain"]) else f", {points(row['gain'], row['gain_low'], row['gain_high'])} on its control"
    size = f"width {row['width']} ({row['num_params']:,} parameters)"
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
        each = ", ".join(f"{width}" for width in shown["width"])
        said = f"Against the tuned plain control, validation shows a paired difference at width {each}{others}. "
    return said + _power(gains) + " " + _selection(gains)


def _power(gains: pd.DataFrame) -> str:
    seeds = int(gains["num_seeds"].min())
    least = gains["mde"].max()
    plural = "" if seeds == 1 else "s"
    if pd.isna(least):
        return f"With {seeds} seed{plural} there is no spread from which to say what could have been detected."
    return f"With {seeds} seed{plural}, 80% power needs a true difference of {100 * least:.2f} points."


def _selection(gains: pd.DataFrame) -> str:
    plain, distilled = (_span(gains[f"{side}_trials"]) for side in ("control", "distilled"))
    return (
        f"Both sides are the best of several trials ({plain} plain, {distilled} distilled at a width), chosen on the "
        "same validation split that measures them: every gain is a search-stage estimate, not a confirmed claim."
    )


def _span(counts: pd.Series[int]) -> str:
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low} to {high}"


def _front_section(report: Report) -> Iterator[str]:
    yield "## The front"
    if report.front.empty:
        yield "No trial has finished without diverging."
        return
    yield markdown(front_columns(report), front_rows(report))
    yield caution(report)
    objectives = list(report.data.manifest.get("objectives") or [])
    if objectives and set(objectives) != {"val_accuracy", "num_params"}:
        yield (
            f"The search's own objectives were {', '.join(objectives)}; this front is always of val_accuracy against "
            "num_params, so that studies compare."
        )
    if found := edges(report.front[~is_plain(report.front)], report.data.space):
        yield "**On the edge.** " + "; ".join(found) + ". A wider range might do better."


def _gain_section(report: Report) -> Iterator[str]:
    yield "## Distillation against plain training"
    if report.controls.empty:
        yield "No plain control has finished, so nothing can be compared."
        return
    table = {row["width"]: row for row in rows_of(report.gains)}
    rows = []
    for control in rows_of(report.controls):
        row = table.get(control["width"])
        mean = accuracy(control["val_accuracy"], control["val_accuracy_sd"], int(control["num_seeds"]))
        rows.append([
            str(control["width"]), f"{control['number']} (best of {control['trials_tried']})",
            number(control["lr"], 2), mean, *([NONE] * 6 if row is None else _gain_cells(row)),
        ])  # fmt: skip
    head = [
        "width", "control trial", "its lr", "its val accuracy (%)", "distilled trial", "gain (points)",
        "p, t (Holm)", "p, sign flip (floor)", "detectable (points)", "verdict",
    ]  # fmt: skip
    yield markdown(head, rows)
    yield (
        "Control and distilled trial are each the best of their width on validation, out of the finished trials named. "
        "Gain: mean of the differences paired by seed, with its 95% t interval, which needs two seeds that differ. "
        "The exact sign-flip test over S seeds cannot go below its floor of 2/2^S. Holm's correction is over the "
        "widths. Detectable: the true difference that a paired t test would find with 80% power, from the SD of the "
        "differences pooled over widths. A difference is named only where Holm's p is below .05 and the gain is at "
        "least detectable."
    )


def _option_section(report: Report) -> Iterator[str]:
    knob, options = report.data.equal, report.options
    if not knob:
        return
    yield f"## Every {knob}, with equal budgets"
    if options.empty:
        yield "No option has both a finished trial and a finished plain control of its width."
        return
    rows = [
        [str(row["option"]), str(row["width"]), f"{100 * row['distilled_accuracy']:.2f}", *_gain_cells(row)]
        for row in rows_of(options)
    ]
    head = [knob, "width", "val accuracy (%)", "trial", "gain (points)", "p, t (Holm)", "p, sign flip (floor)",
            "detectable (points)", "verdict"]  # fmt: skip
    yield markdown(head, rows)
    yield (
        f"Each {knob} had as many trials and a sampler of its own; its best is compared with the best plain control of "
        "the same width, as above. Holm's correction and the pooled SD are over all rows of this table. Two options "
        "whose intervals overlap are not told apart by it."
    )


def _pull_section(report: Report) -> Iterator[str]:
    if report.pulls.empty:
        return
    yield "## How the losses pull"
    moments = ("start", "middle", "end")
    rows = [
        [str(row["form"]), str(row["num_students"])]
        + [number(row[f"{kind}_{moment}"], 2) for kind in ("kd_ratio", "kd_cosine") for moment in moments]
        for row in rows_of(report.pulls)
    ]
    head = ["form", "students", *(f"{kind}, {moment}" for kind in ("ratio", "cosine") for moment in moments)]
    yield markdown(head, rows)
    yield (
        "Norm of the distillation loss's gradient over that of cross-entropy's, before alpha, and the cosine of the "
        "angle between them: medians over the students of finished trials. One alpha does not mean the same under two "
        "forms of different ratio."
    )


def _gain_cells(row: Mapping[str, Any]) -> list[str]:
    return [
        f"{row['distilled']} (best of {row['distilled_trials']})", points(row["gain"], row["low"], row["high"]),
        f"{number(row['p_t'], 2)} ({number(row['holm_p'], 2)})",
        f"{number(row['p_sign_flip'], 2)} ({number(row['p_floor'], 2)})",
        NONE if pd.isna(row["mde"]) else f"{100 * row['mde']:.2f}", str(row["verdict"]),
    ]  # fmt: skip


def _protocol(report: Report) -> Iterator[str]:
    manifest = report.data.manifest
    task: Mapping[str, Any] = manifest.get("task") or {}
    sizes, hashes = task.get("sizes") or {}, task.get("hashes") or {}
    reads = len(report.data.confirmed.students)
    splits = ", ".join(f"{name} {size:,} (`{hashes.get(name, '?')}`)" for name, size in sizes.items())
    read = "the test split was not read" if reads == 0 else f"the test split was read once for each of {reads} confirmed students"
    mixings = [str(mixing) for mixing in sorted(report.data.trials["mixing"].dropna().unique())]
    formulas = "; ".join(f"{mixing}: {FORMULAS.get(mixing, 'unknown')}" for mixing in mixings) or "no trials yet"
    objectives = ", ".join(f"{direction(name)} {name}" for name in manifest.get("objectives") or [])
    seeds = ", ".join(str(seed) for seed in manifest.get("seeds") or [])
    versions = ", ".join(f"{name} {version}" for name, version in (manifest.get("versions") or {}).items())
    yield "## Protocol"
    yield "\n".join([
        f"- Task: {task.get('name', 'unknown')}. {task.get('source', '')}".rstrip(),
        f"- Splits (hash): {splits or 'unknown'}; {read}.",
        f"- Seeds, the same for every trial: {seeds or 'unknown'}.",
        f"- Objectives of the search: {objectives or 'unknown'}. Metrics are of the last epoch, means over seeds.",
        f"- Training loss, {formulas}. Plain training: `CE(student, labels)`.",
        f"- Configuration `{manifest.get('config_hash', '?')}`, commit `{manifest.get('git_commit') or '?'}`.",
        f"- Versions: {versions or 'unknown'}.",
    ])  # fmt: skip


def _figure_section(report: Report) -> Iterator[str]:
    yield "## Figures"
    for stem, caption in report.drawn.items():
        yield f"![{caption}](figures/{stem}.png)\n\n*{caption}* [PDF](figures/{stem}.pdf)"
    if report.no_importance:
        yield f"Importance is not shown: {report.no_importance}."
