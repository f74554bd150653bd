"""What was confirmed: the main table, gains over every control, recommendations, the audit, calibration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from harness.analysis.confirmed import BETTER, NOT_SHOWN, WORSE
from harness.analysis.importance import edges_of_chosen
from harness.analysis.latency import measured_on
from harness.analysis.load import rows_of
from harness.analysis.statistics import LEVEL
from harness.figures.confirmed import NAMES
from harness.report.blocks import NONE, Block, Heading, Paragraph, Table, plain
from harness.report.findings import Report
from harness.report.tables import front_table, number, points
from harness.report.unconfirmed import unconfirmed
from harness.spec import PLAIN

REMAINS: Mapping[str, str] = {
    "smoothing": "Against label smoothing (is it only softer labels?)",
    "self": "Against a self-teacher (is it only a second training?)",
    "shuffled": "Against a shuffled teacher (is it what the teacher says of the example?)",
}
"""What each control asks."""
DEAF = 0.95
"""Above this alpha a convex objective is nearly plain training."""
SHORT: Mapping[str, str] = {BETTER: "better", WORSE: "worse", NOT_SHOWN: "no difference"}


def confirmed_section(report: Report) -> Iterator[Block]:
    """Every confirmed configuration on the test split: the table that a paper prints."""
    found = report.confirmed
    if found.trials.empty:
        yield Heading("Confirmed on fresh seeds")
        yield Paragraph(
            "Nothing was confirmed: the search is not complete, or the stage was left out (`--no-confirm`). No claim "
            "about the test split can be made."
        )
        return
    yield Heading("Confirmed on fresh seeds")
    gains = {row["width"]: row for row in rows_of(found.comparisons) if row["control"] == "ce"}
    rows = []
    for row in rows_of(found.trials[found.trials["role"] != "option"]):
        gain = gains.get(row["width"]) if row["role"] == "distilled" else None
        rows.append([
            str(row["width"]), _role(row), f"{row['num_params']:,}", str(row["form"]), *_knobs(row), _percent(row),
            NONE if gain is None else points(gain["gain"], gain["crossed_low"], gain["crossed_high"]),
            NONE if gain is None else number(gain["holm_p"], 2), f"{100 * row['val_accuracy']:.2f}",
            _share(row["gap_closed"]), _share(row["p_front"]), str(row["num_seeds"]),
        ])  # fmt: skip
    head = [
        "width", "what", "params", "form", "alpha", "temperature", "lr", "test (%)", "gain over plain (points)",
        "Holm p", "val (%)", "teacher gap closed", "P(on front)", "seeds",
    ]  # fmt: skip
    yield Table(
        "confirmed", "Configurations chosen on validation, on fresh seeds and the test split: means, with 95% "
        "intervals over seeds and test examples.", head, rows, "confirmed.csv",
    )  # fmt: skip
    yield Paragraph(
        "Every configuration was chosen on validation in the search and trained again, with nothing changed but its "
        f"{fresh(found.num_seeds)}, which the search never used. The numbers are of the last epoch; nothing was chosen "
        "by the test split, whose accuracy after earlier epochs was noted for the selection audit alone. Intervals are "
        "of the crossed kind: both seeds and test examples are taken as samples. Controls were tuned with as many "
        "trials as plain training. Gap closed: the share of the way from plain training of that width to the teacher. "
        f"P(on front): the share of resamples of {resampled(found.num_seeds)} in which no other configuration of this "
        "table is as good and smaller."
    )
    if edge := edges_of_chosen(found.trials, report.data.space, {"distilled": "distilled", **NAMES}):
        yield Paragraph(
            "**On the edge.** "
            + plain("; ".join(edge))
            + ". A wider range might do better; where it is a control that "
            "stands there, it may be weaker than it could be, and the gain over it too large."
        )
    yield from report.figure("confirmed_accuracy", data="confirmed.csv")
    yield from _costs(report)


def _costs(report: Report) -> Iterator[Block]:
    """The same configurations: how near they are to the teacher, how well calibrated, and what they cost."""
    trials = report.confirmed.trials
    trials = trials[trials["role"] != "option"]
    metered = bool(trials["energy_mj"].notna().any())
    rows = [
        [str(row["width"]), _role(row), f"{100 * row['test_agreement']:.1f}", number(row["test_kl"]),
         number(row["test_loss"]), f"{100 * row['test_ece']:.1f}", number(row["test_brier"]), f"{row['macs']:,}",
         *_speed(row), *([_energy(row)] if metered else []), NONE if pd.isna(row["size_kib"]) else
         number(row["size_kib"])]
        for row in rows_of(trials)
    ]  # fmt: skip
    head = [
        "width", "what", "agreement (%)", "KL", "NLL", "ECE (points)", "Brier", "MACs", "p50 / p95 (ms)",
        "at batch 64 (ms)", *(["mJ an example, batch 1 / 64"] if metered else []), "KiB",
    ]  # fmt: skip
    yield Table(
        "confirmed_costs", "The same configurations: likeness to the teacher, calibration on the test split, and cost.",
        head, rows, "confirmed.csv",
    )  # fmt: skip
    energy = " Energy: of the processor's whole packages, whatever else they did included." if metered else ""
    yield Paragraph(
        "Agreement with the teacher and KL to it, NLL, ECE (15 bins) and Brier score on the test split, means over "
        f"seeds; no interval is shown.{_where(report)}{energy}"
    )


def _where(report: Report) -> str:
    where = measured_on(report.folder)
    said = f" Latency: eager PyTorch, one thread, warm, widths in turns, on {plain(where)}."
    return said + " KiB: the weights as a safetensors file." if where else ""


def _role(row: Mapping[str, Any]) -> str:
    name = {"distilled": "distilled", "front": "on the front"}.get(
        row["role"], NAMES.get(row["role"], str(row["role"]))
    )
    return name + (", on the front" if row["on_front"] and row["role"] != "front" else "")


def _speed(row: Mapping[str, Any]) -> tuple[str, str]:
    """Latency at batch 1 and 64."""
    if pd.isna(row["latency_ms"]):
        return NONE, NONE
    first, second = (
        f"{number(row[f'{name}_ms'])} / {number(row[f'{name}_p95_ms'])}" for name in ("latency", "latency_64")
    )
    return first, second


def _energy(row: Mapping[str, Any]) -> str:
    return " / ".join(NONE if pd.isna(row[name]) else number(row[name]) for name in ("energy_mj", "energy_64_mj"))


def _knobs(row: Mapping[str, Any]) -> tuple[str, str, str]:
    alpha = NONE if row["form"] == PLAIN else number(row["alpha"], 2)
    return alpha, number(row["temperature"]), number(row["lr"], 2)


def _percent(row: Mapping[str, Any]) -> str:
    interval = "" if pd.isna(row["test_low"]) else f" [{100 * row['test_low']:.2f}, {100 * row['test_high']:.2f}]"
    return f"{100 * row['test_accuracy']:.2f}{interval}"


def _share(value: Any) -> str:
    return NONE if pd.isna(value) else f"{value:.2f}"


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
    count = len(found.comparisons)
    yield Paragraph(
        "Gain: mean over seeds of the paired difference, with its 95% t interval over seeds, then the interval over "
        "seeds and test examples (crossed); the CSV has the bootstrap-t interval too. p: the larger of both; Holm's "
        f"correction is over all {count} rows. The exact sign flip cannot go below its floor. P(better): the share of "
        "seeds in which distillation is better, with Wilson's 95% interval. Detectable: the true difference that one "
        "such test would find with 80% power, from the spread of the row's own pair. A difference is named only where "
        "Holm's p is below .05 and the gain is at least detectable. Found at 80%: the true difference that this whole "
        "rule finds with 80% power or more, so a smaller one may well be missed. Seeds vary initialisation and "
        "order of batches, and not the training set: what another training set would show is not known, "
        "nor what another search would have chosen."
    )
    if looks := _looks(report):
        yield Paragraph(looks)
    yield from report.figure("confirmed_gain", data="comparisons.csv")
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
        *(NONE if pd.isna(row[name]) else f"{100 * row[name]:.2f}" for name in ("mde", "found_80")),
        str(row["verdict"]), str(row["warning"]) or NONE,
    ]  # fmt: skip


def recommendation_section(report: Report) -> Iterator[Block]:
    """What to take within each size, and how sure that is."""
    found = report.confirmed
    if found.recommended.empty and not found.left_out:
        return
    yield Heading("What to take")
    yield from _left_out(report)
    if found.recommended.empty:
        return
    by_number = {int(row["number"]): row for row in rows_of(found.trials.drop_duplicates("number"))}
    rows = []
    for row in rows_of(found.recommended):
        own, other = (
            by_number[int(row["number"])],
            by_number.get(-1 if pd.isna(row["runner_up"]) else int(row["runner_up"])),
        )
        rows.append([
            f"{int(row['budget']):,}", configuration(own), _percent(own), _share(row["p_best"]),
            f"{100 * row['expected_regret']:.2f}", NONE if other is None else configuration(other),
        ])  # fmt: skip
    head = ["at most (params)", "take", "test (%)", "P(best)", "expected regret (points)", "runner-up"]
    yield Table(
        "recommended", "The configuration that validation chose within each size, judged on the test split.",
        head, rows, "recommended.csv",
    )  # fmt: skip
    yield Paragraph(
        "The choice is by mean validation accuracy on the fresh seeds, among what was confirmed, but for the shuffled "
        "teacher; P(best) and the expected regret (what is lost, on average, by not having the best of these) are over "
        f"resamples of {resampled(found.num_seeds)}. For other limits, and to have the student as files: "
        f"`python -m harness.recommend {report.data.name} --max-params N --export DIR`."
    )


def _left_out(report: Report) -> Iterator[Block]:
    """The configurations that are not judged among the others, and why; mostly nothing."""
    found = report.confirmed
    rows = rows_of(found.trials[found.trials["number"].isin(found.left_out)].drop_duplicates("number"))
    if rows:
        each = [f"trial {row['number']} ({configuration(row)}): {found.left_out[row['number']]}" for row in rows]
        yield Paragraph(
            f"**Left out of P(on front), P(best) and what to take**: {plain('; '.join(each))}. The study's sweep, "
            "given again, trains again what has lost its answers."
        )


def configuration(row: Mapping[str, Any]) -> str:
    """A configuration in words: `kl, alpha 0.31, temperature 4.2, width 8`."""
    alpha, temperature, _ = _knobs(row)
    said = [NAMES.get(row["role"], str(row["form"])) if row["form"] == PLAIN else str(row["form"])]
    if row["role"] in NAMES and row["form"] != PLAIN:
        said[0] += f" ({NAMES[row['role']]})"
    said += [f"{name} {value}" for name, value in (("alpha", alpha), ("temperature", temperature)) if value != NONE]
    return ", ".join([*said, f"width {row['width']}"])


def fresh(count: int) -> str:
    """`10 fresh seeds`, `1 fresh seed`."""
    return f"{count} fresh seed{'' if count == 1 else 's'}"


def resampled(num_seeds: int) -> str:
    """Over what P(best) and the expected regret are."""
    return (
        "test examples alone (one seed: what other seeds would say is not in them)"
        if num_seeds == 1
        else ("seeds and test examples")
    )


def audit_section(report: Report) -> Iterator[Block]:
    """What a choice on the test split would have claimed."""
    found = report.confirmed
    if found.audit.empty:
        return
    yield Heading("Selection audit")
    rows = [
        [str(row["width"]), str(row["num_configurations"]), f"{100 * row['honest']:.2f}",
         *(f"{100 * row[name]:.2f} ({100 * (row[name] - row['honest']):+.2f})"
           for name in ("by_test_last_epoch", "by_test_best_epoch", "by_test_best_seed"))]
        for row in rows_of(found.audit)
    ]  # fmt: skip
    head = ["width", "configurations", "honest test (%)", "chosen on test", "and its epoch", "and its seed"]
    caption = "Test accuracy in percent, and in brackets by how many points it would have been overstated."
    yield Table("audit", caption, head, rows, "audit.csv")
    yield Paragraph(
        "Honest: chosen on validation, last epoch, mean over fresh seeds. The other columns choose the configuration, "
        "then its epoch, then its seed too, by test accuracy, as is often done: this study would have claimed "
        "that much at least, a lower bound, since only what validation chose was confirmed and competes here: a choice "
        "on the test split would have had every trial of the search. None of them is a result."
    )
    yield from report.figure("selection_audit", data="audit.csv")


def calibration_section(report: Report) -> Iterator[Block]:
    """How far the students' confidence is right, and on which classes distillation gains or loses."""
    if report.confirmed.trials.empty:
        return
    yield Heading("Where it helps and where it hurts")
    yield from report.figure("class_gain", data="classes.csv")
    classes = report.confirmed.classes
    if len(classes):
        shown = classes[classes["holm_p"] < LEVEL]
        listed = [
            f"class {row['label']} at width {row['width']} ({100 * row['gain']:+.1f} points)" for row in rows_of(shown)
        ]
        yield Paragraph(
            "Against plain training, a difference is shown for " + plain(", ".join(listed)) + "." if listed else
            "Against plain training, no class of any width shows a difference (Holm over the classes of all widths)."
        )  # fmt: skip
    yield from report.figure("reliability", data="reliability.csv")
    yield from report.figure("fit", data="trials.csv")


def closing_table(report: Report) -> RichTable:
    """For a terminal of 80 columns: what was confirmed at each width, or the search's front where nothing was."""
    found = report.confirmed
    main = found.trials[found.trials["role"] == "distilled"]
    if main.empty:
        return front_table(report)
    gains = {row["width"]: row for row in rows_of(found.comparisons) if row["control"] == "ce"}
    said = (
        f"On the test split, mean over {fresh(found.num_seeds)}; gain: the best distilled less the best plain "
        "configuration, both chosen on validation [95% over seeds and test examples]. Every control: summary.md."
    ) + unconfirmed(report.data)
    table = RichTable(title=f"{report.data.name}: confirmed", title_justify="left", caption=said, box=box.SIMPLE_HEAD,
                      caption_justify="left", show_edge=False, pad_edge=False, collapse_padding=True)  # fmt: skip
    for name in ("width", "params", "form", "alpha", "T", "test (%)", "gain (points)", "shown"):
        table.add_column(name, justify="left" if name in ("form", "shown") else "right", overflow="fold")
    for row in rows_of(main):
        gain = gains.get(row["width"])
        cells = (NONE, NONE) if gain is None else (
            points(gain["gain"], gain["crossed_low"], gain["crossed_high"]), SHORT[gain["verdict"]]
        )  # fmt: skip
        alpha, temperature, _ = _knobs(row)
        size = f"{row['num_params']:,}"
        table.add_row(str(row["width"]), size, Text(str(row["form"])), alpha, temperature,
                      f"{100 * row['test_accuracy']:.2f}", *(Text(cell) for cell in cells))  # fmt: skip
    return table


def answer(report: Report) -> str:
    """The answer's sentences on what was confirmed; empty where nothing was."""
    found = report.confirmed
    main = found.comparisons[found.comparisons["control"] == "ce"]
    if main.empty:
        return ""
    said = (
        f"On the test split, over {fresh(found.num_seeds)}, distillation against tuned plain training of the same "
        f"width: {_verdicts(main)}."
    )
    said += _hardly_taught(report)
    said += f" {looks}" if (looks := _looks(report)) else ""
    low, high = 100 * float(main["found_80"].min()), 100 * float(main["found_80"].max())
    if pd.isna(low):
        return said
    span = f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"
    depending = ", depending on the width" if "to" in span else ""
    return f"{said} The rule for a claim finds a true difference of {span} points with 80% power{depending}."


def _looks(report: Report) -> str:
    """That seeds were added after a look, and what it costs; mostly empty."""
    sizes = report.confirmed.looks
    if len(sizes) < 2:
        return ""
    return (
        f"This was confirmed with {listed([str(size) for size in sizes])} seeds in turn, on the same test split, so it "
        f"may have been looked at {len(sizes)} times: Holm's p is multiplied by {len(sizes) ** 2}, the square of that."
    )


def _hardly_taught(report: Report) -> str:
    """A sentence on the widths whose best distilled configuration hardly listens to its teacher; mostly empty."""
    trials = report.confirmed.trials
    own = trials[(trials["role"] == "distilled") & (trials["mixing"] == "convex") & (trials["alpha"] > DEAF)]
    if own.empty:
        return ""
    each = [f"{row['width']} (alpha {row['alpha']:.3f})" for row in rows_of(own)]
    return f" What validation chose hardly listens to its teacher at width {listed(each)}."


def other_answers(report: Report) -> tuple[str, ...]:
    """A sentence on each other control: what remains of the gain beside it."""
    found = report.confirmed.comparisons
    return tuple(
        f"{REMAINS[control]}: {_verdicts(found[found['control'] == control])}."
        for control in REMAINS
        if (found["control"] == control).any()
    )


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


def listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
