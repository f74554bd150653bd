"""What the report says of language models, and of teachers that nobody listens to."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from harness.analysis.answers import Answers
from harness.analysis.compare import best_of_each
from harness.analysis.language import bits
from harness.report.answer import _weak_teacher
from harness.report.controls import _hardly_taught
from harness.report.language import bits_answer

LOSSES = {1: (2.0, 2.1, 2.3), 2: (2.2, 2.2, 2.5), 3: (2.1, 2.2, 2.2)}
TRIALS = pd.DataFrame(
    {
        "number": [1, 2, 3],
        "role": ["distilled", "ce", "shuffled"],
        "width": [8, 8, 8],
        "num_params": [100, 100, 100],
        "form": ["kl", "ce", "kl"],
    }
)
STUDENTS = pd.DataFrame(
    [
        {"number": number, "seed": seed, "test_loss": loss}
        for number, losses in LOSSES.items()
        for seed, loss in enumerate(losses)
    ]
)


def test_bits_are_nats_over_the_characters_of_a_label_and_what_is_saved_is_paired_by_seed() -> None:
    found = bits(TRIALS, STUDENTS, characters=2.0).set_index("role")
    assert found.loc["distilled", "bits"] == pytest.approx(np.mean(LOSSES[1]) / math.log(2) / 2)
    assert found.loc["distilled", "perplexity"] == pytest.approx(math.exp(np.mean(LOSSES[1])))
    saved = (np.array(LOSSES[2]) - np.array(LOSSES[1])) / math.log(2) / 2
    test = stats.ttest_1samp(saved, 0)
    low, high = test.confidence_interval()
    own = found.loc["ce"]
    assert own["saved"] == pytest.approx(saved.mean()) and own["p_t"] == pytest.approx(test.pvalue)
    assert (own["low"], own["high"]) == (pytest.approx(low), pytest.approx(high))
    smaller, larger = sorted(found.loc[["ce", "shuffled"], "p_t"])
    assert sorted(found.loc[["ce", "shuffled"], "holm_p"]) == pytest.approx(
        sorted([min(2 * smaller, 1), max(min(2 * smaller, 1), larger)])
    )
    assert found["saved"].isna().tolist() == [True, False, False]


def test_the_answer_in_bits_names_widths_with_a_difference_and_those_without() -> None:
    clear = bits(TRIALS, STUDENTS, 1.0).assign(holm_p=0.01)
    report: Any = SimpleNamespace(bits=clear)
    [said] = bits_answer(report)
    assert "distilled models save at width 8 (+0.2404" in said
    [said] = bits_answer(SimpleNamespace(bits=clear.assign(holm_p=0.2)))  # type: ignore[arg-type]
    assert said.endswith("no difference is shown at width 8.")
    assert bits_answer(SimpleNamespace(bits=pd.DataFrame())) == ()  # type: ignore[arg-type]


def test_a_text_is_one_example_however_many_positions_it_has() -> None:
    predicted = np.array([[0, 1, 1, 0, 2, 2]], dtype=np.int32)
    own = Answers(predicted, np.ones((1, 6), dtype=np.float32), np.array([0, 1, 0, 0, 2, 1], dtype=np.int32))
    assert own.by_example(2).tolist() == [[pytest.approx(2 / 3), pytest.approx(2 / 3)]]
    assert own.by_example(6).tolist() == own.by_example(0).tolist() == own.by_example(4).tolist()


def test_a_study_that_chooses_by_loss_takes_the_least_and_by_accuracy_the_most() -> None:
    done = pd.DataFrame({"number": [1, 2], "width": [4, 4], "val_accuracy": [0.6, 0.5], "val_loss": [1.5, 1.2]})
    assert best_of_each(done)["number"].tolist() == [1]
    assert best_of_each(done, "val_loss")["number"].tolist() == [2]


def test_a_choice_that_hardly_listens_to_its_teacher_is_named() -> None:
    def said(alpha: float, mixing: str) -> str:
        trials = pd.DataFrame([{"role": "distilled", "mixing": mixing, "alpha": alpha, "width": 8}])
        return _hardly_taught(SimpleNamespace(confirmed=SimpleNamespace(trials=trials)))  # type: ignore[arg-type]

    assert said(0.99, "convex") == " What validation chose hardly listens to its teacher at width 8 (alpha 0.990)."
    assert said(0.5, "convex") == said(0.99, "additive") == ""


def test_a_teacher_that_is_no_better_than_plain_training_is_named() -> None:
    controls = pd.DataFrame([{"width": 2, "val_accuracy": 0.7}, {"width": 8, "val_accuracy": 0.9}])

    def said(accuracy: float) -> str:
        data = SimpleNamespace(manifest={"teacher": {"val_accuracy": accuracy}})
        return _weak_teacher(SimpleNamespace(data=data, controls=controls))  # type: ignore[arg-type]

    assert said(0.95) == ""
    assert "89.00% on validation, plain training of width 8 has 90.00%" in said(0.89)
    nothing: Any = SimpleNamespace(data=SimpleNamespace(manifest={}), controls=controls)
    assert _weak_teacher(nothing) == ""
