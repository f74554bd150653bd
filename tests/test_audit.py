"""The audit of selection by test: claims against loops over epochs, seeds and configurations."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.analysis.audit import CHOICE_COLUMNS, CONFIGURATION_COLUMNS, choices, configurations
from harness.analysis.load import rows_of

# [configurations][seeds][epochs] of (val, test), in tenths.
CURVES = st.integers(1, 4).flatmap(
    lambda epochs: st.lists(
        st.lists(
            st.lists(st.tuples(st.integers(0, 10), st.integers(0, 10)), min_size=epochs, max_size=epochs),
            min_size=2,
            max_size=2,
        ),
        min_size=1,
        max_size=4,
    )
)
Curves = list[list[list[tuple[int, int]]]]


def frame(curves: Curves) -> pd.DataFrame:
    rows = [
        (number, seed, epoch, val / 10, test / 10)
        for number, seeds in enumerate(curves)
        for seed, epochs in enumerate(seeds)
        for epoch, (val, test) in enumerate(epochs, start=1)
    ]
    return pd.DataFrame(rows, columns=["number", "seed", "epoch", "val_accuracy", "test_accuracy"])


def at_best_val(epochs: list[tuple[int, int]]) -> int:
    """The test accuracy at the first of the epochs best on validation."""
    return next(test for val, test in epochs if val == max(val for val, _ in epochs))


def trials(count: int, width: int = 4) -> pd.DataFrame:
    roles = ["distilled", "ce", "front", "front"][:count]
    return pd.DataFrame({"number": range(count), "role": roles, "width": [width] * count})


@settings(max_examples=25)
@given(CURVES)
def test_the_claims_for_a_configuration_are_means_over_seeds_of_the_chosen_epoch(curves: Curves) -> None:
    table = configurations(frame(curves).sample(frac=1, random_state=0))
    assert table["number"].tolist() == list(range(len(curves)))
    for row in rows_of(table):
        seeds = curves[row["number"]]
        by_val = [at_best_val(epochs) for epochs in seeds]
        best = [max(test for _, test in epochs) for epochs in seeds]
        honest = np.mean([epochs[-1][1] for epochs in seeds]) / 10
        assert row["honest"] == pytest.approx(honest)
        assert row["val_accuracy"] == pytest.approx(np.mean([epochs[-1][0] for epochs in seeds]) / 10)
        assert row["best_val_epoch"] == pytest.approx(np.mean(by_val) / 10)
        assert row["best_test_epoch"] == pytest.approx(np.mean(best) / 10)
        assert row["best_seed"] == pytest.approx(max(best) / 10)
        assert row["val_epoch_inflation"] == pytest.approx(np.mean(by_val) / 10 - honest)
        assert row["seed_inflation"] >= row["test_epoch_inflation"] - 1e-12 >= -2e-12


@settings(max_examples=25)
@given(CURVES)
def test_choosing_by_test_never_claims_less_than_the_honest_choice(curves: Curves) -> None:
    row = rows_of(choices(frame(curves), trials(len(curves))))[0]
    vals = [sum(epochs[-1][0] for epochs in seeds) for seeds in curves]
    tests = [sum(epochs[-1][1] for epochs in seeds) for seeds in curves]
    assert row["by_val"] == vals.index(max(vals)) and row["by_test"] == tests.index(max(tests))
    assert row["honest"] == pytest.approx(tests[row["by_val"]] / 20)
    assert row["by_test_last_epoch"] == pytest.approx(max(tests) / 20)
    assert 0 <= row["last_epoch_inflation"] <= row["best_epoch_inflation"] + 1e-12
    assert row["best_epoch_inflation"] <= row["best_seed_inflation"] + 1e-12


def test_a_worked_example_of_a_distilled_trial_and_its_control() -> None:
    distilled = [[(5, 6), (8, 7)], [(9, 8), (8, 6)]]  # last epochs: val .8, test .65; best test epochs .7 and .8
    control = [[(4, 4), (7, 7)], [(4, 4), (7, 8)]]  # last epochs: val .7, test .75
    curves = frame([distilled, control])
    first = rows_of(configurations(curves))[0]
    assert (first["num_seeds"], first["honest"], first["best_val_epoch"]) == pytest.approx((2, 0.65, 0.75))
    assert (first["best_test_epoch"], first["best_seed"]) == pytest.approx((0.75, 0.8))
    row = rows_of(choices(curves, trials(2)))[0]
    assert (row["by_val_role"], row["by_test_role"], row["num_configurations"]) == ("distilled", "ce", 2)
    assert (row["last_epoch_inflation"], row["best_epoch_inflation"]) == pytest.approx((0.1, 0.1))
    assert row["best_seed_inflation"] == pytest.approx(0.15)


def test_pure_noise_inflates_what_is_chosen_on_test_and_not_what_is_chosen_on_validation() -> None:
    rng = np.random.default_rng(0)
    index = pd.MultiIndex.from_product([range(40), range(10), range(1, 31)], names=["number", "seed", "epoch"])
    noise = rng.normal(0.9, 0.01, size=(len(index), 2))
    curves = pd.DataFrame(noise, columns=["val_accuracy", "test_accuracy"], index=index).reset_index()
    table = configurations(curves)
    assert table["honest"].mean() == pytest.approx(0.9, abs=0.002)
    assert table["best_val_epoch"].mean() == pytest.approx(0.9, abs=0.002)
    # The highest of 30 normal draws is 2.04 SD up, that of 300 is 2.85.
    assert table["test_epoch_inflation"].mean() == pytest.approx(0.0204, abs=0.002)
    assert table["seed_inflation"].mean() == pytest.approx(0.0285, abs=0.003)


def test_a_missing_last_accuracy_makes_the_honest_number_missing_not_flattering() -> None:
    curves = frame([[[(5, 6), (8, 7)], [(9, 8), (8, 6)]], [[(4, 4), (7, 7)], [(4, 4), (7, 8)]]])
    curves.loc[3, "test_accuracy"] = math.nan
    table = configurations(curves)
    assert table["honest"].isna().tolist() == [True, False]
    assert choices(curves, trials(2))["by_val"].tolist() == [1]


def test_each_width_is_audited_by_itself_and_nothing_gives_empty_tables() -> None:
    curves = frame([[[(5, 6)]], [[(4, 7)]]])
    two = pd.DataFrame({"number": [0, 1], "role": ["distilled", "ce"], "width": [8, 2]})
    table = choices(curves, two)
    assert table["width"].tolist() == [2, 8] and (table["best_seed_inflation"] == 0).all()
    assert configurations(curves.iloc[:0]).columns.tolist() == list(CONFIGURATION_COLUMNS)
    empty = choices(curves.iloc[:0], two.iloc[:0])
    assert empty.columns.tolist() == list(CHOICE_COLUMNS) and empty.empty
    assert empty.dtypes.to_dict() == table.dtypes.to_dict()
