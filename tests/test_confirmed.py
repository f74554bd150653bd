"""Confirmed comparisons: each number against its own computation, and what a table with holes in it says."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from harness.analysis.audit import choices
from harness.analysis.confirmed import COLUMNS, CONTROLS, collapsed, comparisons, outlying, scored
from harness.analysis.intervals import bootstrap_t, crossed, crossed_error, outperforms
from harness.analysis.load import rows_of
from harness.analysis.statistics import found_by_rule, minimum_detectable, sign_flip_p
from harness.report.tables import points
from tests.confirmed_cases import Confirmed, confirmed, study


def test_a_row_is_the_statistics_of_its_pair() -> None:
    made = study(gain=0.3)
    table = made.table()
    assert table.columns.tolist() == list(COLUMNS) and len(table) == 20
    assert table["control"].tolist() == list(CONTROLS) * 5 and table["width"].is_monotonic_increasing
    accuracy = made.students.groupby("number")["test_accuracy"].agg(list)
    for row in rows_of(table):
        first, second = (np.array(accuracy[row[name]]) for name in ("distilled_number", "control_number"))
        expected = stats.ttest_rel(first, second)
        low, high = expected.confidence_interval()
        assert (row["gain"], row["low"], row["high"]) == pytest.approx(((first - second).mean(), low, high))
        assert row["p_t"] == pytest.approx(expected.pvalue)
        differences = (first - second).round(12).tolist()
        assert row["p_sign_flip"] == sign_flip_p(differences) and row["p_floor"] == 2 / 2**10
        boot, won = bootstrap_t(differences, 500), outperforms(differences)
        assert (row["boot_low"], row["boot_high"]) == (boot.low, boot.high)
        assert (row["p_outperforms"], row["outperforms_low"]) == (won.mean, won.low)
        values = made.correct[row["distilled_number"]].astype(int) - made.correct[row["control_number"]]
        both = crossed(values)
        assert (row["crossed_low"], row["crossed_high"]) == pytest.approx((both.low, both.high))


def test_holm_is_over_the_whole_table_of_the_larger_p() -> None:
    table = study(gain=0.1).table()
    larger = np.maximum(table["p_t"], table["p_crossed"])
    assert table["holm_p"].tolist() == pytest.approx(multipletests(larger, method="holm")[1].tolist())


def test_the_detectable_difference_is_from_the_spread_of_the_rows_own_pair_examples_included() -> None:
    made = study()
    table = made.table()
    for row in table.to_dict("records"):
        values = made.correct[row["distilled_number"]].astype(int) - made.correct[row["control_number"]]
        error = float(crossed_error(values)[0])
        assert row["spread"] == pytest.approx(max(row["sd"], math.sqrt(10) * error)) and row["spread"] >= row["sd"]
    assert table["mde"].tolist() == pytest.approx([minimum_detectable(spread, 10) for spread in table["spread"]])
    assert table["found_80"].tolist() == pytest.approx([found_by_rule(spread, 10, 20) for spread in table["spread"]])


def test_a_control_that_collapses_on_some_seeds_is_warned_of_and_silences_no_other_row() -> None:
    before, made = study(gain=0.6).table(), study(gain=0.6)
    made.correct[3][:2] &= np.random.default_rng(0).random(made.correct[3][:2].shape) < 0.15  # `self` at width 2
    lost = made.students["number"] == 3
    made.students.loc[lost, "test_accuracy"] = made.correct[3].mean(axis=1)
    table = made.table()
    assert table.loc[2, "mde"] > 3 * table["mde"].drop(index=2).max()
    assert table["verdict"].drop(index=2).eq("better").all() and before["verdict"].eq("better").all()
    said = "2 of 20 students collapsed: a gap parts them from their siblings"
    assert table["warning"].tolist() == ["", "", said, *[""] * 17]


def test_what_counts_as_collapsed_and_as_outlying() -> None:
    assert collapsed(pd.Series([0.9, 0.91, 0.1, 0.92])) == 1 and collapsed(pd.Series([0.9, 0.89, 0.88])) == 0
    assert collapsed(pd.Series([0.9, 0.9, 0.5])) == 1  # guessing between two classes
    assert collapsed(pd.Series([0.1] * 7 + [0.9, 0.91, 0.92])) == 7  # most have
    assert collapsed(pd.Series([0.1, 0.12, 0.11, 0.9])) == 0  # one has learned: `outlying`
    assert collapsed(pd.Series(np.linspace(0.3, 0.8, 41))) == 0  # a wide spread without a gap
    assert collapsed(pd.Series([0.9, 0.1])) == 0 and collapsed(pd.Series([0.1, 0.11, 0.04])) == 1
    # Grubbs' bound for ten at the 1% level, two-sided, is 2.482 SDs in tables; nine zeros and one reach 2.846.
    one_off, even = np.eye(10)[0], np.arange(10.0)
    assert outlying(one_off) and not outlying(even) and not outlying(np.zeros(10)) and not outlying(np.eye(4)[0])
    rng = np.random.default_rng(0)
    assert np.mean([outlying(row) for row in rng.normal(size=(4_000, 10))]) == pytest.approx(0.01, abs=0.005)


@pytest.mark.parametrize(("gain", "word"), [(0.6, "better"), (-0.6, "worse")])
def test_a_large_difference_is_shown_with_its_sign(gain: float, word: str) -> None:
    table = study(gain=gain).table()
    assert (table["verdict"] == word).all() and (table["holm_p"] < 0.05).all()
    assert (table["gain"].abs() >= table["mde"]).all()
    assert (np.sign(table["crossed_low"]) == np.sign(table["crossed_high"])).all()  # zero is outside
    assert (table["warning"] == "").all()


def test_the_order_of_students_and_trials_does_not_matter() -> None:
    made = study(seeds=6)
    order = np.random.default_rng(0).permutation(6)
    turned = Confirmed(
        made.trials.iloc[::-1],
        made.students.groupby("number", group_keys=False)[made.students.columns.tolist()].apply(
            lambda g: g.iloc[order]
        ),
        {number: table[order] for number, table in made.correct.items()},
    )
    pd.testing.assert_frame_equal(made.table(), turned.table())


def test_the_kinds_of_columns_that_load_gives_are_taken() -> None:
    made = study(seeds=6, widths=(4,))
    trials = made.trials.astype({"width": "Int64"})
    students = made.students.astype({"seed": "Int64", "status": "string"})
    pd.testing.assert_frame_equal(made.table(), Confirmed(trials, students, made.correct).table())
    curves = students.assign(epoch=1, val_accuracy=0.5)
    assert choices(curves, trials)["width"].tolist() == [4]


def test_only_seeds_that_both_have_are_compared() -> None:
    made = study(seeds=8, widths=(4,))
    dropped = made.students[(made.students["number"] != 0) | (made.students["seed"] > 101)]
    table = comparisons(made.trials, dropped, {**made.correct, 0: made.correct[0][2:]}, draws=100)
    assert (table["num_seeds"] == 6).all()
    expected = made.correct[0][2:].mean() - made.correct[1][2:].mean()
    assert table["gain"].iloc[0] == pytest.approx(expected)
    assert table.loc[0, ["crossed_low", "crossed_high"]].mean() == pytest.approx(expected)


def test_a_width_without_a_control_or_without_distillation_has_no_row_for_it() -> None:
    made = study(widths=(4, 8))
    gone = made.trials.drop(index=[2, 5])  # smoothing at width 4, distillation at width 8
    table = Confirmed(gone, made.students, made.correct).table()
    assert list(zip(table["width"], table["control"], strict=True)) == [(4, "ce"), (4, "self"), (4, "shuffled")]
    others = made.trials.assign(role="front")
    assert Confirmed(others, made.students, made.correct).table().empty


def test_nothing_confirmed_is_an_empty_table_of_the_same_columns_and_kinds() -> None:
    made = study(widths=(4,))
    empty = Confirmed(made.trials.iloc[:0], made.students.iloc[:0], {}).table()
    assert empty.empty and empty.columns.tolist() == list(COLUMNS)
    assert empty.dtypes.to_dict() == made.table().dtypes.to_dict()


def test_one_seed_shows_nothing_and_says_so() -> None:
    table = study(gain=1.0, seeds=1, widths=(4,)).table()
    assert (table["verdict"] == "no difference shown").all() and table["gain"].gt(0).all()
    nothing = ["low", "high", "boot_low", "boot_high", "crossed_low", "crossed_high", "p_t", "holm_p", "mde"]
    assert table[nothing].isna().all(axis=None)
    assert table["warning"].str.startswith("one seed: no interval; the sign flip cannot go below 1").all()


def test_seeds_that_agree_exactly_show_nothing_and_say_so() -> None:
    right = np.zeros((1, 5, 6, 400), dtype=bool)
    right[:, 0, :, :300], right[:, 1:, :, :200] = True, True
    table = confirmed(right, (4,)).table()
    assert (table["verdict"] == "no difference shown").all() and table["gain"].tolist() == pytest.approx([0.25] * 4)
    assert table["p_t"].isna().all() and table["p_crossed"].notna().all()  # examples vary
    assert table["warning"].eq("the seeds agree exactly: no estimate of their spread").all()


def test_two_seeds_have_no_interval_beyond_what_a_difference_can_be() -> None:
    table = study(gain=0.6, seeds=2, examples=12).table()
    assert table["crossed_low"].min() == -1 or table["crossed_high"].max() == 1
    assert (table[["crossed_low", "crossed_high"]].dropna().abs() <= 1).all(axis=None)
    assert points(0.5, -2.5, 3.5) == "+50.00 [-100.00, 100.00]"


def test_few_seeds_and_few_discordant_examples_are_warned_of() -> None:
    table = study(seeds=5, examples=40, widths=(4,)).table()
    assert table["warning"].str.contains("the two differ on ").all()
    assert table["warning"].str.startswith("the sign flip cannot go below 0.0625; ").all()
    assert study(seeds=3, widths=(4,)).table()["warning"].str.startswith("only 3 seeds; the sign flip").all()


def test_a_diverged_student_counts_as_guessing_and_silences_its_own_rows_alone() -> None:
    made = study(gain=0.6)
    students = made.students.copy()
    hit = (students["number"] == 0) & (students["seed"] == 103)
    students.loc[hit, "status"], students.loc[hit, "test_accuracy"] = "diverged", 0.1
    made.correct[0][3] = False  # whatever is kept of its answers
    before, table = study(gain=0.6).table(), Confirmed(made.trials, students, made.correct).table()
    assert table["num_diverged"].tolist() == [1] * 4 + [0] * 16
    assert (table["verdict"] == ["no difference shown"] * 4 + ["better"] * 16).all()
    assert (
        table["warning"].str.contains("1 of 20 students diverged and count as guessing").tolist()
        == [True] * 4 + [False] * 16
    )
    own = students[students["number"] == 0].set_index("seed")["test_accuracy"]
    ce = students[students["number"] == 1].set_index("seed")["test_accuracy"]
    assert table["gain"].iloc[0] == pytest.approx((own - ce).mean()) and table["gain"].iloc[0] < before["gain"].iloc[0]
    assert table.loc[0, ["crossed_low", "crossed_high"]].mean() == pytest.approx(table["gain"].iloc[0])
    scores = scored(0, students, made.correct)
    assert scores is not None and (scores.loc[103] == 0.1).all()


def test_without_answers_by_example_there_is_no_claim() -> None:
    made = study(gain=0.6, widths=(4,))
    del made.correct[1]
    table = made.table()
    assert table["verdict"].tolist() == ["no difference shown"] + ["better"] * 3
    assert table["warning"].iloc[0] == "no answers by example: no crossed interval, and so no claim"
    assert table["low"].notna().all()


def test_answers_that_are_not_those_of_the_students_are_refused() -> None:
    made = study(seeds=4, widths=(4,))
    with pytest.raises(
        ValueError, match=r"trial 0: its answers for seed 10\d are right on 0\.\d+ of the test examples"
    ):
        comparisons(made.trials, made.students, {**made.correct, 0: ~made.correct[0]})
    with pytest.raises(ValueError, match=r"trial 0: answers of shape \(3, 500\) for 4 students"):
        comparisons(made.trials, made.students, {**made.correct, 0: made.correct[0][1:]})
    with pytest.raises(ValueError, match=r"trials \[0, 2\] have students without a test accuracy"):
        lost = made.students["number"].isin((0, 2))
        comparisons(made.trials, made.students.assign(test_accuracy=made.students["test_accuracy"].mask(lost)), {})
    with pytest.raises(ValueError, match="more than one trial for a width and role"):
        comparisons(made.trials.assign(role="ce"), made.students, made.correct)
