"""What is as good as the best of a width, a setting for all widths, and importance at each width."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from harness.analysis.importance import importance_by_width
from harness.analysis.indifference import UNKNOWN, epsilons, indifference, robust
from harness.analysis.statistics import many_to_one, minimum_detectable
from harness.importances import importances
from tests.knob_trials import FORMS, SPACE, WIDTHS, controls, finished_trials, knob_trials

EVALUATE = functools.partial(importances, trees=8)


def few() -> pd.DataFrame:
    """Three trials at width 2, of one seed, two at width 4."""
    table = pd.DataFrame({
        "number": [3, 5, 8, 9, 12], "arm": "search", "width": [2, 2, 2, 4, 4],
        "form": ["kl", "mse", "kl", "kl", "soft_ce"], "alpha": [0.1, 0.4, 0.9, 0.3, 0.5],
        "temperature": [2.0, math.nan, 8.0, 4.0, 5.0], "lr": 0.01, "val_accuracy": [0.900, 0.896, 0.894, 0.93, 0.91],
    })  # fmt: skip
    return finished_trials(table, seeds=1, sd=math.nan)


def test_the_indifferent_trials_of_a_width_are_those_within_epsilon_of_its_best() -> None:
    rows = indifference(few()).set_index("width")
    # Epsilon is half a point: .896 is within it, .894 is not; at width 4 the best stands alone.
    assert rows["epsilon"].tolist() == [UNKNOWN] * 2 and rows["epsilon_from"].tolist() == ["unknown"] * 2
    assert rows["trials"].tolist() == ["3 5", "9"] and rows["forms"].tolist() == ["kl mse", "kl"]
    assert rows["best"].tolist() == [3, 9] and rows["size"].tolist() == [2, 1] and rows["num_trials"].tolist() == [3, 2]
    assert list(rows.loc[2, ["alpha_low", "alpha_high"]]) == [0.1, 0.4]
    assert list(rows.loc[2, ["temperature_low", "temperature_high"]]) == [2.0, 2.0]


def test_epsilon_is_what_the_pooled_seeds_of_two_trials_could_detect_where_luck_is_less() -> None:
    trials = few().assign(num_seeds=4)
    trials["val_accuracy_sd"] = [0.001, 0.002, 0.003, 0.0, 0.0]
    found = epsilons(trials)
    # Pooled over the better half, two trials of three: sqrt((1 + 4) / 2) thousandths, 6 degrees of freedom. The seeds
    # of width 4 agree.
    sd = math.sqrt(5 / 2) / 1000
    assert found.loc[2, "epsilon"] == pytest.approx(minimum_detectable(math.sqrt(2) * sd, 4, 6))
    assert found.loc[2, "epsilon"] == pytest.approx((2.447 + 0.906) * math.sqrt(2 / 4) * sd, rel=0.01)
    assert list(found.loc[4]) == [UNKNOWN, "unknown"]


def test_epsilon_is_what_luck_may_add_to_the_best_where_many_were_tried() -> None:
    trials = pd.DataFrame({"width": 2, "val_accuracy": np.linspace(0.8, 0.9, 40), "val_accuracy_sd": 0.01})
    found = float(epsilons(trials.assign(num_seeds=3))["epsilon"].iloc[0])
    assert found == pytest.approx(many_to_one(39, 40) * 0.01 * math.sqrt(2 / 3))
    assert found > minimum_detectable(math.sqrt(2) * 0.01, 3, 40)


@pytest.mark.parametrize(("count", "rise"), [(12, 0.0), (60, 0.0), (12, 0.004)])
def test_the_truly_best_trial_is_within_epsilon_of_the_highest_in_95_of_100_studies(count: int, rise: float) -> None:
    rng, truth = np.random.default_rng(count), 0.9 + rise * np.arange(count)
    held = 0
    for _ in range(400):
        seeds = truth[:, None] + 0.01 * rng.normal(size=(count, 3))
        table = {"val_accuracy": seeds.mean(axis=1), "val_accuracy_sd": seeds.std(axis=1, ddof=1), "num_seeds": 3}
        trials = pd.DataFrame({"width": 2, **table})
        short = trials["val_accuracy"].max() - trials["val_accuracy"].iloc[-1]
        held += bool(short <= epsilons(trials)["epsilon"].iloc[0])
    assert held >= 0.93 * 400


@pytest.mark.parametrize(("others", "freedom"), [(1, 3), (4, 10), (14, 28)])
def test_the_critical_value_of_many_against_one_is_that_of_the_multivariate_t(others: int, freedom: int) -> None:
    shape = np.full((others, others), 0.5) + 0.5 * np.eye(others)
    held = stats.multivariate_t(np.zeros(others), shape, df=freedom)
    assert held.cdf(np.full(others, many_to_one(others, freedom)), random_state=0) == pytest.approx(0.95, abs=5e-4)
    assert many_to_one(1, freedom) == pytest.approx(stats.t.ppf(0.95, freedom), rel=1e-4)
    assert many_to_one(0, freedom) == 0 and math.isnan(many_to_one(others, 0))


def test_a_pooled_spread_detects_smaller_differences_than_its_own_few_seeds() -> None:
    assert minimum_detectable(0.1, 2, 60) < minimum_detectable(0.1, 2) / 4
    assert minimum_detectable(0.1, 5, 4) == minimum_detectable(0.1, 5)


def test_the_robust_default_is_near_the_truth_and_counts_the_trials_that_lie_there() -> None:
    trials = knob_trials(200)
    cells, reason = robust(trials, SPACE)
    assert reason == "" and len(cells) == 2 * 25 + 5 and cells["shortfall"].is_monotonic_increasing
    best = cells.iloc[0]  # the truth: kl or soft_ce at alpha .2 and the middle temperature, sqrt(20)
    assert best["form"] in ("kl", "soft_ce") and best["alpha_low"] < 0.41 and best["temperature_low"] < 4.5
    assert 0 <= best["shortfall"] < 0.1 and best["shortfall"] <= best["shortfall_high"] < 0.6
    # Counted by hand: which trials lie in the first cell.
    inside = trials[(trials["form"] == best["form"]) & trials["alpha"].between(best["alpha_low"], best["alpha_high"])]
    inside = inside[inside["temperature"].between(best["temperature_low"], best["temperature_high"])]
    assert best["num_trials"] == len(inside) and best["widths_tried"] == inside["width"].nunique()
    assert (cells["shortfall_high"] >= cells["shortfall"] - 1e-9).mean() > 0.95


def test_a_form_that_fails_at_one_width_is_no_robust_default() -> None:
    """It is the best at the other widths, and the worst of its widths counts."""
    trials = knob_trials(240)
    trials.loc[(trials["form"] == "kl"), "val_accuracy"] += 0.01
    trials.loc[(trials["form"] == "kl") & (trials["width"] == 2), "val_accuracy"] -= 0.05
    cells, _ = robust(trials, SPACE)
    assert cells["form"].iloc[0] == "soft_ce"
    kl = cells[cells["form"] == "kl"]
    assert kl["shortfall"].min() > 2 and set(kl["worst_width"]) == {2}


def test_what_is_too_little_for_a_default_is_said() -> None:
    assert robust(knob_trials(19), SPACE)[1] == "a robust default needs 20 finished distilled trials, not 19"
    alike = knob_trials(40, forms=("mse",)).assign(alpha=0.5)
    cells, reason = robust(alike, SPACE)
    assert cells.empty and reason == "neither form nor alpha nor temperature varies, so there is nothing to choose"
    assert indifference(controls()).empty and robust(controls(), SPACE)[0].empty
    cells, reason = robust(knob_trials(40, forms=("mse",), widths=(4,)), SPACE)
    assert reason == "" and len(cells) == 5 and cells["temperature_low"].isna().all()


def test_indifference_and_the_default_repeat_themselves_whatever_the_order() -> None:
    trials = knob_trials(60)
    mixed = trials.sample(frac=1, random_state=2)
    pd.testing.assert_frame_equal(indifference(trials), indifference(mixed))
    pd.testing.assert_frame_equal(robust(trials, SPACE)[0], robust(mixed, SPACE)[0])


def test_importance_at_each_width_finds_the_knob_that_matters_there() -> None:
    trials = knob_trials(120)
    scaled = (np.log(trials["lr"]) - math.log(1e-3)) / math.log(50)
    effect = np.where(trials["width"] == 2, trials["alpha"], np.where(trials["width"] == 4, scaled, 0))
    trials["val_accuracy"] = 0.9 + 0.05 * effect + 0.03 * ((trials["width"] == 8) & (trials["form"] == "mse"))
    table, missing = importance_by_width(trials, SPACE, EVALUATE)
    assert missing == () and set(table["width"]) == set(WIDTHS) and "width" not in set(table["knob"])
    for name in ("fANOVA", "PED-ANOVA"):
        leads = table.loc[table.groupby("width")[name].idxmax()].set_index("width")["knob"]
        assert leads.to_dict() == {2: "alpha", 4: "lr", 8: "form"}
        assert table.groupby("width")[name].sum().to_list() == pytest.approx([1, 1, 1])


def test_a_width_with_fewer_than_eight_trials_is_left_out_and_said_to_be() -> None:
    trials = pd.concat([knob_trials(12, widths=(4,)), knob_trials(7, widths=(8,))], ignore_index=True)
    table, missing = importance_by_width(trials.assign(number=range(19)), SPACE, EVALUATE)
    assert set(table["width"]) == {4} and set(table["num_trials"]) == {12}
    assert missing == ("width 8 has 7 of the 8 finished distilled trials it needs",)
    flat = knob_trials(12, widths=(4,)).assign(val_accuracy=0.5)
    table, missing = importance_by_width(flat, SPACE, EVALUATE)
    assert table.empty and missing == ("nothing varies among the 12 finished distilled trials of width 4",)
    assert importance_by_width(controls(), SPACE, EVALUATE)[0].empty


def test_of_many_trials_of_a_width_so_many_are_evaluated() -> None:
    asked: list[int] = []

    def evaluate(space: Mapping[str, object], rows: object) -> dict[str, dict[str, float]]:
        asked.append(len(list(rows)))  # type: ignore[call-overload]
        return {"fANOVA": dict.fromkeys(space, 1.0), "PED-ANOVA": dict.fromkeys(space, 1.0)}

    table, _ = importance_by_width(knob_trials(3000), SPACE, evaluate)
    assert asked == [60, 60, 60] and table["of"].min() > 900
    assert len(FORMS) == 3 and set(table["knob"]) == set(SPACE) - {"width"}
