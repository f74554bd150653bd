"""How often the table of comparisons claims a difference in many simulated studies where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from harness.analysis.confirmed import comparisons
from harness.analysis.statistics import found_by_rule, holm, minimum_detectable
from tests.confirmed_cases import ROLES, WIDTHS, confirmed, shown
from tests.simulated import LUCKY, MIXED, NOISY, TASTY, World, answers


def claims(right: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether the table of each study claims anything, [studies], by the rule of `comparisons`, for many studies.

    `right` is [studies, widths, roles, seeds, examples].
    """
    count, *_, seeds, examples = right.shape
    values = (right[:, :, :1].astype(np.int8) - right[:, :, 1:]).reshape(count, -1, seeds, examples)
    return np.asarray(shown(values).any(axis=1))


def equal_studies(world: World, seed: int, studies: int, examples: int = 100) -> NDArray[np.bool_]:
    """Every configuration has the same accuracy over all examples; the widths share nothing."""
    rng = np.random.default_rng(seed)
    made = answers(rng, world, (1.2,) * len(ROLES), studies * len(WIDTHS), 10, examples).right
    return made.reshape(studies, len(WIDTHS), *made.shape[1:])


@pytest.mark.parametrize("world", [NOISY, LUCKY, MIXED, TASTY])
def test_where_nothing_differs_at_most_one_study_in_twenty_claims_a_difference(world: World) -> None:
    claimed = np.concatenate([claims(equal_studies(world, seed, 100)) for seed in range(20)])
    assert len(claimed) == 2_000 and claimed.mean() <= 0.05


def test_the_t_test_over_seeds_alone_would_claim_a_difference_in_most_studies_where_examples_matter() -> None:
    right = equal_studies(TASTY, 0, 100)
    values = (right[:, :, :1].astype(np.int8) - right[:, :, 1:]).mean(axis=-1).reshape(100, -1, 10)
    p = stats.ttest_1samp(values, 0, axis=-1).pvalue
    assert np.mean([min(holm(row)) < 0.05 for row in p.tolist()]) > 0.5


def test_the_table_claims_what_the_rule_for_many_studies_claims() -> None:
    null = equal_studies(TASTY, 1, 6)
    real = answers(np.random.default_rng(1), MIXED, (1.8, 1.2, 1.2, 1.2, 1.2), 10, 10, 100).right
    right = np.concatenate([null, real.reshape(2, 5, *real.shape[1:])])
    found = [(confirmed(one).table()["verdict"] != "no difference shown").any() for one in right]
    assert found == claims(right).tolist() and any(found) and not all(found)


def power(difference: float, rows: int, seeds: int) -> float:
    """The share of rows found of those with a true difference, a quarter of the table, in seeds' SDs of 1."""
    rng, real = np.random.default_rng(rows), rows // 4
    by_seed = rng.normal(size=(1_500, rows, seeds, 1))
    by_seed[:, :real] += difference
    values = by_seed + 1e-3 * rng.normal(size=(1_500, rows, seeds, 4))  # examples hardly matter
    return float(shown(values)[:, :real].mean())


@pytest.mark.parametrize(("rows", "seeds"), [(4, 5), (20, 10), (36, 10)])
def test_the_whole_rule_finds_what_the_table_says_that_it_finds_four_times_in_five(rows: int, seeds: int) -> None:
    assert power(found_by_rule(1.0, seeds, rows), rows, seeds) >= 0.78
    assert power(minimum_detectable(1.0, seeds), rows, seeds) < 0.5  # what one test finds, the rule does not


def test_where_one_comparison_is_made_the_rule_needs_more_than_what_the_test_detects() -> None:
    least = minimum_detectable(2.0, 10)  # 3.15 standard errors, more than the 2.26 of one test
    t = stats.nct.sf(least / (2 / np.sqrt(10)), 9, found_by_rule(2.0, 10, 1) / (2 / np.sqrt(10)))
    assert t == pytest.approx(0.8, abs=1e-6) and found_by_rule(2.0, 10, 1) > least
    assert found_by_rule(1.0, 10, 20) > found_by_rule(1.0, 10, 4) and np.isnan(found_by_rule(1.0, 1, 4))


@pytest.mark.parametrize("world", [NOISY, LUCKY, MIXED, TASTY])
def test_who_looks_after_every_five_seeds_and_stops_at_a_claim_claims_in_one_study_of_twenty_at_most(
    world: World,
) -> None:
    claimed, naive = [], []
    for seed in range(20):
        right = answers(np.random.default_rng(seed), world, (1.2,) * len(ROLES), 20 * len(WIDTHS), 25, 100).right
        values = right[:, :1].astype(np.int8) - right[:, 1:]
        rows = values.reshape(20, -1, 25, 100)
        looked = [(rows[:, :, : 5 * look], look) for look in range(1, 6)]
        claimed += np.any([shown(some, look).any(axis=1) for some, look in looked], axis=0).tolist()
        naive += np.any([shown(some).any(axis=1) for some, _ in looked], axis=0).tolist()
    assert len(claimed) == 400 and np.mean(claimed) <= 0.05 and np.mean(naive) > np.mean(claimed)


def test_the_level_of_a_look_is_divided_by_its_square() -> None:
    assert holm([0.001, 0.01], looks=2) == pytest.approx([0.008, 0.04])
    made = confirmed(equal_studies(MIXED, 3, 1)[0])
    once, twice = (comparisons(made.trials, made.students, made.correct, 100, looks) for looks in (1, 2))
    assert twice["holm_p"].tolist() == pytest.approx((4 * once["holm_p"]).clip(upper=1).tolist())
    assert (twice["found_80"] > once["found_80"]).all()
