"""The analysis: what is on disk becomes DataFrames, and DataFrames become the front, the gains and their limits."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.analysis.compare import best_by_width, gain_over_control, gains, paired_differences, pooled_sd, with_gains
from harness.analysis.importance import edges, edges_of_chosen, importance_rows, importance_table
from harness.analysis.load import StudyData, finished, is_plain, load, rows_of
from harness.analysis.pareto import front, hypervolume, hypervolume_over_trials, reference_point, step_line
from harness.analysis.statistics import holm, minimum_detectable, paired, sign_flip_p
from harness.space import Dimension, Value
from tests.fake_study import FakeStudy, write_fake_study

POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 6)), min_size=1, max_size=14)
DIFFERENCES = st.lists(st.integers(-30, 30).map(lambda n: n / 1000), min_size=1, max_size=9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_study(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def data(folder: Path) -> StudyData:
    return load(folder)


def frame(points: Sequence[tuple[float, float]]) -> pd.DataFrame:
    columns = {
        "number": range(len(points)),
        "val_accuracy": [p[0] for p in points],
        "num_params": [p[1] for p in points],
    }
    return pd.DataFrame(columns)


def test_every_trial_is_one_row_with_its_state(data: StudyData) -> None:
    trials = data.trials.set_index("number")
    assert len(trials) == 64 + 5 * 13
    assert trials["state"].value_counts().to_dict() == {"complete": 127, "failed": 1, "unfinished": 1}
    assert trials.loc[7, "state"] == "failed" and trials.loc[11, "state"] == "unfinished"
    assert trials.loc[5, "status"] == "diverged" and (trials["status"] == "diverged").sum() == 1
    assert not {5, 7, 11} & set(finished(data.trials)["number"])


def test_a_trial_is_the_mean_of_its_students_and_the_sum_of_their_cost(data: StudyData) -> None:
    trial = data.trials.set_index("number").loc[0]
    students = data.students[data.students["number"] == 0]
    first, second = students["val_accuracy"]
    assert trial["val_accuracy"] == pytest.approx((first + second) / 2)
    assert trial["val_accuracy_sd"] == pytest.approx(abs(first - second) / math.sqrt(2))
    assert trial["seconds"] == pytest.approx(students["seconds"].sum())
    assert trial["num_seeds"] == 2 and trial["num_params"] == students["num_params"].iloc[0]


def test_curves_have_a_row_for_each_trial_seed_and_epoch(data: StudyData) -> None:
    assert len(data.curves) == 126 * 2 * 12
    assert data.curves["epoch"].min() == 1
    plain = data.trials.loc[is_plain(data.trials), "number"]
    of_plain = data.curves["number"].isin(plain)
    assert data.curves.loc[of_plain, "train_kd"].isna().all() and data.curves.loc[~of_plain, "train_kd"].notna().all()


def test_reading_changes_nothing_and_a_result_of_another_trial_is_unreadable(tmp_path: Path) -> None:
    folder = write_fake_study(tmp_path, FakeStudy(trials=4, controls=0, diverged=(), failed=(), running=()))
    (folder / "trials/0/result.json").write_text("{ half a fi")
    other = json.loads((folder / "trials/1/result.json").read_text())
    (folder / "trials/1/result.json").write_text(json.dumps(other | {"hash": "0"}))
    (folder / "trials/2/spec.json").write_text("[]")
    (folder / "trials/9").mkdir()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    trials = load(folder).trials
    assert trials["state"].tolist() == ["unreadable", "unreadable", "unreadable", "complete"]
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_missing_study_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no study at"):
        load(tmp_path)


@given(POINTS)
def test_the_front_is_what_no_other_trial_dominates(points: list[tuple[int, int]]) -> None:
    def dominated(one: tuple[int, int]) -> bool:
        return any(p[0] >= one[0] and p[1] <= one[1] and p != one for p in points)

    expected = {number for number, point in enumerate(points) if not dominated(point)}
    found = front(frame(points))
    assert set(found["number"]) == expected
    assert found["num_params"].is_monotonic_increasing and found["val_accuracy"].is_monotonic_increasing


@given(POINTS, st.tuples(st.integers(0, 4), st.integers(2, 8)))
def test_the_hypervolume_counts_the_unit_cells_that_some_trial_dominates(
    points: list[tuple[int, int]], reference: tuple[int, int]
) -> None:
    cells = itertools.product(range(reference[0], 7), range(reference[1]))
    # The cell [score, score + 1] x [size, size + 1] is dominated by a point above it and to its left.
    expected = sum(any(p[0] >= score + 1 and p[1] <= size for p in points) for score, size in cells)
    assert hypervolume(points, reference) == pytest.approx(expected)


@given(POINTS)
def test_the_hypervolume_never_falls_and_ends_at_that_of_all_trials(points: list[tuple[int, int]]) -> None:
    curve = hypervolume_over_trials(frame(points), (0.0, 10.0))["hypervolume"]
    assert (curve.diff().dropna() >= -1e-12).all()
    logs = [(score, math.log10(size)) for score, size in points]
    assert curve.iloc[-1] == pytest.approx(hypervolume(logs, (0.0, 1.0)))


def test_equal_trials_stay_on_the_front_together_and_draw_one_step() -> None:
    points = front(frame([(0.9, 10), (0.9, 10), (0.8, 10), (0.9, 20), (0.95, 20)]))
    assert points["number"].tolist() == [0, 1, 4]
    line = step_line(points, 40)
    assert list(zip(line["num_params"], line["val_accuracy"], strict=True)) == [
        (10, 0.9),
        (20, 0.9),
        (20, 0.95),
        (40, 0.95),
    ]


def test_the_reference_point_is_chance_at_the_size_of_the_teacher() -> None:
    trials = frame([(0.9, 10), (0.95, 20)])
    assert reference_point(trials, 10, 1000, "num_params") == (0.1, 1000)
    assert reference_point(trials, 10, None, "num_params") == (0.1, 40)


def test_a_worked_example_of_three_paired_seeds() -> None:
    # Differences 1, 2, 3: mean 2, SD 1, standard error 1/sqrt(3), t = 2 sqrt(3); 4.3027 is t at .975 with 2 degrees.
    found = paired([1.0, 2.0, 3.0])
    assert (found.mean, found.sd) == (2.0, 1.0)
    assert found.low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-5)
    assert found.high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-5)
    assert found.p_t == pytest.approx(stats.ttest_1samp([1.0, 2.0, 3.0], 0).pvalue)
    # Only +++ and --- reach a sum of 6: two of the eight patterns, which is the floor.
    assert found.p_sign_flip == found.p_floor == 0.25


def test_one_seed_and_seeds_that_agree_exactly_have_no_interval() -> None:
    for differences in ([0.01], [0.01, 0.01]):
        found = paired(differences)
        assert math.isnan(found.low) and math.isnan(found.p_t) and found.mean == 0.01
    with pytest.raises(ValueError, match="no paired differences"):
        paired([])


def test_beyond_forty_seeds_signs_are_flipped_at_random() -> None:
    shifted = np.random.default_rng(1).normal(0.02, 0.05, 60)
    assert sign_flip_p(shifted[:41].tolist()) == pytest.approx(sign_flip_p(shifted[:40].tolist()), abs=0.01)
    found = paired(shifted.tolist())
    assert found.p_sign_flip == pytest.approx(stats.ttest_1samp(shifted, 0).pvalue, rel=0.3)
    assert found.p_sign_flip == sign_flip_p(shifted.tolist())  # the same at every call
    assert paired([1.0] * 1000).p_sign_flip == paired([1.0] * 1000).p_floor == 2 / 100_000
    with pytest.raises(ValueError, match="no differences"):
        sign_flip_p([])


@settings(deadline=None)
@given(DIFFERENCES)
def test_the_sign_flip_p_is_the_share_of_all_patterns_at_least_as_extreme(differences: list[float]) -> None:
    patterns = itertools.product((1, -1), repeat=len(differences))
    sums = [abs(sum(sign * d for sign, d in zip(signs, differences, strict=True))) for signs in patterns]
    expected = float(np.mean([value >= abs(sum(differences)) - 1e-9 for value in sums]))
    assert sign_flip_p(differences) == pytest.approx(expected)
    assert sign_flip_p(differences) >= 2 / 2 ** len(differences)


def test_the_minimum_detectable_difference_is_that_of_the_protocol() -> None:
    # Seed SD .15 points on both sides: .69, .36, .21 and .14 points for 3, 5, 10 and 20 seeds.
    found = [round(minimum_detectable(0.15 * math.sqrt(2), seeds), 2) for seeds in (3, 5, 10, 20)]
    assert found == [0.69, 0.36, 0.21, 0.14]
    assert math.isnan(minimum_detectable(0.1, 1)) and math.isnan(minimum_detectable(0.0, 5))


def test_a_paired_t_test_finds_the_minimum_detectable_difference_four_times_in_five() -> None:
    rng = np.random.default_rng(1)
    draws = rng.normal(minimum_detectable(1.0, 4), 1.0, size=(20_000, 4))
    assert np.mean(stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.012)


def test_holm_multiplies_the_smallest_p_by_the_size_of_the_family() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    adjusted = holm([math.nan, 0.02])
    assert math.isnan(adjusted[0]) and adjusted[1] == pytest.approx(0.04)


def test_gains_pair_the_best_of_each_side_by_seed(data: StudyData) -> None:
    table = gains(data.trials, data.students)
    assert table["width"].tolist() == [2, 3, 4, 6, 8]
    plain = best_by_width(data.trials, plain=True).set_index("width")
    assert (table["control_trials"] == 13).all() and table["distilled_trials"].sum() == 61
    for row in rows_of(table):
        assert row["control"] == plain["number"][row["width"]]
        assert row["gain"] == pytest.approx(float(np.mean(row["differences"])))
        assert row["gain"] == pytest.approx(row["distilled_accuracy"] - row["control_accuracy"])
        both = paired_differences(data.students, row["distilled"], row["control"])
        assert both.index.tolist() == [1, 2] and tuple(both) == row["differences"]
    assert (table["verdict"] == "no difference shown").all()  # two seeds cannot show such gains
    assert pooled_sd(table) == pytest.approx(math.sqrt(float((table["sd"] ** 2).mean())))


def test_a_large_gain_over_many_seeds_is_shown(tmp_path: Path) -> None:
    fake = FakeStudy(trials=20, controls=3, widths=(2, 4), forms=("kl",), seeds=8, gain=0.06, diverged=(), running=())
    found = load(write_fake_study(tmp_path, fake))
    table = gains(found.trials, found.students)
    assert (table["verdict"] == "difference on validation").all()
    assert (table["gain"] >= table["mde"]).all() and (table["low"] > 0).all()


def test_the_gain_of_the_best_control_over_itself_is_zero(data: StudyData) -> None:
    gained = gain_over_control(data.trials)[is_plain(data.trials)].dropna()
    assert gained.max() == 0 and (gained == 0).sum() >= 5


def test_the_front_carries_gains_for_distilled_trials_alone(data: StudyData) -> None:
    done = finished(data.trials)
    table = with_gains(done, data.trials, data.students)
    assert table.loc[is_plain(table), "gain"].isna().all() and table.loc[~is_plain(table), "gain"].notna().all()


def test_importance_asks_for_the_parameters_that_each_trial_has(data: StudyData) -> None:
    asked: list[tuple[Mapping[str, Value], float]] = []

    def evaluate(
        space: Mapping[str, Dimension], rows: Sequence[tuple[Mapping[str, Value], float]]
    ) -> dict[str, dict[str, float]]:
        asked.extend(rows)
        return {"fANOVA": dict.fromkeys(space, 2.0), "PED-ANOVA": {"width": 0.3, "lr": 0.1}}

    table = importance_table(data.trials, data.space, evaluate)
    assert len(asked) == 61 and asked == list(importance_rows(data.trials, data.space))
    assert all(("temperature" in params) == (params["form"] in ("kl", "soft_ce")) for params, _ in asked)
    assert all(type(value) in (int, float, str) for params, _ in asked for value in params.values())
    assert table["fANOVA"].tolist() == [0.2] * 5 and table.loc["width", "PED-ANOVA"] == pytest.approx(0.75)


def test_a_best_value_on_the_edge_of_its_range_is_flagged(data: StudyData) -> None:
    trials = pd.DataFrame({"number": [3, 4], "lr": [0.0499, 0.01], "alpha": [0.5, 0.001], "width": [2, 8]})
    said = edges(trials, data.space)
    assert [line.split()[0] for line in said] == ["alpha", "lr"]
    assert said[1].endswith("[0.001, 0.05] in trial 3")


def test_a_control_on_the_edge_of_its_range_is_flagged_but_not_for_ignoring_a_useless_teacher(data: StudyData) -> None:
    roles = ["distilled", "ce", "smoothing", "self", "shuffled", "shuffled"]
    trials = pd.DataFrame({
        "number": range(6), "role": roles, "width": [2, 2, 2, 2, 2, 4], "mixing": "convex",
        "form": ["mse", "ce", "ce", "kl", "kl", "kl"], "lr": [0.01, 0.0499, 0.01, 0.01, 0.0499, 0.0499],
        "alpha": [0.5, 1.0, 1.0, 0.999, 0.999, 0.001], "temperature": [1.0, 1.0, 1.0, 4.0, 4.0, 4.0],
        "label_smoothing": [0.0, 0.0, 0.39, 0.0, 0.0, 0.0],
    })  # fmt: skip
    names = {"distilled": "distilled", "ce": "plain", "smoothing": "smoothing", "self": "self", "shuffled": "shuffled"}
    said = dict(line.split(" lies on the edge of its range ") for line in edges_of_chosen(trials, data.space, names))
    assert said == {
        "alpha": "[0, 1]: shuffled of width 4", "label_smoothing": "[0.02, 0.4]: smoothing of width 2",
        "lr": "[0.001, 0.05]: plain of width 2, shuffled of width 2, 4",
    }  # fmt: skip
    additive = edges_of_chosen(trials.assign(mixing="additive"), data.space, names)
    assert "self of width 2, shuffled of width 2;" in "; ".join(additive) + ";"
