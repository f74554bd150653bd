"""Intervals: against other people's code, against enumeration, and by how often they hold the truth."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.proportion import proportion_confint

from harness.analysis.intervals import (
    Interval,
    bootstrap_t,
    crossed,
    crossed_error,
    crossed_share,
    mean_squares,
    outperforms,
)
from harness.analysis.statistics import paired
from tests.simulated import LUCKY, MIXED, NOISY, TASTY, World, answers

STUDIES = 2_000
DIFFERENCES = st.lists(st.integers(-30, 30).map(lambda n: n / 1000), min_size=1, max_size=12)


def differences(world: World, examples: int = 300) -> tuple[NDArray[np.int8], NDArray[np.float64], float]:
    """Of a better and a worse configuration, [studies, seeds, examples]; the truth here, [studies], and everywhere."""
    ability, rng = (1.3, 1.2), np.random.default_rng(7)
    made = [answers(rng, world, ability, STUDIES // 10, 10, examples) for _ in range(10)]
    right = np.concatenate([part.right for part in made]).astype(np.int8)
    here = np.concatenate([part.here for part in made])
    everywhere = world.truth(ability)
    return right[:, 0] - right[:, 1], here[:, 0] - here[:, 1], float(everywhere[0] - everywhere[1])


@pytest.mark.parametrize("world", [NOISY, MIXED, TASTY])
def test_intervals_over_seeds_hold_what_these_examples_would_show_over_all_seeds(world: World) -> None:
    values, here, _ = differences(world)
    by_seed = values.mean(axis=2)
    found = [(paired(row), bootstrap_t(row, draws=1_000)) for row in by_seed.tolist()]
    for kind in (0, 1):
        held = [pair[kind].low <= truth <= pair[kind].high for pair, truth in zip(found, here, strict=True)]
        assert np.mean(held) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("world", [NOISY, LUCKY, MIXED, TASTY])
def test_the_crossed_interval_holds_what_all_seeds_and_all_examples_would_show(world: World) -> None:
    values, _, truth = differences(world)
    error, freedom = crossed_error(values)
    held = np.abs(values.mean(axis=(1, 2)) - truth) <= stats.t.ppf(0.975, freedom) * error
    assert held.mean() == pytest.approx(0.95, abs=0.02)
    found = crossed(values[0])
    assert found.high - found.low == pytest.approx(2 * stats.t.ppf(0.975, freedom[0]) * error[0])


@pytest.mark.parametrize("world", [NOISY, LUCKY, MIXED, TASTY])
@pytest.mark.parametrize(
    ("accuracy", "examples", "seeds", "least", "most"),
    [(0.9, 300, 10, 0.93, 0.97), (0.99, 1000, 5, 0.93, 0.98), (0.995, 200, 10, 0.95, 1.0), (0.3, 200, 3, 0.93, 0.97)],
)
def test_the_interval_of_an_accuracy_holds_it_near_the_ceiling_too(
    world: World, accuracy: float, examples: int, seeds: int, least: float, most: float
) -> None:
    rng = np.random.default_rng(11)
    ability = stats.norm.ppf(accuracy) / stats.norm.ppf(world.truth([1.0])[0])
    assert world.truth([ability])[0] == pytest.approx(accuracy)
    made = [answers(rng, world, [ability], 100, seeds, examples).right[:, 0] for _ in range(6)]
    found = [crossed_share(table) for part in made for table in part]
    held = np.mean([own.low <= accuracy <= own.high for own in found])
    luck = 1.96 * math.sqrt(0.95 * 0.05 / len(found))
    assert least - luck <= held <= most + luck


def test_the_interval_of_an_accuracy_is_clopper_and_pearsons_where_each_example_is_answered_once() -> None:
    right = np.repeat((np.arange(400) >= 20)[None], 10, axis=0)  # seeds add nothing: 380 of 400
    found = crossed_share(right)
    error, freedom = (float(value) for value in crossed_error(right))
    count = 0.95 * 0.05 / error**2 * (stats.norm.ppf(0.975) / stats.t.ppf(0.975, min(freedom, 19))) ** 2
    least = 0.95 * 0.05 / error**2 * (stats.norm.ppf(0.975) / stats.t.ppf(0.975, freedom)) ** 2
    count = max(count, min(least, 400 * (stats.norm.ppf(0.975) / stats.t.ppf(0.975, freedom)) ** 2))
    assert (found.low, found.high) == pytest.approx(proportion_confint(0.95 * count, count, method="beta"))
    assert count == pytest.approx(400, rel=0.05)
    every = crossed_share(np.ones((5, 300)))
    assert (every.mean, every.high) == (1, 1) and every.low == pytest.approx(
        0.025 ** (1 / (300 * (stats.norm.ppf(0.975) / stats.t.ppf(0.975, 4)) ** 2))
    )
    none = crossed_share(np.zeros((5, 300)))
    assert none.low == 0 and none.high == pytest.approx(1 - every.low)
    assert math.isnan(crossed_share(right[:1]).low) and crossed_share(right[:1]).mean == 0.95


def test_an_interval_over_seeds_alone_does_not_hold_what_other_examples_would_show() -> None:
    values, _, truth = differences(TASTY)
    by_seed = values.mean(axis=2)
    reach = stats.t.ppf(0.975, 9) * by_seed.std(axis=1, ddof=1) / math.sqrt(10)
    assert np.mean(np.abs(by_seed.mean(axis=1) - truth) <= reach) < 0.7


@pytest.mark.parametrize("world", [NOISY, LUCKY, MIXED, TASTY])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_with_few_seeds_the_crossed_interval_holds_the_truth_and_is_not_absurdly_wide(world: World, seeds: int) -> None:
    right = answers(np.random.default_rng(seeds), world, (1.3, 1.2), STUDIES, seeds, 100).right.astype(np.int8)
    values, truth = right[:, 0] - right[:, 1], world.truth((1.3, 1.2))
    error, freedom = crossed_error(values)
    known = ~np.isnan(error)  # seeds that agree exactly have no interval
    reach = stats.t.ppf(0.975, freedom[known]) * error[known]
    held = np.abs(values.mean(axis=(1, 2)) - (truth[0] - truth[1]))[known] <= reach
    assert 0.93 <= held.mean() <= 0.99
    assert (freedom[known] >= seeds - 1).all() and known.mean() > 0.9
    assert np.median(reach) < {2: 0.25, 3: 0.1, 5: 0.08}[seeds] and reach.max() < {2: 2, 3: 0.5, 5: 0.2}[seeds]


def test_where_the_examples_part_is_cut_the_interval_is_that_of_the_seeds() -> None:
    values = np.array([[1, 0, 0, 0, 1, 0], [0, 1, 0, 1, 0, 0], [0, 0, 1, 0, 0, 1]])  # no example is liked by two seeds
    values[0, 3] = 1
    assert mean_squares(values).examples < mean_squares(values).residual
    expected = stats.ttest_1samp(values.mean(axis=1), 0)
    low, high = expected.confidence_interval()
    found = crossed(values)
    assert (found.low, found.high, found.p) == pytest.approx((low, high, expected.pvalue))


def test_an_interval_is_cut_to_what_its_value_can_be() -> None:
    assert Interval(0.5, -0.2, 1.2).within(0, 1) == Interval(0.5, 0, 1)
    assert Interval(0.5, 0.4, 0.6).within(0, 1) == Interval(0.5, 0.4, 0.6)
    assert math.isnan(Interval(0.5, math.nan, math.nan).within(0, 1).low)


def test_the_bootstrap_t_holds_a_skewed_mean_better_than_the_t_interval_does() -> None:
    draws = np.random.default_rng(4).exponential(size=(STUDIES, 10)).tolist()
    boot, plain = [bootstrap_t(row, draws=1_000) for row in draws], [paired(row) for row in draws]
    held = np.mean([found.low <= 1 <= found.high for found in boot])
    assert held == pytest.approx(0.95, abs=0.02)
    assert held > np.mean([found.low <= 1 <= found.high for found in plain])


def test_the_bootstrap_t_is_that_of_all_resamples_of_five_seeds() -> None:
    values = [0.001, 0.002, 0.004, 0.007, 0.013]
    rows = np.array(list(itertools.product(values, repeat=5)))
    spread = rows.std(axis=1, ddof=1)
    moved = rows.mean(axis=1) - np.mean(values)
    flat = spread < 1e-12
    ratios = np.sort(np.where(flat, np.copysign(np.inf, moved), moved / np.where(flat, 1, spread / math.sqrt(5))))
    error = np.std(values, ddof=1) / math.sqrt(5)
    least, most = ratios[math.ceil(0.025 * 3125) - 1], ratios[math.ceil(0.975 * 3125) - 1]
    found = bootstrap_t(values, draws=200_000)
    assert found.low == pytest.approx(np.mean(values) - most * error, rel=0.03)
    assert found.high == pytest.approx(np.mean(values) - least * error, rel=0.03)


@given(DIFFERENCES, st.randoms(use_true_random=False))
def test_the_bootstrap_t_does_not_depend_on_the_order_of_seeds(values: list[float], random: object) -> None:
    turned = sorted(values, key=lambda _: random.random())  # type: ignore[attr-defined]
    first, second = bootstrap_t(values, draws=200), bootstrap_t(turned, draws=200)
    assert (first.low, first.high) == pytest.approx((second.low, second.high), nan_ok=True)
    assert math.isnan(first.low) or first.low <= first.mean <= first.high


def test_seeds_that_are_too_few_or_nearly_agree_have_no_bootstrap_interval() -> None:
    for values in ([0.01], [0.01, 0.02], [0.01, 0.02, 0.04], [0.01] * 10, [0.01] * 9 + [0.02]):
        found = bootstrap_t(values)
        assert math.isnan(found.low) and math.isnan(found.high) and found.mean == pytest.approx(np.mean(values))


def test_the_mean_squares_are_those_of_the_two_way_analysis_of_variance() -> None:
    table = np.random.default_rng(0).integers(-1, 2, size=(4, 7))
    seed, example = np.indices(table.shape)
    frame = pd.DataFrame({"y": table.ravel().astype(float), "seed": seed.ravel(), "example": example.ravel()})
    expected = anova_lm(smf.ols("y ~ C(seed) + C(example)", frame).fit())["mean_sq"]
    found = mean_squares(table)
    assert [found.seeds, found.examples, found.residual] == pytest.approx(expected.tolist())


def test_a_worked_example_of_two_seeds_and_three_examples() -> None:
    # Rows 1 1 0 and 1 0 0. Mean 1/2; seeds 2/3 and 1/3; examples 1, 1/2, 0. Sums of squares: seeds 3 (1/36 + 1/36) =
    # 1/6, examples 2 (1/4 + 1/4) = 1, total 6/4, residual 1/3. Mean squares 1/6, 1/2, 1/6: variance (1/2) / 6 = 1/12.
    error, freedom = crossed_error(np.array([[1, 1, 0], [1, 0, 0]]))
    assert float(error) == pytest.approx(math.sqrt(1 / 12))
    # (1/2)^2 / ((1/6)^2 / 1 + (1/2)^2 / 2 + (1/6)^2 / 2) = .25 / (1/36 + 1/8 + 1/72) = 1.5
    assert float(freedom) == pytest.approx(1.5)


@given(st.lists(st.integers(-5, 5), min_size=3, max_size=20).filter(lambda values: len(set(values)) > 1))
def test_where_one_factor_does_nothing_the_crossed_interval_is_the_t_interval_of_the_other(values: list[int]) -> None:
    expected = stats.ttest_1samp(values, 0)
    low, high = expected.confidence_interval()
    for table in (np.tile(values, (4, 1)), np.tile(values, (4, 1)).T):
        found = crossed(table)
        assert (found.low, found.high) == pytest.approx((low, high))
        freedom = min(len(values), len(table)) - 1  # p has no more freedom than the seeds give
        assert found.p == pytest.approx(2 * stats.t.sf(abs(expected.statistic), freedom))


def test_the_estimated_variance_is_that_of_the_mean() -> None:
    # Effects so large that no component is cut at zero: the estimate is unbiased.
    rng = np.random.default_rng(2)
    values = rng.normal(size=(4000, 6, 1)) + rng.normal(size=(4000, 1, 8)) + rng.normal(size=(4000, 6, 8))
    error, _ = crossed_error(values)
    assert float((error**2).mean()) == pytest.approx(1 / 6 + 1 / 8 + 1 / 48, rel=0.03)
    assert float(values.mean(axis=(1, 2)).var()) == pytest.approx(1 / 6 + 1 / 8 + 1 / 48, rel=0.08)


def test_one_seed_and_answers_that_are_all_alike_have_no_crossed_interval() -> None:
    for table in (np.array([[1, 0, 1]]), np.zeros((3, 4)), np.ones((3, 4)), np.zeros((0, 0))):
        found = crossed(table)
        assert math.isnan(found.low) and math.isnan(found.high) and math.isnan(found.p)


@given(DIFFERENCES)
def test_the_interval_of_a_share_is_wilsons_with_ties_as_halves(values: list[float]) -> None:
    wins = sum(value > 0 for value in values) + sum(value == 0 for value in values) / 2
    low, high = proportion_confint(wins, len(values), method="wilson")
    found = outperforms(values)
    assert (found.mean, found.low, found.high) == pytest.approx((wins / len(values), low, high), abs=1e-12)


def test_to_outperform_and_to_be_outperformed_add_to_one() -> None:
    values = [0.01, 0.0, 0.02, -0.01]
    first, second = outperforms(values), outperforms([-value for value in values])
    assert first.mean == 0.625 and first.mean + second.mean == 1
    assert first.low == pytest.approx(1 - second.high)
    assert math.isnan(outperforms([]).mean)
