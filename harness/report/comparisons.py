"""The front, and distillation against plain training: tables with their figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness.analysis.importance import edges
from harness.analysis.load import is_plain, rows_of
from harness.report.blocks import NONE, Block, Heading, Paragraph, Table, plain
from harness.report.findings import Report
from harness.report.tables import accuracy, caution, front_columns, front_rows, least, listed, number, points


def front_section(report: Report) -> Iterator[Block]:
    """The front as a table and against size, with what may be said of it."""
    yield Heading("The front")
    if report.front.empty:
        yield Paragraph("No trial has finished without diverging.")
        return
    yield Table(
        "front", "The Pareto front on validation, small to large: mean ± SD over seeds; gain with its 95% t interval.",
        front_columns(report), front_rows(report), "pareto.csv",
    )  # fmt: skip
    yield Paragraph(caution(report))
    objectives = list(report.data.manifest.get("objectives") or [])
    if objectives and set(objectives) != {"val_accuracy", "num_params"}:
        yield Paragraph(
            f"The search's own objectives were {plain(', '.join(objectives))}; this front is always of val_accuracy "
            "against num_params, so that studies compare."
        )
    if found := edges(report.front[~is_plain(report.front)], report.data.space):
        yield Paragraph("**On the edge.** " + plain("; ".join(found)) + ". A wider range might do better.")
    yield from report.figure("accuracy_num_params", data="trials.csv")
    yield from report.figure("accuracy_macs", data="trials.csv")
    yield from report.figure("accuracy_latency", data="trials.csv")


def gain_section(report: Report) -> Iterator[Block]:
    """The gain of the best distilled trial at each width, and how sure it is."""
    yield Heading("Distillation against plain training")
    if report.controls.empty:
        yield Paragraph("No plain control has finished without diverging, so nothing can be compared.")
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
    yield Table(
        "gains", "Best distilled trial less best plain control of each width, paired by seed, with a 95% t interval.",
        head, rows, "gains.csv",
    )  # fmt: skip
    yield Paragraph(
        "Control and distilled trial are each the best of their width on validation, out of the finished trials named. "
        "Gain: mean of the differences paired by seed, with its 95% t interval, which needs two seeds that differ. "
        "The exact sign-flip test over S seeds cannot go below its floor of 2/2^S. Holm's correction is over the "
        "widths. Detectable: the true difference that a paired t test would find with 80% power, from the SD of the "
        "differences pooled over widths. A difference is named only where Holm's p is below .05 and the gain is at "
        "least detectable."
    )
    yield from report.figure("gain_by_width", data="gains.csv")


def option_section(report: Report) -> Iterator[Block]:
    """As the gains, for each option of the choice that has equal budgets; nothing where none has."""
    knob, options = report.data.equal, report.options
    if not knob:
        return
    yield Heading(f"Every {knob}, with equal budgets")
    if options.empty:
        yield Paragraph("No option has both a finished trial and a finished plain control of its width.")
        return
    rows = [
        [str(row["option"]), str(row["width"]), f"{100 * row['distilled_accuracy']:.2f}", *_gain_cells(row)]
        for row in rows_of(options)
    ]
    head = [knob, "width", "val accuracy (%)", "trial", "gain (points)", "p, t (Holm)", "p, sign flip (floor)",
            "detectable (points)", "verdict"]  # fmt: skip
    caption = f"Best trial of each {plain(knob)} less the best plain control of its width, with a 95% t interval."
    yield Table(f"gains_by_{knob}", caption, head, rows, f"gains_by_{knob}.csv")
    yield Paragraph(
        f"Each {plain(knob)} had as many trials and a sampler of its own; its best is compared with the best plain "
        "control of the same width, as above. Holm's correction and the pooled SD are over all rows of this table. "
        f"Two options whose intervals overlap are not told apart by it.{_idle(report, knob)}"
    )
    yield from report.figure(f"gain_by_{knob}", data=f"gains_by_{knob}.csv")


def _idle(report: Report, knob: str) -> str:
    """How many trials of the options were plain training, and of which options none is left; mostly empty."""
    trials = report.data.trials
    searched, idle = trials["arm"] == "search", is_plain(trials)
    if not (searched & idle).any():
        return ""
    declared = [str(option) for option in getattr(report.data.space.get(knob), "options", ())]
    left = {str(option) for option in trials.loc[searched & ~idle, knob].dropna()}
    gone = [option for option in declared if option not in left]
    return (
        f" {int((searched & idle).sum())} of the search's {int(searched.sum())} trials gave their teacher no weight: "
        "they are plain training, and not among these" + (f"; of {plain(listed(gone))} none is left." if gone else ".")
    )


def _gain_cells(row: Mapping[str, Any]) -> list[str]:
    return [
        f"{row['distilled']} (best of {row['distilled_trials']})", points(row["gain"], row["low"], row["high"]),
        f"{number(row['p_t'], 2)} ({number(row['holm_p'], 2)})",
        f"{number(row['p_sign_flip'], 2)} ({number(row['p_floor'], 2)})",
        least(row["mde"]), str(row["verdict"]),
    ]  # fmt: skip
