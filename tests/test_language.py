"""What the report says of language models, and of teachers that nobody listens to."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from harness.analysis.answers import Answers
from harness.analysis.compare import best_of_each
from harness.analysis.intervals import crossed
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


TEXTS = {
    number: np.array(losses)[:, None] + np.random.default_rng(number).normal(0, 0.2, (3, 40))
    for number, losses in LOSSES.items()
}
TEXTS = {
    number: table - table.mean(axis=1, keepdims=True) + np.array(LOSSES[number])[:, None]
    for number, table in TEXTS.items()
}


def test_bits_are_nats_over_the_characters_of_a_label_and_what_is_saved_is_paired_by_seed() -> None:
    found = bits(TRIALS, STUDENTS, TEXTS, characters=2.0).set_index("role")
    assert found.loc["distilled", "bits"] == pytest.approx(np.mean(LOSSES[1]) / math.log(2) / 2)
    assert found.loc["distilled", "perplexity"] == pytest.approx(math.exp(np.mean(LOSSES[1])))
    saved = (np.array(LOSSES[2]) - np.array(LOSSES[1])) / math.log(2) / 2
    test = stats.ttest_1samp(saved, 0)
    low, high = test.confidence_interval()
    own = found.loc["ce"]
    assert own["saved"] == pytest.approx(saved.mean()) and own["p_t"] == pytest.approx(test.pvalue)
    assert (own["low"], own["high"]) == (pytest.approx(low), pytest.approx(high))
    both = crossed((TEXTS[2] - TEXTS[1]) / math.log(2) / 2)
    assert (own["crossed_low"], own["crossed_high"]) == (pytest.approx(both.low), pytest.approx(both.high))
    larger = found.loc[["ce", "shuffled"], ["p_t", "p_crossed"]].max(axis=1).tolist()
    assert found.loc[["ce", "shuffled"], "holm_p"].tolist() == pytest.approx(multipletests(larger, method="holm")[1])
    assert found["saved"].isna().tolist() == [True, False, False] and found.loc["distilled", "verdict"] == ""
    looked = bits(TRIALS, STUDENTS, TEXTS, 2.0, looks=2).set_index("role")
    assert looked.loc["ce", "holm_p"] == pytest.approx(min(4 * own["holm_p"], 1))


def test_without_losses_by_text_or_with_those_of_others_no_difference_in_bits_is_claimed() -> None:
    wide = STUDENTS.assign(test_loss=STUDENTS["test_loss"] + 5 * (STUDENTS["number"] == 2))
    texts = {number: table + 5 * (number == 2) for number, table in TEXTS.items()}
    assert bits(TRIALS, wide, texts, 1.0)["verdict"].tolist() == ["", "better", "no difference shown"]
    for lost in ({}, {**texts, 2: texts[2] + 0.5}, {**texts, 2: texts[2][:2]}):
        assert bits(TRIALS, wide, lost, 1.0)["verdict"].tolist() == ["", "no difference shown", "no difference shown"]
    diverged = {**texts, 2: np.where(np.arange(3)[:, None] == 0, np.nan, texts[2])}
    assert (bits(TRIALS, wide, diverged, 1.0).loc[[1], "crossed_low"] > 0).all()  # its record's loss stands for it


def test_where_texts_matter_and_seeds_hardly_do_few_studies_without_a_difference_claim_one() -> None:
    rng, claimed = np.random.default_rng(0), list[bool]()
    for _ in range(200):
        taste = {number: rng.normal(0, 0.3, 40) for number in LOSSES}
        texts = {number: 2 + taste[number] + rng.normal(0, 0.01, (3, 40)) for number in LOSSES}
        students = STUDENTS.assign(test_loss=np.concatenate([texts[number].mean(axis=1) for number in LOSSES]))
        found = bits(TRIALS, students, texts, 1.0)
        claimed.append(bool(found["verdict"].isin(["better", "worse"]).any()))
    assert sum(claimed) <= 20  # 5% of 200, and twice as much for luck


def test_the_answer_in_bits_names_widths_with_a_difference_and_those_without() -> None:
    table = bits(TRIALS, STUDENTS, TEXTS, 1.0)

    def said(verdict: str, sign: float = 1.0) -> str:
        columns = ["saved", "crossed_low", "crossed_high"]
        own = table.assign(verdict=verdict, **{name: sign * table[name] for name in columns})
        [line] = bits_answer(SimpleNamespace(bits=own))  # type: ignore[arg-type]
        return line

    assert "distilled models **save** at width 8 (+0.2404 [" in said("better")
    assert "distilled models **cost more** at width 8 (-0.2404 [" in said("worse", -1.0)
    assert said("no difference shown").endswith("no difference is shown at width 8.")
    assert bits_answer(SimpleNamespace(bits=pd.DataFrame())) == ()  # type: ignore[arg-type]


def test_a_text_is_one_example_however_many_positions_it_has() -> None:
    predicted = np.array([[0, 1, 1, 0, 2, 2]], dtype=np.int32)
    own = Answers(predicted, np.ones((1, 6), dtype=np.float32), np.array([0, 1, 0, 0, 2, 1], dtype=np.int32))
    assert own.by_example(2).tolist() == [[pytest.approx(2 / 3), pytest.approx(2 / 3)]]
    chance = np.array([[0.5, 0.25, 1.0, 0.0, 0.5, 0.5]], dtype=np.float32)
    losses = Answers(predicted, own.confidence, own.labels, chance).losses_by_example(3)
    assert losses is not None and losses[0].tolist() == pytest.approx(
        [1.5 * math.log(2), 103.279 / 2, math.log(2)], 1e-4
    )
    assert own.losses_by_example(3) is None
    assert own.by_example(6).tolist() == own.by_example(0).tolist() == own.by_example(4).tolist()


def test_a_study_that_chooses_by_loss_takes_the_least_and_by_accuracy_the_most() -> None:
    done = pd.DataFrame({"number": [1, 2], "width": [4, 4], "val_accuracy": [0.6, 0.5], "val_loss": [1.5, 1.2]})
    assert best_of_each(done)["number"].tolist() == [1]
    assert best_of_each(done, "val_loss")["number"].tolist() == [2]


def test_a_choice_that_hardly_listens_to_its_teacher_is_named() -> None:
    def said(alpha: float, mixing: str, feature: str = "none", unlabelled: int = 0, ratio: float = 1.0) -> str:
        row = {"role": "distilled", "mixing": mixing, "alpha": alpha, "width": 8, "feature": feature}
        row |= {"kd_ratio_start": ratio, "kd_ratio_middle": math.nan, "kd_ratio_end": ratio / 2}
        data = SimpleNamespace(manifest={"task": {"unlabelled": unlabelled}})
        confirmed = SimpleNamespace(trials=pd.DataFrame([row]))
        return _hardly_taught(SimpleNamespace(confirmed=confirmed, data=data))  # type: ignore[arg-type]

    assert said(0.99, "convex") == " What validation chose hardly listens to its teacher at width 8 (alpha 0.990)."
    assert said(0.5, "convex") == said(0.99, "additive") == ""
    assert said(0.99, "convex", ratio=11.0) == "" and said(0.5, "convex", ratio=0.05)  # by how much they pull
    assert said(0.0, "convex") == "" and "(alpha 0.000)" in said(0.0, "convex", ratio=0.0)
    assert said(0.99, "convex", feature="hint") == said(0.99, "convex", unlabelled=9) == ""


def test_a_teacher_that_is_no_better_than_plain_training_is_named() -> None:
    controls = pd.DataFrame([{"width": 2, "val_accuracy": 0.7}, {"width": 8, "val_accuracy": 0.9}])

    def said(accuracy: float) -> str:
        data = SimpleNamespace(manifest={"teacher": {"val_accuracy": accuracy}})
        return _weak_teacher(SimpleNamespace(data=data, controls=controls))  # type: ignore[arg-type]

    assert said(0.95) == ""
    assert "89.00% on validation, plain training of width 8 has 90.00%" in said(0.89)
    nothing: Any = SimpleNamespace(data=SimpleNamespace(manifest={}), controls=controls)
    assert _weak_teacher(nothing) == ""
