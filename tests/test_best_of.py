"""The expected best of k trials, against all subsets and against a distribution whose maximum is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.best_of import expected_best, objection


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_the_expected_best_is_the_mean_of_the_maximum_over_all_subsets(values: list[float]) -> None:
    table = expected_best(values, draws=20)
    for k, found in zip(table["k"], table["expected"], strict=True):
        expected = np.mean([max(subset) for subset in itertools.combinations(values, k)])
        assert found == pytest.approx(float(expected))
    assert table["expected"].iloc[0] == pytest.approx(np.mean(values))
    assert table["expected"].iloc[-1] == pytest.approx(max(values))


def test_a_worked_example_of_three_trials() -> None:
    # Pairs of 1, 2, 4: maxima 2, 4, 4.
    assert expected_best([4, 1, 2])["expected"].tolist() == pytest.approx([7 / 3, 10 / 3, 4])


def test_the_estimate_is_unbiased_for_every_k() -> None:
    # The maximum of k uniform draws is k / (k + 1) in expectation.
    rng = np.random.default_rng(0)
    found = np.mean([expected_best(rng.uniform(size=10).tolist(), draws=1)["expected"] for _ in range(2_000)], axis=0)
    k = np.arange(1, 11)
    assert found == pytest.approx(k / (k + 1), abs=0.006)


def test_the_band_holds_the_expected_best_of_few_of_many_trials() -> None:
    rng = np.random.default_rng(1)
    k = np.arange(1, 11)
    held = np.zeros(10)
    for _ in range(300):
        table = expected_best(rng.uniform(size=100).tolist(), draws=300).head(10)
        low, high = (table[name].to_numpy(dtype=float) for name in ("low", "high"))
        held += (low <= k / (k + 1)) & (k / (k + 1) <= high)
    assert (held / 300 > 0.9).all()


def test_a_long_search_has_finite_weights() -> None:
    table = expected_best(np.linspace(0, 1, 1_500).tolist(), draws=2)
    assert np.isfinite(table["expected"]).all() and table["expected"].is_monotonic_increasing
    assert table["expected"].iloc[-1] == 1


def test_no_trial_is_an_empty_table_and_a_missing_value_is_refused() -> None:
    assert expected_best([]).empty and expected_best([]).columns.tolist() == ["k", "expected", "low", "high"]
    with pytest.raises(ValueError, match="a trial without a value"):
        expected_best([0.5, float("nan")])


def test_only_random_search_of_finished_trials_has_an_expected_best() -> None:
    assert objection("random") == ""
    assert objection("tpe") == "the trials of sampler 'tpe' are no independent draws; random ones are"
    assert objection("random", num_missing=3).startswith("3 trials have no final value")
