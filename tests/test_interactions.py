"""Interactions: shown where they were planted, not shown in a sum, and never without trials enough."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from harness.analysis.interactions import SHOWN, interactions
from harness.analysis.surrogate import Model, at, cross_validated, dummies, fit, levels, smooth
from harness.analysis.terms import GRID, axes_of, axis_of, distilled, model_of
from tests.knob_trials import SPACE, controls, knob_trials

POINTS = np.linspace(0, 1, GRID)


def of_pair(table: pd.DataFrame, pair: str) -> pd.DataFrame:
    return table[table["pair"] == pair]


def test_a_sum_has_no_interaction_to_show() -> None:
    tables = [interactions(knob_trials(120, seed=seed), SPACE).table for seed in range(4)]
    table = pd.concat(tables)
    assert len(table) == 12 and (table["verdict"] != SHOWN).sum() >= 11
    assert table["verdict"].str.startswith("not distinguishable from noise with").sum() >= 11
    assert (table["p"] < 0.05).mean() <= 0.2 and (table["r_squared"] > 0.7).all()


def test_alpha_and_temperature_that_work_together_are_shown_to() -> None:
    found = interactions(knob_trials(120, together=2.0), SPACE).table
    table = of_pair(found, "alpha x temperature")
    assert table["form"].tolist() == ["kl", "soft_ce"] and (table["verdict"] == SHOWN).all()
    # The truth: 8 (a - 1/2)(t - 1/2) has the variance 64 / 12^2, alpha's own hill, 3 (a - .2)^2, one of .63 = SD .79.
    assert table["points"].to_numpy(float) == pytest.approx(8 / 12, abs=0.2)
    assert (table["share_interaction"] > 0.25).all() and (table["points"] > table["null_points"]).all()
    assert (of_pair(found, "form x width")["verdict"] != SHOWN).all()


def test_a_form_that_gains_with_width_is_shown_to() -> None:
    found = interactions(knob_trials(120, by_width=0.6), SPACE)
    row = of_pair(found.table, "form x width").iloc[0]
    assert row["verdict"] == SHOWN and row["share_second"] > row["share_interaction"] > 0
    values = found.by_width.set_index(["form", "width"])["value"]
    # kl against the mean of three forms: -.4 - ... at width 2, the reverse at 8; 4/3 of .6 from one end to the middle.
    assert values["kl", 8] - values["kl", 2] == pytest.approx(2 * 0.6 * 4 / 3, abs=0.4)
    assert found.by_width.groupby("width")["value"].mean().abs().max() < 1e-9


def test_shares_of_a_pair_sum_to_one() -> None:
    table = interactions(knob_trials(90, together=1.0), SPACE).table
    shares = table[["share_first", "share_second", "share_interaction"]].sum(axis=1)
    assert shares.to_numpy(float) == pytest.approx(1.0)


def test_noise_alone_is_said_to_be_noise_and_the_surrogate_to_say_nothing() -> None:
    trials = knob_trials(90)
    trials["val_accuracy"] = np.random.default_rng(1).normal(0.9, 0.01, len(trials))
    table = interactions(trials, SPACE).table
    assert (table["r_squared"] < 0.15).all() and (table["verdict"] != SHOWN).all()


def test_a_width_that_scatters_more_is_no_interaction() -> None:
    """Errors keep their trials, so that what scatters at one width does not spread to the others."""
    tables = [interactions(knob_trials(60, seed=seed, rough=1.5), SPACE).table for seed in range(12)]
    p = of_pair(pd.concat(tables), "form x width")["p"].astype(float)
    assert (p < 0.05).sum() <= 3  # of 12: 4 or more have a chance of .2% at a rate of .05


def test_few_trials_are_not_judged_and_the_reason_is_given() -> None:
    table = interactions(knob_trials(19), SPACE).table
    assert table["p"].isna().all()
    assert (table["verdict"].str.startswith("not computed: it needs 20 finished distilled trials")).all()
    one = interactions(knob_trials(40, widths=(4,)), SPACE).table
    assert of_pair(one, "form x width")["verdict"].tolist() == ["not computed: width does not vary enough"]
    cold = knob_trials(90).assign(temperature=4.0)
    assert "temperature does not vary enough" in interactions(cold, SPACE).table["verdict"].iloc[0]


def test_nothing_to_judge_is_an_empty_table() -> None:
    for trials in (knob_trials(0), knob_trials(40).assign(status="diverged"), controls()):
        found = interactions(trials, SPACE)
        assert found.table.empty and found.surfaces.empty and found.by_width.empty


def test_the_same_trials_give_the_same_answer_whatever_their_order() -> None:
    trials = knob_trials(80, together=1.0)
    first, second = (interactions(table, SPACE) for table in (trials, trials.sample(frac=1, random_state=1)))
    pd.testing.assert_frame_equal(first.table, second.table)
    pd.testing.assert_frame_equal(first.surfaces, second.surfaces)


def test_of_many_trials_so_many_are_drawn_and_the_table_says_how_many() -> None:
    table = interactions(knob_trials(2000), SPACE).table
    assert table["num_trials"].tolist() == [200, 200, 300] and table["of"].iloc[-1] == 2000


def test_the_surface_is_centred_on_the_control_where_every_width_has_one() -> None:
    trials = pd.concat([knob_trials(90, forms=("kl",)), controls()], ignore_index=True)
    found = interactions(trials, SPACE).surfaces
    assert set(found["centre"]) == {"control"} and len(found) == GRID**2
    # The truth at its best knobs is 97 points less what width costs, the control 95 less that.
    assert found["value"].max() == pytest.approx(2.0, abs=0.35)
    assert set(interactions(trials[trials["arm"] == "search"], SPACE).surfaces["centre"]) == {"mean"}


def test_kernels_are_of_functions_with_mean_zero_over_the_grid() -> None:
    places = np.array([0.1, 0.7])
    assert smooth(places, POINTS, POINTS).mean(axis=1) == pytest.approx([0, 0], abs=1e-12)
    codes = np.arange(4.0)
    assert levels(codes, codes, codes).mean(axis=0) == pytest.approx(np.zeros(4))
    missing = smooth(np.array([math.nan, 0.5]), places, POINTS)
    assert (missing[0] == 0).all() and (missing[1] != 0).any()


def likelihood_by_definition(model: Model, weights: dict[str, float]) -> float:
    """The log likelihood of error contrasts at the likeliest scale (Patterson and Thompson 1971)."""
    covariance = np.eye(len(model.target)) + sum(weights[name] * kernel for name, kernel in model.terms.items())
    contrasts = np.linalg.svd(model.fixed.T)[2][model.fixed.shape[1] :]
    inner = contrasts @ covariance @ contrasts.T
    values = contrasts @ model.target
    scale = float(values @ np.linalg.inv(inner) @ values) / len(values)
    return float(stats.multivariate_normal(cov=scale * inner).logpdf(values))


@pytest.fixture(scope="module")
def small() -> Model:
    part = distilled(knob_trials(24, forms=("kl",)))
    return model_of(part, axes_of(part, SPACE))


def test_the_surrogate_is_judged_by_trials_that_it_has_not_seen(small: Model) -> None:
    rng = np.random.default_rng(0)
    noise = [cross_validated(replace(small, target=rng.normal(size=24))) for _ in range(10)]
    assert float(np.mean(noise)) < 0.05 and cross_validated(small) > 0.4
    assert math.isnan(cross_validated(replace(small, target=np.ones(24))))


def test_strengths_are_those_of_most_restricted_likelihood(small: Model) -> None:
    weights = dict(fit(small).weights)
    most = likelihood_by_definition(small, weights)
    for name in weights:
        for factor in (0.8, 1.25):
            changed = {**weights, name: weights[name] * factor}
            assert likelihood_by_definition(small, changed) <= most + 1e-4


def test_a_prediction_at_a_trial_with_hardly_any_noise_is_that_trial(small: Model) -> None:
    fitted = at(small, dict.fromkeys(small.terms, 1e6))
    mean, covariance = fitted.predicted(small.terms, small.terms, small.fixed)
    assert mean == pytest.approx(small.target, abs=1e-3)
    assert covariance.diagonal() == pytest.approx(np.full(len(mean), fitted.noise), rel=0.05)
    alone = at(Model({}, np.ones((4, 1)), np.array([1.0, 2.0, 3.0, 6.0])), {})
    mean, covariance = alone.predicted({}, {}, np.ones((1, 1)))
    assert mean[0] == pytest.approx(3.0) and covariance[0, 0] == pytest.approx(14 / 3 / 4)  # the mean's squared error


def test_an_axis_covers_what_the_trials_cover_on_its_own_scale() -> None:
    trials = pd.DataFrame(
        {"lr": [0.001, 0.01, 0.1], "width": [2, 4, 8], "form": ["kl", "mse", "kl"], "alpha": [0.5] * 3}
    )
    lr = axis_of(trials, "lr", SPACE["lr"])
    assert lr is not None and lr.log and lr.scaled(trials["lr"]) == pytest.approx([0, 0.5, 1])
    width = axis_of(trials, "width", SPACE["width"])
    assert width is not None and width.labels == (2, 4, 8) and width.grid == pytest.approx([0, 0.5, 1])
    form = axis_of(trials, "form", SPACE["form"])
    assert form is not None and form.choice and form.scaled(trials["form"]).tolist() == [0, 1, 0]
    assert axis_of(trials, "alpha", SPACE["alpha"]) is None and axis_of(trials, "nothing", None) is None
    assert dummies(["a", "c", "b"], ["a", "b", "c"]).tolist() == [[0, 0], [0, 1], [1, 0]]
