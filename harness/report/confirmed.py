"""What was confirmed: the main table, what it costs, the audit, calibration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from harness.analysis.chosen import is_plain_itself
from harness.analysis.confirmed import has_diverged
from harness.analysis.importance import edges_of_chosen
from harness.analysis.latency import measured_on
from harness.analysis.load import rows_of
from harness.analysis.statistics import LEVEL
from harness.arms import OTHER_TEACHERS
from harness.figures.confirmed import NAMES
from harness.report.blocks import NONE, Block, Heading, Paragraph, Table, plain
from harness.report.findings import Report
from harness.report.tables import fresh, knobs, number, points, probability, resampled, share, tested


def confirmed_section(report: Report) -> Iterator[Block]:
    """Every confirmed configuration on the test split: the table that a paper prints."""
    found = report.confirmed
    if found.trials.empty:
        yield Heading("Confirmed on fresh seeds")
        yield Paragraph(f"Nothing was confirmed{_why_not(report)}. No claim about the test split can be made.")
        return
    yield Heading("Confirmed on fresh seeds")
    gains = {row["width"]: row for row in rows_of(found.comparisons) if row["control"] == "ce"}
    rows = []
    for row in rows_of(_own_rows(found.trials)):
        gain = gains.get(row["width"]) if row["role"] == "distilled" else None
        rows.append([
            str(row["width"]), _role(row, found.trials), f"{row['num_params']:,}", tested(row),
            NONE if gain is None else points(gain["gain"], gain["crossed_low"], gain["crossed_high"]),
            NONE if gain is None else number(gain["holm_p"], 2), str(row["form"]), *knobs(row),
            f"{100 * row['val_accuracy']:.2f}", share(row["gap_closed"]), probability(row["p_front"]),
            str(row["num_seeds"]),
        ])  # fmt: skip
    head = [
        "width", "what", "params", "test (%)", "gain over plain (points)", "Holm p", "form", "alpha", "temperature",
        "lr", "val (%)", "teacher gap closed", "P(on front)", "seeds",
    ]  # fmt: skip
    yield Table(
        "confirmed", "Configurations chosen on validation, on fresh seeds and the test split: means, with 95% "
        "intervals over seeds and test examples.", head, rows, "confirmed.csv",
    )  # fmt: skip
    yield Paragraph(
        "Every configuration was chosen on validation in the search and trained again, with nothing changed but its "
        f"{fresh(found)}, which the search never used. The numbers are of the last epoch; nothing was chosen "
        "by the test split, whose accuracy after earlier epochs was noted for the selection audit alone. Both seeds "
        "and test examples are taken as samples: intervals of gains are of the crossed kind, those of accuracies are "
        f"Korn and Graubard's with its error.{_tried(report)} Gap closed: the share of the way from plain training of "
        "that width to the teacher, where the teacher is beyond plain training's interval. P(on front): the share of "
        f"resamples of {resampled(found.num_seeds)} in which no other confirmed configuration is smaller and at least "
        "as accurate, or as small and more accurate."
    )
    if edge := edges_of_chosen(
        found.trials[~is_plain_itself(found.trials)], report.data.space, {"distilled": "distilled", **NAMES}
    ):
        yield Paragraph(
            "**On the edge.** "
            + plain("; ".join(edge))
            + ". A wider range might do better; where it is a control that "
            "stands there, it may be weaker than it could be, and the gain over it too large."
        )
    yield from report.figure("confirmed_accuracy", data="confirmed.csv")
    yield from _costs(report)


def _tried(report: Report) -> str:
    """With how many finished trials at a width each control was tuned, where not all had as many as plain training."""
    every = pd.concat([report.data.trials, report.data.others.trials])
    others = [kind for kind in NAMES if (every["arm"] == kind).any()]
    done = every[(every["state"] == "complete") & every["arm"].isin(("control", *others))]
    each = {str(kind): own.groupby("width").size().to_dict() for kind, own in done.groupby("arm")}
    wanted = each.pop("control", {})
    each = {kind: each.get(kind, {}) for kind in others}
    if not each:
        return ""
    said = " The other controls had as many trials as plain training."
    if any(own.get(width, 0) < count for own in each.values() for width, count in wanted.items()):
        counts = [f"{plain(NAMES.get(kind, kind))} {sum(own.values())}" for kind, own in each.items()]
        said = (
            f" Finished trials of controls over all widths: plain training {sum(wanted.values())}, {', '.join(counts)}."
        )
    if set(each) & set(OTHER_TEACHERS):
        said += (
            " A configuration that gives its teacher no weight is plain training, whatever was asked for: plain "
            "training is the best of all these too. A self- or shuffled teacher whose trials did not do better than "
            "that on validation is plain training itself, and has no row of its own."
        )
    return said


def _why_not(report: Report) -> str:
    """Why there is no confirm stage, as far as the study's own file says."""
    seeds = report.data.manifest.get("confirm_seeds")
    if seeds is not None and not seeds:
        return ": the stage was left out (`Study(confirm=0)` or `--no-confirm`)"
    return ": the sweep was stopped before it" if report.data.manifest.get("ended") is False else ""


def _costs(report: Report) -> Iterator[Block]:
    """The same configurations: how near they are to the teacher, how well calibrated, and what they cost."""
    trials = _own_rows(report.confirmed.trials)
    metered = bool(trials["energy_mj"].notna().any())
    students = report.confirmed.students
    lost = students[has_diverged(students)].groupby("number").size().to_dict()
    rows = [
        [str(row["width"]), _role(row, report.confirmed.trials), f"{100 * row['test_agreement']:.1f}",
         number(row["test_kl"]), number(row["test_loss"]), _ece(row, lost), number(row["test_brier"]),
         f"{row['macs']:,}",
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
    guessing = " Students that diverged count as guessing, and have no ECE." if lost else ""
    energy = " Energy: of the processor's whole packages, whatever else they did included." if metered else ""
    yield Paragraph(
        "Agreement with the teacher and KL to it, NLL, ECE (15 bins) and Brier score on the test split, means over "
        f"seeds; no interval is shown.{guessing}{_where(report)}{energy}"
    )


def _ece(row: Mapping[str, Any], lost: Mapping[Any, int]) -> str:
    """A student that diverged counts as guessing, which would look perfectly calibrated."""
    diverged = lost.get(row["number"], 0)
    return f"{NONE} ({diverged} of {row['num_seeds']} diverged)" if diverged else f"{100 * row['test_ece']:.1f}"


def _where(report: Report) -> str:
    where = measured_on(report.folder)
    said = f" Latency: eager PyTorch, one thread, warm, widths in turns, on {plain(where)}."
    return said + " KiB: the weights as a safetensors file." if where else ""


def _own_rows(trials: pd.DataFrame) -> pd.DataFrame:
    """The rows to show: options have tables of their own, and a control that is plain training is in its row."""
    return trials[(trials["role"] != "option") & ~is_plain_itself(trials)]


def _role(row: Mapping[str, Any], trials: pd.DataFrame) -> str:
    name = {"distilled": "distilled", "front": "on the front"}.get(
        row["role"], NAMES.get(row["role"], str(row["role"]))
    )
    same = trials.loc[is_plain_itself(trials) & (trials["number"] == row["number"]), "role"]
    name += f" (= {', '.join(NAMES[role] for role in same)})" if len(same) else ""
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
    head = [
        "width",
        "configurations",
        "honest test (%)",
        "chosen on test",
        "and each seed's epoch",
        "and the best seed",
    ]
    caption = "Test accuracy in percent, and in brackets by how many points it would have been overstated."
    yield Table("audit", caption, head, rows, "audit.csv")
    yield Paragraph(
        "Honest: chosen on validation, last epoch, mean over fresh seeds. The other columns are the highest number of "
        "any configuration when test accuracy chooses, as is often done: the configuration; then the epoch of each of "
        "its seeds too, each its own; then the best seed at its best epoch. This study would have claimed that much at "
        "least: only what validation chose was confirmed and competes here, where a choice on the test split would "
        "have had every trial of the search. None of them is a result."
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
        each = [
            f"class {row.get('name') or row['label']} at width {row['width']} ({100 * row['gain']:+.1f} points)"
            for row in rows_of(shown)
        ]
        yield Paragraph(
            "Against plain training, a difference is shown for " + plain(", ".join(each)) + "." if each else
            "Against plain training, no class of any width shows a difference (Holm over the classes of all widths)."
            if classes["holm_p"].notna().any() else
            "No class can be compared with plain training: that takes two seeds, and answers that vary."
        )  # fmt: skip
    yield from report.figure("reliability", data="reliability.csv")
    yield from report.figure("fit", data="trials.csv")
