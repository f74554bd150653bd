"""Which figures a report has, in the page's order: a new one is a line here."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from harness import figures
from harness.analysis.best_of import expected_best, objection
from harness.analysis.importance import importance_rows
from harness.analysis.latency import read_latency
from harness.analysis.load import StudyData, finished, is_plain
from harness.analysis.pareto import hypervolume_over_trials, reference_point
from harness.report.findings import Report
from harness.report.rendering import Drawing

SIZES = ("num_params", "macs")


def drawings(report: Report) -> Iterator[Drawing]:
    """The figures of a report, in the page's order."""
    data = report.data
    trials, students, forms = data.trials, data.students, _by_accuracy(data)
    yield from _confirmed_drawings(report, forms)
    for size, label in zip(SIZES, ("parameters", "multiply-accumulates"), strict=True):
        budgets = data.size_budgets if size == "num_params" else ()
        draw = functools.partial(
            figures.accuracy_against_size, trials, students, forms, size, _teacher(data, size), budgets
        )
        caption = (
            f"Validation accuracy against {label}: all trials, the Pareto front, the tuned plain controls, the teacher."
        )
        yield Drawing(f"accuracy_{size}", caption, draw)
    yield from _latency_drawing(report, forms)
    yield Drawing(
        "gain_by_width",
        "Paired gain of the best distilled trial over the best control, by width, with what is too small to detect.",
        functools.partial(figures.gain_by_width, report.gains, trials, forms),
    )
    if data.equal:
        yield Drawing(
            f"gain_by_{data.equal}",
            f"Paired gain over plain training for each {data.equal}, every one tuned with as many trials.",
            functools.partial(figures.gain_by_option, report.options, data.equal),
        )
    if len(report.pulls):
        yield Drawing(
            "pull",
            "How strongly each loss form pulls beside cross-entropy, and in which direction.",
            functools.partial(figures.pull_by_form, report.pulls),
        )
    yield Drawing(
        "alpha_temperature",
        "Where in alpha and temperature each loss form gains or loses against the control of the same width.",
        functools.partial(figures.alpha_temperature, trials, forms, _near(report)),
    )
    if not report.no_importance:
        count, done = len(importance_rows(trials, data.space)), finished(trials)
        yield Drawing(
            "importance",
            "How much each knob explains of validation accuracy, by two evaluators.",
            functools.partial(figures.importance_bars, report.importance, count, len(done[~is_plain(done)])),
        )
    yield from _knob_drawings(report, forms)
    yield Drawing(
        "learning_curves",
        "Learning curves of the front: validation accuracy, and the two parts of the training loss.",
        functools.partial(figures.learning_curves, data.curves, report.front, forms, _pruned(data)),
    )
    yield Drawing(
        "fidelity",
        "Agreement with the teacher against validation accuracy, which agreement with a good teacher follows anyway.",
        functools.partial(figures.fidelity_against_accuracy, trials, forms),
    )
    yield Drawing(
        "fit",
        "Train against validation accuracy: who overfits, who underfits.",
        functools.partial(figures.fit_panel, trials),
    )
    if not _no_best_of(data):
        values = [float(value) for value in _distilled(data)["val_accuracy"]]
        yield Drawing(
            "best_of",
            "Expected best validation accuracy of k random trials.",
            functools.partial(figures.expected_best_of, expected_best(values)),
        )
    yield Drawing(
        "hypervolume",
        "Hypervolume of the front as the search goes on, beside that of the plain controls.",
        functools.partial(_hypervolume, data),
    )


def _latency_drawing(report: Report, forms: tuple[str, ...]) -> Iterator[Drawing]:
    """Accuracy against measured milliseconds, of the widths that were measured; the teacher's are not."""
    data = report.data
    measured = read_latency(report.folder)[["latency_ms", "latency_p95_ms"]]
    timed = data.trials.join(measured, on="width").dropna(subset=["latency_ms"])
    if finished(timed).empty:
        return
    teacher = _teacher(data, "num_params")
    unmeasured = None if teacher is None else dataclasses.replace(teacher, size=math.nan)
    yield Drawing(
        "accuracy_latency",
        "Validation accuracy against measured latency at batch 1: all trials, the Pareto front, the tuned plain "
        "controls, the teacher.",
        functools.partial(figures.accuracy_against_size, timed, data.students, forms, "latency_ms", unmeasured),
    )


def _confirmed_drawings(report: Report, forms: tuple[str, ...]) -> Iterator[Drawing]:
    found = report.confirmed
    if found.trials.empty:
        return
    teacher = float(found.trials["test_teacher_accuracy"].max())
    yield Drawing(
        "confirmed_accuracy",
        "Test accuracy against parameters: the best distilled student of each width beside its tuned controls, on "
        "fresh seeds.",
        functools.partial(figures.confirmed_accuracy, found.trials, forms, teacher, report.data.size_budgets),
    )
    yield Drawing(
        "confirmed_gain",
        "Gain of distillation over every tuned control on the test split, by width.",
        functools.partial(figures.confirmed_gain, found.comparisons),
    )
    if len(found.options_compared):
        yield Drawing(
            "options_compared",
            f"The {report.data.equal} that validation chose less every other on the test split, by width.",
            functools.partial(figures.options_compared, found.options_compared, report.data.equal),
        )
    if len(report.searches):
        yield Drawing(
            "searches_gain",
            "Gain of distillation over every tuned control, over several searches of the study.",
            functools.partial(figures.searches_gain, report.searches),
        )
    if len(report.bits):
        yield Drawing(
            "bits",
            "Bits a character on the test split against parameters: the best distilled model of each width beside its "
            "tuned controls.",
            functools.partial(figures.bits_against_size, report.bits),
        )
    yield Drawing(
        "selection_audit",
        "What choosing on the test split would have claimed, beyond the honest number.",
        functools.partial(figures.selection_audit, found.audit),
    )
    yield Drawing(
        "reliability",
        "Confidence against accuracy on the test split, distilled beside plain.",
        functools.partial(figures.reliability_diagram, found.reliability),
    )
    yield Drawing(
        "class_gain",
        "Where distillation helps and where it hurts: gain by class and width.",
        functools.partial(figures.class_gain, found.classes, answered=len(found.reliability) > 0),
    )


def _near(report: Report) -> set[int]:
    """The trials that cannot be told from the best of their width."""
    return {int(number) for own in report.knobs.indifference["trials"] for number in str(own).split()}


def _knob_drawings(report: Report, forms: tuple[str, ...]) -> Iterator[Drawing]:
    found, trials = report.knobs, report.data.trials
    surfaces, table, by_width = found.interactions.surfaces, found.interactions.table, found.interactions.by_width
    if len(found.importance):
        yield Drawing(
            "importance_by_width",
            "How much each knob explains of validation accuracy at each width, by two evaluators.",
            functools.partial(figures.importance_by_width, found.importance),
        )
    if len(surfaces):
        yield Drawing(
            "surrogate_surfaces",
            "Alpha and temperature together under a surrogate of each form's trials.",
            functools.partial(figures.surrogate_surfaces, surfaces, table, trials),
        )
    if len(by_width):
        yield Drawing(
            "form_by_width",
            "Loss form and width together under a surrogate of all trials.",
            functools.partial(figures.form_by_width, by_width, table),
        )
    if len(found.indifference):
        yield Drawing(
            "best_by_width",
            "Best alpha and temperature by width, with what is as good.",
            functools.partial(figures.best_by_width, found.indifference, trials, forms),
        )


def _distilled(data: StudyData) -> pd.DataFrame:
    done = data.trials[data.trials["state"] == "complete"]
    return done[~is_plain(done)]


def _no_best_of(data: StudyData) -> str:
    """Why an expected best of k would be wrong for this study, or what it lacks; empty where it is legitimate."""
    sampler = str((data.manifest.get("identity") or {}).get("sampler") or "")
    searched = data.trials[~is_plain(data.trials)]
    missing = int((searched["state"] != "complete").sum())
    return objection(sampler, missing) or ("there are fewer than 2 trials" if len(searched) < 2 else "")


def _pruned(data: StudyData) -> list[int]:
    return [int(number) for number in data.trials.loc[data.trials["state"] == "pruned", "number"]]


def _by_accuracy(data: StudyData) -> tuple[str, ...]:
    """The loss forms as the study orders them; where a palette cannot hold them all, the most accurate first."""
    if len(data.forms) <= len(figures.HUES):
        return data.forms
    best = finished(data.trials).groupby("form")["val_accuracy"].max()
    return tuple(sorted(data.forms, key=lambda form: -float(best.get(form, 0.0))))


def _hypervolume(data: StudyData) -> Figure:
    done = finished(data.trials)
    teacher = _teacher(data, "num_params")
    classes = int((data.manifest.get("task") or {}).get("num_classes") or 1)
    reference = reference_point(done, classes, teacher.size if teacher else None, "num_params")
    searched = ~is_plain(done) | (done["arm"] == "search")  # a search trial may be plain training, too
    controls = hypervolume_over_trials(done[~searched], reference)["hypervolume"]
    search = done[searched]
    by_time = hypervolume_over_trials(search.dropna(subset=["elapsed"]), reference, order="elapsed")
    return figures.hypervolume_growth(
        hypervolume_over_trials(search, reference), by_time, float(controls.iloc[-1]) if len(controls) else None,
        reference,
    )  # fmt: skip


def _teacher(data: StudyData, size: str) -> figures.Teacher | None:
    teacher: Mapping[str, Any] = data.manifest.get("teacher") or {}
    if teacher.get("val_accuracy") is None or not teacher.get(size):
        return None
    return figures.Teacher(float(teacher["val_accuracy"]), float(teacher[size]))
