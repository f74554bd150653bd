"""Draws of accuracies: their spread against the crossed estimate, and what is read from them against enumeration."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness.analysis.intervals import mean_squares
from harness.analysis.pareto import front
from harness.analysis.two_level import accuracy_draws, p_front, recommendations, within
from tests.simulated import LUCKY, MIXED, NOISY, TASTY, World, answers

ACCURACIES = st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=1, max_size=6)
SIZES = st.lists(st.integers(1, 3), min_size=3, max_size=3)


def study(world: World = MIXED, count: int = 4, seeds: int = 10, examples: int = 400) -> dict[int, NDArray[np.bool_]]:
    ability = tuple(1 + 0.1 * place for place in range(count))
    right = answers(np.random.default_rng(5), world, ability, 1, seeds, examples).right[0]
    return {10 * place: right[place] for place in range(count)}


def frame(rows: list[list[int]]) -> pd.DataFrame:
    return pd.DataFrame(np.array(rows) / 4, columns=[0, 1, 2])


@pytest.mark.parametrize("world", [LUCKY, MIXED, TASTY])
def test_a_difference_of_draws_varies_as_the_crossed_estimate_says(world: World) -> None:
    correct = study(world)
    draws = accuracy_draws(correct, draws=20_000)
    for first in correct:
        for second in correct:
            if first < second:
                found = mean_squares(correct[first].astype(int) - correct[second])
                # The seeds' part is a t of nine degrees, whose variance is 9/7.
                expected = (found.seeds * 9 / 7 + found.examples - found.residual) / 4000
                assert float((draws[first] - draws[second]).var()) == pytest.approx(float(expected), rel=0.06)


@pytest.mark.parametrize("world", [NOISY, MIXED])
def test_the_middle_of_the_draws_holds_the_true_difference_in_95_of_100_studies(world: World) -> None:
    ability = (1.3, 1.2, 1.25)
    made = answers(np.random.default_rng(9), world, ability, 1_000, 10, 100).right
    truth = world.truth(ability)
    held = []
    for right in made:
        draws = accuracy_draws(dict(enumerate(right)), draws=300).to_numpy()
        low, high = np.quantile(draws[:, 0] - draws[:, 1], [0.025, 0.975])
        held.append(low <= truth[0] - truth[1] <= high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("world", [MIXED])
def test_the_likeliest_best_is_best_about_as_often_as_its_probability_says(world: World) -> None:
    rng = np.random.default_rng(2)
    found = []
    for _ in range(400):
        ability = rng.normal(1.2, 0.3, size=3)  # far apart beside the noise, so that no prior is needed
        right = answers(rng, world, ability.tolist(), 1, 10, 300).right[0]
        p_best = within(accuracy_draws(dict(enumerate(right)), draws=300), dict.fromkeys(range(3), 1), 1)["p_best"]
        found.append((float(p_best.max()), int(p_best.to_numpy().argmax()) == int(ability.argmax())))
    said, came = np.mean(found, axis=0)
    assert said == pytest.approx(came, abs=0.03)


def test_draws_are_centred_on_the_accuracies_and_the_same_for_the_same_seed() -> None:
    correct = study()
    draws = accuracy_draws(correct, draws=500)
    assert list(map(int, draws.columns)) == [0, 10, 20, 30]
    assert draws.mean().tolist() == pytest.approx([table.mean() for table in correct.values()])
    pd.testing.assert_frame_equal(draws, accuracy_draws(correct, draws=500))
    assert not draws.equals(accuracy_draws(correct, draws=500, seed=1))


def test_configurations_that_answer_alike_are_equal_in_every_draw() -> None:
    correct = study(count=2)
    draws = accuracy_draws({**correct, 99: correct[0].copy()}, draws=200)
    assert (draws[0] == draws[99]).all() and (draws[0] != draws[10]).any()
    table = within(draws, {0: 1, 10: 2, 99: 1}, 1)
    assert table["p_best"].tolist() == [0.5, 0.5] and (table["expected_regret"] == 0).all()


def test_one_seed_gives_draws_of_the_examples_alone() -> None:
    correct = study(seeds=1)
    draws = accuracy_draws(correct, draws=4_000)
    for number, table in correct.items():
        assert float(draws[number].std()) == pytest.approx(math.sqrt(table.var() / 400), rel=0.06)


def test_what_does_not_vary_does_not_vary_in_the_draws() -> None:
    perfect = {0: np.ones((3, 5), dtype=bool), 1: np.zeros((3, 5), dtype=bool)}
    draws = accuracy_draws(perfect, draws=20)
    assert (draws[0] == 1).all() and (draws[1] == 0).all()
    assert accuracy_draws({}, draws=7).shape == (7, 0)
    with pytest.raises(ValueError, match=r"same seeds and examples, not 0: \(3, 5\), 1: \(3, 4\)"):
        accuracy_draws({0: np.ones((3, 5)), 1: np.ones((3, 4))})


@given(ACCURACIES, SIZES)
def test_p_front_is_the_share_of_draws_whose_front_has_the_configuration(
    rows: list[list[int]], sizes: list[int]
) -> None:
    fronts = [
        set(front(pd.DataFrame({"number": range(3), "val_accuracy": row, "num_params": sizes}))["number"])
        for row in rows
    ]
    expected = [np.mean([number in found for found in fronts]) for number in range(3)]
    assert p_front(frame(rows), dict(enumerate(sizes))).tolist() == pytest.approx(expected)


@given(ACCURACIES, SIZES, st.integers(0, 3))
def test_p_best_and_regret_are_means_over_draws_of_who_wins_within_the_budget(
    rows: list[list[int]], sizes: list[int], budget: int
) -> None:
    fitting = [number for number in range(3) if sizes[number] <= budget]
    table = within(frame(rows), dict(enumerate(sizes)), budget)
    assert table.index.tolist() == fitting
    for number in fitting:
        wins, regrets = [], []
        for row in rows:
            best = max(row[other] for other in fitting)
            wins.append((row[number] == best) / [row[other] for other in fitting].count(best))
            regrets.append((best - row[number]) / 4)
        assert table.loc[number, "p_best"] == pytest.approx(np.mean(wins))
        assert table.loc[number, "expected_regret"] == pytest.approx(np.mean(regrets))
    assert not fitting or table["p_best"].sum() == pytest.approx(1)


def test_a_worked_example_of_recommendations() -> None:
    draws = frame([[2, 3, 4], [2, 3, 2], [2, 1, 3], [2, 3, 3]])  # means 2, 2.5 and 3 of 4
    table = recommendations(draws, {0: 10, 1: 20, 2: 30}, [5, 10, 25, 100])
    assert table["number"].tolist() == [pd.NA, 0, 1, 2] and table["runner_up"].tolist() == [pd.NA, pd.NA, 0, 1]
    # Within 25 the second wins three draws of four, and loses one by a quarter; within 100 the third is best in the
    # first and the third draw, ties in the fourth, and loses the second by a quarter.
    assert table["p_best"].tolist()[1:] == [1, 0.75, (1 + 0 + 1 + 0.5) / 4]
    assert table["expected_regret"].tolist()[1:] == [0, 0.0625, 0.0625]


def test_equals_go_to_the_smaller_and_a_score_may_choose_instead() -> None:
    draws = frame([[2, 2, 1], [2, 2, 1]])
    assert recommendations(draws, {0: 9, 1: 5, 2: 1}, [10])[["number", "runner_up"]].to_numpy().tolist() == [[1, 0]]
    chosen = recommendations(draws, {0: 9, 1: 5, 2: 1}, [10], score={0: 0.8, 1: 0.7, 2: 0.9})
    assert chosen["number"].item() == 2 and chosen["p_best"].item() == 0 and chosen["expected_regret"].item() == 0.25
    assert recommendations(pd.DataFrame(index=range(3)), {}, []).columns.tolist() == list(chosen.columns)
