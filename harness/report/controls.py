"""Distillation against its controls on fresh seeds and the test split: the table, and the answer's sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from harness import spec
from harness.analysis.chosen import is_plain_itself
from harness.analysis.confirmed import BETTER, DISTILLED, NOT_SHOWN, WORSE
from harness.analysis.judged import Confirmed
from harness.analysis.load import rows_of
from harness.figures.confirmed import NAMES
from harness.report.blocks import NONE, Block, Heading, Paragraph, Table, plain
from harness.report.findings import Report
from harness.report.tables import fresh, least, listed, number, points, power, tested

REMAINS: Mapping[str, str] = {
    "smoothing": "Against label smoothing (is it only softer labels?)",
    "self": "Against a self-teacher (is it only a second training?)",
    "shuffled": "Against a shuffled teacher (is it what the teacher says of the example?)",
}
"""What each control asks."""
FEW_TRIALS = 4
"""With fewer a control is not spoken of as tuned."""
MANY_MORE = 2
"""Times as many trials on one side are said: its best is a higher draw."""
FEW = r"test examples a seed, fewer than|agree exactly"
"""Warnings of a row whose spread says little of what would be found."""
DEAF = 0.05
"""Where a teacher's loss pulls less than this part of what both pull, a convex objective is nearly plain training."""


def comparison_section(report: Report) -> Iterator[Block]:
    """Distilled less every control, with every number that a reviewer asks for."""
    found = report.confirmed
    if found.trials.empty:
        return
    yield Heading("Distillation against every control, on the test split")
    if found.comparisons.empty:
        yield Paragraph("No width has both a confirmed distilled configuration and a confirmed control.")
        return
    rows = [[str(row["width"]), NAMES[row["control"]], *compared_cells(row)] for row in rows_of(found.comparisons)]
    head = ["width", "control", *COMPARED]
    caption = "Gain of the best distilled configuration over each control, paired by seed and test example."
    yield Table("comparisons", caption, head, rows, "comparisons.csv")
    count, tests = len(found.comparisons), found.num_tests
    family = (
        f"all {count} rows" if tests == count else f"all {tests} rows that there will be, of which {count} are here"
    )
    yield Paragraph(
        "Gain: mean over seeds of the paired difference, with its 95% t interval over seeds, then the interval over "
        "seeds and test examples (crossed); the CSV has the bootstrap-t interval too. p: the larger of both; Holm's "
        f"correction is over {family}. The sign flip, exact up to 40 seeds, cannot go below its floor. P(better): the "
        "share of seeds in which the first of the two is better, a tie half, with Wilson's 95% interval. Detectable: "
        "the true difference that one such test would find with 80% power, from the spread of the row's own pair. A "
        "difference is named only where Holm's p is below .05 and the gain is at least detectable: a gain that is "
        "named has passed a threshold, and so is on average too large, the more the nearer it is to what is "
        "detectable. Found at 80%: the true difference that this whole rule would find with 80% power or more, as "
        "estimated from the row's own seeds; a smaller one may well be missed. Seeds vary initialisation and order of "
        "batches, and not the training set: what another training set would show is not known, nor what another search"
        " would have chosen."
    )
    if looks := _looks(report):
        yield Paragraph(looks)
    yield from report.figure("confirmed_gain", data="comparisons.csv")
    if len(others := found.others_against_plain):
        rows = [[NAMES.get(row["option"], "on the front"), str(row["width"]), *compared_cells(row)] for row in
                rows_of(others)]  # fmt: skip
        caption = (
            f"What else may be recommended less plain training of its width: a family of {len(others)} for Holm's "
            "correction, apart from the table above."
        )
        yield Table("comparisons_of_others", caption, ["what", "width", *COMPARED], rows, "comparisons_of_others.csv")
    if found.by_option.empty:
        return
    knob = plain(report.data.equal)
    rows = [[str(row["option"]), str(row["width"]), *compared_cells(row)] for row in rows_of(found.by_option)]
    caption = f"Gain over plain training of the best configuration of each {knob}, on fresh seeds and the test split."
    yield Table("comparisons_by_option", caption, [knob, "width", *COMPARED], rows, "comparisons_by_option.csv")


COMPARED = (
    "gain (points), seeds", "over seeds and examples", "p (Holm)", "sign flip p (floor)", "P(better)",
    "detectable (points)", "found at 80% (points)", "verdict", "note",
)  # fmt: skip


def compared_cells(row: Mapping[str, Any]) -> list[str]:
    larger = max(row["p_t"], row["p_crossed"]) if not pd.isna(row["p_crossed"]) else row["p_t"]
    crossed = points(row["gain"], row["crossed_low"], row["crossed_high"]).partition(" ")[2]
    won = f"{row['p_outperforms']:.2f} [{row['outperforms_low']:.2f}, {row['outperforms_high']:.2f}]"
    return [
        points(row["gain"], row["low"], row["high"]), crossed, f"{number(larger, 2)} ({number(row['holm_p'], 2)})",
        f"{number(row['p_sign_flip'], 2)} ({number(row['p_floor'], 2)})", won,
        least(row["mde"]), least(row["found_80"]),
        str(row["verdict"]), str(row["warning"]) or NONE,
    ]  # fmt: skip


def answer(report: Report) -> str:
    """The answer's sentences on what was confirmed; empty where nothing was."""
    found = report.confirmed
    main = found.comparisons[found.comparisons["control"] == "ce"]
    if main.empty:
        return _without_control(found)
    said = (
        f"On the test split, over {fresh(found)}, distillation against tuned plain training of the same "
        f"width: {_verdicts(main)}."
    )
    said += _hardly_tuned(report) + _searched_unequally(report) + _hardly_taught(report)
    said += f" {looks}" if (looks := _looks(report)) else ""
    unknown = [f"{row['width']} ({row['warning']})" for row in rows_of(main) if pd.isna(row["holm_p"])]
    said += f" Nothing can be claimed at width {listed(unknown)}." if unknown else ""
    sound = main.assign(found_80=main["found_80"].mask(main["warning"].str.contains(FEW)))  # of few a spread is a guess
    return said + power(sound, "these seeds")


def _without_control(found: Confirmed) -> str:
    """What distilled students have on the test split where no plain training was confirmed beside them; else empty."""
    own = found.trials[found.trials["role"] == DISTILLED]
    if own.empty:
        return ""
    each = [f"{tested(row)}% at width {row['width']} ({plain(row['form'])})" for row in rows_of(own)]
    return (
        f"On the test split, over {fresh(found)}, distilled students have {listed(each)}. No plain training was "
        "confirmed beside them, so what distillation gains is not known."
    )


def _looks(report: Report) -> str:
    """That seeds or search trials were added after a look, and what it costs; mostly empty."""
    sizes = report.confirmed.looks
    if len(sizes) < 2:
        return ""
    return (
        f"The confirm stage was run {len(sizes)} times, with {listed([str(size) for size in sizes])} seeds, on the "
        f"same test split, which may have been looked at in between: Holm's p is multiplied by {len(sizes) ** 2}, the "
        "square of that."
    )


def _searched_unequally(report: Report) -> str:
    """Sentences on the widths where the distilled side is the best of many more or fewer trials than plain training;
    mostly empty."""
    distilled, control = report.gains["distilled_trials"], report.gains["control_trials"]
    more, less = (
        [f"{row['width']} ({row['distilled_trials']} to {row['control_trials']})" for row in rows_of(report.gains[own])]
        for own in (distilled > MANY_MORE * control, control > MANY_MORE * distilled)
    )
    apart = (
        f"; each {plain(report.data.equal)}, with as many trials in all, is compared with plain training in a table of "
        "its own"
        if report.data.equal
        else ""
    )
    said = ""
    if more:
        said += (
            f" The distilled students are the best of more trials than plain training at width {listed(more)}: a part "
            f"of their gain may be that search{apart}."
        )
    if less:
        said += (
            f" The distilled students are the best of fewer trials than plain training, over more knobs, at width "
            f"{listed(less)}: that no gain is shown there may be for want of search."
        )
    return said


def _hardly_tuned(report: Report) -> str:
    """A sentence on the widths whose plain control had next to no trials to be tuned with; mostly empty."""
    few = report.gains[report.gains["control_trials"] < FEW_TRIALS]
    each = [f"{row['width']} ({row['control_trials']})" for row in rows_of(few)]
    return f" Plain training was hardly tuned at width (trials): {listed(each)}." if each else ""


def _hardly_taught(report: Report) -> str:
    """A sentence on the widths whose best distilled configuration hardly listens to its teacher; mostly empty."""
    trials = report.confirmed.trials
    own = trials[(trials["role"] == "distilled") & (trials["mixing"] == "convex") & (trials["feature"] == spec.NONE)]
    if (report.data.manifest.get("task") or {}).get("unlabelled"):  # those the teacher alone teaches
        return ""
    each = [f"{row['width']} (alpha {row['alpha']:.3f})" for row in rows_of(own) if _teachers_part(row) < DEAF]
    return f" What validation chose hardly listens to its teacher at width {listed(each)}." if each else ""


def _teachers_part(row: Mapping[str, Any]) -> float:
    """Of what labels and teacher pull, the teacher's part, at the moment when it is greatest: one alpha does not mean
    the same under two forms. Where gradients were not measured they count as equally large."""
    ratios = [float(row[name]) for name in row if name.startswith("kd_ratio_") and not pd.isna(row[name])]
    labels, taught = float(row["alpha"]), (1 - float(row["alpha"])) * max(ratios, default=1.0)
    return taught / (taught + labels) if taught + labels else 0.0


def other_answers(report: Report) -> tuple[str, ...]:
    """A sentence on each other control: what remains of the gain beside it."""
    found, trials = report.confirmed.comparisons, report.confirmed.trials
    said = []
    for control, question in REMAINS.items():
        own = found[found["control"] == control]
        same = trials.loc[is_plain_itself(trials) & (trials["role"] == control), "width"].astype(str).tolist()
        parts = [_verdicts(own)] if len(own) else []
        parts += (
            [f"at width {listed(same)} plain training, which its space holds, did best on validation"] if same else []
        )
        said += [f"{question}: {'; '.join(parts)}."] if parts else []
    return tuple(said)


def _verdicts(table: pd.DataFrame) -> str:
    """`better at width 2 (+1.30 points) and 4 (+0.80); no difference shown at 6, 8`."""
    parts = []
    for verdict in (BETTER, WORSE, NOT_SHOWN):
        own = table[table["verdict"] == verdict]
        if own.empty:
            continue
        each = [
            f"{row['width']} ({points(row['gain'], row['crossed_low'], row['crossed_high'])})" if verdict != NOT_SHOWN
            else f"{row['width']}" for row in rows_of(own)
        ]  # fmt: skip
        parts.append(f"{'**' + verdict + '**' if verdict != NOT_SHOWN else verdict} at width {listed(each)}")
    return "; ".join(parts)
