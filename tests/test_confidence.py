"""Calibration of confidence, and gains by class, against loops over examples."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests

from harness.analysis import judged
from harness.analysis.answers import Answers
from harness.analysis.calibration import class_gains, named, reliability, with_holm
from harness.analysis.intervals import crossed
from harness.report import markdown
from harness.report.confirmed import calibration_section

CONFIDENCES = st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=1, max_size=40)


def bin_of(confidence: float) -> int:
    """By the definition: in ((m - 1) / 15, m / 15], zero in the first."""
    return next(m for m in range(15) if confidence <= (m + 1) / 15 or m == 14)


@given(CONFIDENCES)
def test_the_weighted_gap_of_the_bins_is_the_calibration_error(pairs: list[tuple[int, bool]]) -> None:
    confidence = np.array([[level / 30 for level, _ in pairs]])
    labels = np.zeros(len(pairs), dtype=int)
    predicted = np.array([[0 if right else 1 for _, right in pairs]])
    gaps = np.zeros(15)
    for level, right in pairs:
        gaps[bin_of(level / 30)] += right - level / 30
    expected = float(np.abs(gaps).sum()) / len(pairs)
    table = reliability(confidence, predicted, labels)
    filled = table[table["count"] > 0]
    weighted = (filled["accuracy"] - filled["mean_confidence"]).abs() * filled["count"]
    assert float(weighted.sum()) / len(pairs) == pytest.approx(expected, abs=1e-12)
    assert table["count"].sum() == len(pairs) and table["bin"].tolist() == list(range(15))
    assert (filled["mean_confidence"] - filled["low"] >= -1e-12).all()
    assert (filled["high"] - filled["mean_confidence"] >= -1e-12).all()


def test_a_worked_example_of_two_bins() -> None:
    # At .9: two of four right, gap .4; at .6: one of one, gap .4. By count: (4 x .4 + 1 x .4) / 5 = .4
    confidence = np.array([[0.9, 0.9, 0.9, 0.9, 0.6]])
    predicted, labels = np.array([[1, 1, 0, 0, 1]]), np.ones(5, dtype=int)
    rows = reliability(confidence, predicted, labels)[["count", "mean_confidence", "accuracy"]].to_numpy()
    assert rows[13].tolist() == pytest.approx([4, 0.9, 0.5]) and rows[8].tolist() == pytest.approx([1, 0.6, 1])
    assert rows[0, 0] == 0 and np.isnan(rows[0, 1:]).all()


def test_the_bins_are_of_all_seeds_together() -> None:
    confidence, labels = np.full((2, 4), 0.5), np.ones(4, dtype=int)
    predicted = np.array([[1, 1, 1, 1], [0, 0, 0, 0]])
    pooled = reliability(confidence, predicted, labels).dropna()
    assert pooled["accuracy"].item() == pooled["mean_confidence"].item() == 0.5


def predictions(seed: int, accuracy: float) -> NDArray[np.int_]:
    rng = np.random.default_rng(seed)
    labels = np.arange(300) % 3
    return np.where(rng.uniform(size=(8, 300)) < accuracy, labels, (labels + 1) % 3)


def test_gains_by_class_are_paired_t_tests_with_holm_over_classes() -> None:
    first, second, labels = predictions(0, 0.9), predictions(1, 0.8), np.arange(300) % 3
    table = with_holm(class_gains(first == labels, second == labels, labels))
    assert table["label"].tolist() == [0, 1, 2] and table["num_examples"].tolist() == [100] * 3
    larger = []
    for label in range(3):
        inside = labels == label
        sides = [(side[:, inside] == label) for side in (first, second)]
        expected = stats.ttest_rel(*(side.mean(axis=1) for side in sides))
        low, high = expected.confidence_interval()
        both = crossed(sides[0].astype(int) - sides[1])
        row = table.iloc[label]
        assert (row["low"], row["high"], row["p_t"]) == pytest.approx((low, high, expected.pvalue))
        assert (row["crossed_low"], row["crossed_high"]) == pytest.approx((both.low, both.high))
        assert row["gain"] == pytest.approx(row["distilled_accuracy"] - row["control_accuracy"])
        larger.append(max(expected.pvalue, both.p))
    assert table["holm_p"].tolist() == pytest.approx(multipletests(larger, method="holm")[1].tolist())


def test_a_class_on_which_the_seeds_agree_has_a_gain_without_an_interval() -> None:
    first, labels = np.array([[0, 0, 1, 1], [0, 0, 1, 0], [0, 0, 1, 1]]), np.array([0, 0, 1, 1])
    table = with_holm(class_gains(first == labels, labels == np.ones_like(first), labels)).set_index("label")
    assert table["gain"].tolist() == pytest.approx([1, -1 / 6])
    assert table[["low", "holm_p"]].isna().to_numpy().tolist() == [[True, True], [False, False]]
    assert class_gains(first[:, :0] == 0, first[:, :0] == 0, labels[:0]).empty


def test_holm_is_over_the_classes_of_all_widths_together() -> None:
    labels = np.arange(300) % 3
    sides = [predictions(0, 0.9) == labels, *(predictions(1, accuracy) == labels for accuracy in (0.8, 0.88))]
    tables = [class_gains(sides[0], control, labels) for control in sides[1:]]
    both = with_holm(pd.concat(tables, ignore_index=True))
    larger = both[["p_t", "p_crossed"]].max(axis=1)
    assert both["holm_p"].tolist() == pytest.approx(multipletests(larger, method="holm")[1].tolist())
    assert (both["holm_p"] >= pd.concat([with_holm(table)["holm_p"] for table in tables], ignore_index=True)).all()


def test_a_diverged_student_guesses_every_class_alike_and_has_no_confidence() -> None:
    labels = np.arange(20) % 2
    right = np.tile(labels, (3, 1)).astype(np.int32)
    blown, nowhere = right.copy(), np.full(20, np.nan, np.float32)
    blown[2] = 0  # what the largest of logits that are no numbers is taken to be
    sure = np.full((3, 20), 0.9, np.float32)
    answers = {
        0: Answers(blown, np.stack([*sure[:2], nowhere]), labels.astype(np.int32)),
        1: Answers(right, sure, labels.astype(np.int32)),
    }
    trials = pd.DataFrame({"number": [0, 1], "role": ["distilled", "ce"], "width": 4})
    students = pd.DataFrame({
        "number": np.repeat([0, 1], 3), "seed": [0, 1, 2] * 2, "status": ["ok", "ok", "diverged", *["ok"] * 3],
        "test_accuracy": [1, 1, 0.5, 1, 1, 1], "test_ece": [0.1, 0.1, 0.0, 0.1, 0.1, 0.1],
    })  # fmt: skip
    classes = judged._classes(trials, students, answers, looks=1)
    assert classes["distilled_accuracy"].tolist() == pytest.approx([2.5 / 3, 2.5 / 3])
    assert classes["control_accuracy"].tolist() == [1, 1]
    bins = judged._reliability(trials, students, answers)
    assert bins.groupby("role")["count"].sum().to_dict() == {"distilled": 40, "ce": 60}
    filled = bins[bins["count"] > 0]
    assert filled["mean_confidence"].tolist() == pytest.approx([0.9, 0.9])
    assert filled["accuracy"].tolist() == [1, 1] and filled["ece"].tolist() == pytest.approx([0.1, 0.1])
    assert filled["num_diverged"].tolist() == [1, 0]
    assert judged._reliability(trials, students.assign(status="diverged"), answers).empty


def test_the_classes_of_a_table_have_the_names_that_the_task_knows() -> None:
    table = pd.DataFrame({"label": [0, 2, 0], "gain": [0.1, 0.2, 0.3]})
    assert named(table, ()).equals(table)
    found = named(table, ("cat", "dog"))
    assert list(found.columns) == ["label", "name", "gain"] and found["name"].tolist() == ["cat", "", "cat"]
    assert "name" not in table


def test_the_reports_sentence_calls_a_class_by_its_name_or_its_number() -> None:
    table = pd.DataFrame({"label": [0, 1, 2], "width": 8, "gain": [0.1, 0.2, -0.05], "holm_p": [0.01, 0.5, 0.02]})
    confirmed = SimpleNamespace(trials=pd.DataFrame({"number": [1]}), classes=named(table, ("cat", "dog")))
    report: Any = SimpleNamespace(confirmed=confirmed, figure=lambda *_, **__: ())
    said = markdown.page(list(calibration_section(report)))
    assert "shown for class cat at width 8 (+10.0 points), class 2 at width 8 (-5.0 points)." in said
