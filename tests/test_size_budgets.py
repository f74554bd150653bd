"""A study's own limits on size: what it says to take within each, in words, in the table, in the figures."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness import figures
from harness.analysis.judged import ELIGIBLE, against_plain
from harness.analysis.load import rows_of
from harness.files import read_sealed, write_sealed
from harness.report.closing import closing_table
from harness.report.controls import answer
from harness.report.drawings import drawings
from harness.report.findings import Report, judge
from harness.report.page import page
from harness.report.tables import configuration
from harness.report.unconfirmed import unconfirmed
from harness.space import Choice, Study
from tests.confirming import swept
from tests.fake_study import FakeStudy, write_fake_study

NARROW, WIDE = 247, 502
"""Parameters of width 3 and 6 on the digits."""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, digits_cache: Path) -> Report:
    folder = tmp_path_factory.mktemp("budgets")
    more = f"other_controls=('shuffled',), size_budgets=({WIDE}, 100, {NARROW + 1}, {WIDE})"
    assert swept(folder, digits_cache, confirm=2, more=more) == 0
    return judge(folder / "out" / "mine")


def test_each_budget_has_what_validation_chose_among_what_fits(report: Report) -> None:
    found, table = report.confirmed, report.confirmed.recommended
    assert report.data.size_budgets == (100, NARROW + 1, WIDE) and table["budget"].tolist() == [100, NARROW + 1, WIDE]
    assert pd.isna(table["number"].iloc[0]) and pd.isna(table["p_best"].iloc[0])
    for row in rows_of(table.iloc[1:]):
        fits = found.trials[(found.trials["num_params"] <= row["budget"]) & found.trials["role"].isin(ELIGIBLE)]
        assert row["number"] == fits.loc[fits["val_accuracy"].idxmax(), "number"]


def test_the_answer_and_the_table_say_what_to_take_within_each_budget(report: Report) -> None:
    text = page(report)
    said = dict(re.findall(r"- Within \*\*(\d+) parameters\*\*: (.*)", text))
    assert list(said) == ["100", str(NARROW + 1), str(WIDE)]
    assert said["100"] == "nothing that was confirmed is as small."
    assert "| 100 | nothing confirmed is as small | – | – | – | – |" in text
    by_number = {row["number"]: row for row in rows_of(report.confirmed.trials.drop_duplicates("number"))}
    for row in rows_of(report.confirmed.recommended.iloc[1:]):
        own, line = by_number[row["number"]], said[str(int(row["budget"]))]
        assert line.startswith(f"{configuration(own)}, {own['num_params']} parameters, ")
        assert f" {100 * own['test_accuracy']:.2f} [" in line and f"P(best) {row['p_best']:.2f}" in line
        gain = against_plain(report.confirmed, int(own["number"]))
        assert (f"{100 * gain['gain']:+.2f} " in line and gain["verdict"] in line) if gain else "plain" in line


@pytest.mark.parametrize(("own", "other"), [(0.21, 0.75), (0.75, 0.21)])
def test_the_runner_up_has_its_own_probability_and_is_named_where_it_is_likelier(
    own: float, other: float, report: Report
) -> None:
    first = report.confirmed.recommended.dropna(subset=["runner_up"]).head(1)
    first = first.assign(p_best=own, runner_up_p_best=other)
    text = page(replace(report, confirmed=replace(report.confirmed, recommended=first)))
    (line,) = [line for line in text.splitlines() if line.startswith("- Within **")]
    assert f"P(best) {own} among" in line and f", P(best) {other}" in line
    assert ("likelier than what validation chose" in line) == (other > own)
    (row,) = [line for line in text.splitlines() if line.startswith(f"| {int(first['budget'].item()):,} |")]
    assert row.endswith(f"| {other} |") and f"| {own} |" in row
    alone = first.assign(runner_up=np.nan, runner_up_p_best=np.nan)
    text = page(replace(report, confirmed=replace(report.confirmed, recommended=alone)))
    (line,) = [line for line in text.splitlines() if line.startswith("- Within **")]
    assert line.endswith("Nothing else that was confirmed and can be judged fits.") and "P(best)" not in line


def test_the_terminals_table_says_how_many_comparisons_holms_correction_is_for(report: Report) -> None:
    for planned in (len(report.confirmed.comparisons), 99):
        table = closing_table(replace(report, confirmed=replace(report.confirmed, num_planned=planned)))
        assert f"Holm's correction for {planned} comparisons" in str(table.caption)


def test_the_figures_of_parameters_have_a_vertical_for_each_budget_within_them(report: Report) -> None:
    with figures.paper():
        for drawing in drawings(report):
            if drawing.stem.startswith(("confirmed_accuracy", "accuracy_")):
                (axes,) = drawing.draw().axes
                lines = [line.get_xdata() for line in axes.lines]
                upright = [found[0] for x in lines if len(found := list(x)) == 2 and found[0] == found[1]]  # type: ignore[arg-type]
                wanted = {NARROW + 1, WIDE} if drawing.stem in ("confirmed_accuracy", "accuracy_num_params") else set()
                assert {NARROW + 1, WIDE} & set(upright) == wanted


@pytest.mark.parametrize("budgets", [(), (249,), (247, 503), (501,)])
def test_no_trial_is_drawn_beyond_a_budget_that_it_keeps_and_controls_stand_at_their_size(
    report: Report, budgets: tuple[int, ...]
) -> None:
    data = report.data
    with figures.paper():
        drawn = figures.accuracy_against_size(data.trials, data.students, ["kl", "mse"], "num_params", None, budgets)
    (axes,) = drawn.axes
    places = np.concatenate([np.asarray(cloud.get_offsets())[:, 0] for cloud in axes.collections]).tolist()
    for limit in budgets:
        for size in (NARROW, WIDE):
            own = [place for place in places if abs(place / size - 1) < 0.05]
            assert own and all((place > limit) == (size > limit) for place in own if size != limit)
    (controls,) = axes.containers
    assert list(controls[0].get_xdata()) == [NARROW, WIDE]


def test_the_study_is_the_same_with_other_budgets_and_without_them_all_sizes_are_budgets(report: Report) -> None:
    plain = Study(task="digits", family="mlp", space={"width": Choice(2, 4), "form": Choice("kl")})
    told = Study(task="digits", family="mlp", space=plain.space, size_budgets=(300,))
    assert told.identity() == plain.identity()
    path = report.folder / "study.json"
    kept = path.read_bytes()
    manifest = {name: value for name, value in (read_sealed(path) or {}).items() if name != "digest"}
    write_sealed(path, {name: value for name, value in manifest.items() if name != "size_budgets"})
    again = judge(report.folder)
    assert again.data.size_budgets == () and again.confirmed.recommended["budget"].tolist() == [NARROW, WIDE]
    assert "Within **" not in page(again)
    odd: list[tuple[str, Any]] = [("size_budgets", [value]) for value in ("many", -5, 0, 1.5, True, 1e300)]
    odd += [("started_ms", value) for value in (10**400, -1, True, "x")]
    for name, value in odd:
        write_sealed(path, {**manifest, name: value})
        with pytest.raises(ValueError, match=r"study\.json is damaged"):
            judge(report.folder)
    path.write_bytes(kept)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (0, "size_budgets 0 must be a tuple of numbers of parameters, as (1_000, 2_000)"),
        ((100, 0), "size budget 0 is out of range; it must be "),
        ((1.5,), "size budget 1.5 is out of range; it must be "),
        (("1k",), "size budget '1k' is out of range; it must be "),
    ],
)
def test_a_budget_that_is_none_is_named(given: object, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        Study(task="digits", family="mlp", space={"width": Choice(2), "form": Choice("kl")}, size_budgets=given)  # type: ignore[arg-type]


def test_a_trial_is_known_to_have_ended_so_many_seconds_after_the_sweep_began(report: Report) -> None:
    trials = report.data.trials
    assert (trials["elapsed"] > 0).all() and trials["elapsed"].max() < (report.data.manifest["seconds"] or 0) + 1
    with figures.paper():
        figure = next(drawing for drawing in drawings(report) if drawing.stem == "hypervolume").draw()
    axes = figure.axes[1]
    ends = sorted(trials.loc[(trials["arm"] == "search") & (trials["state"] == "complete"), "elapsed"])
    assert axes.get_xlabel() == "wall-clock (s)" and list(axes.lines[0].get_xdata()) == pytest.approx(ends)  # type: ignore[arg-type]


def test_where_nothing_was_confirmed_the_answer_says_so_of_the_budgets(tmp_path: Path) -> None:
    folder = write_fake_study(tmp_path, FakeStudy(trials=12, controls=2))
    path = folder / "study.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "size_budgets": [2000, 1000]}))
    said = "What to take within **1,000, 2,000 parameters** is not said: nothing was confirmed on fresh seeds."
    assert said in page(judge(folder))


@pytest.mark.parametrize(
    ("manifest", "why"),
    [
        ({"confirm_seeds": []}, ": the stage was left out (`Study(confirm=0)` or `--no-confirm`)"),
        ({"confirm_seeds": [1, 2], "ended": False}, ": the sweep was stopped before it"),
        ({"confirm_seeds": [1, 2], "ended": True}, ""),
    ],
)
def test_why_nothing_was_confirmed_is_what_the_studys_file_says(
    tmp_path: Path, manifest: dict[str, object], why: str
) -> None:
    folder = write_fake_study(tmp_path, FakeStudy(trials=12, controls=2))
    path = folder / "study.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **manifest}))
    assert f"Nothing was confirmed{why}. No claim about the test split can be made." in page(judge(folder))


def test_a_search_that_is_not_complete_and_a_control_that_was_hardly_tuned_are_named(
    report: Report, tmp_path: Path
) -> None:
    assert "Plain training was hardly tuned at width (trials): 3 (3) and 6 (3)." in answer(report)
    assert unconfirmed(report.data) == ""
    folder = write_fake_study(tmp_path, FakeStudy(trials=12, controls=2))
    path = folder / "study.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "budget": {**manifest["budget"], "trials": 999}}))
    found = judge(folder)
    trials = found.data.trials
    ended = int(((trials["arm"] == "search") & trials["state"].isin(["complete", "failed"])).sum())
    assert f"The search is not complete: {ended} of 999 trials have ended." in page(found).split("\n\n")[2]


def test_the_distilled_student_stands_at_its_size_and_its_controls_left_of_it(report: Report) -> None:
    with figures.paper():
        (axes,) = next(drawing for drawing in drawings(report) if drawing.stem == "confirmed_accuracy").draw().axes
    marks = [float(next(iter(line.get_xdata()))) for line in axes.lines if line.get_marker() not in ("None", "")]  # type: ignore[arg-type]
    assert {NARROW, WIDE} <= set(marks) and max(marks) == WIDE and all(x <= NARROW or x > 1.3 * NARROW for x in marks)


def test_where_no_end_is_on_record_the_hypervolume_stands_against_trials_alone(tmp_path: Path) -> None:
    folder = write_fake_study(tmp_path, FakeStudy(trials=12, controls=2))
    found = judge(folder)
    assert found.data.trials["elapsed"].isna().all()
    with figures.paper():
        figure = next(drawing for drawing in drawings(found) if drawing.stem == "hypervolume").draw()
    assert len(figure.axes) == 1
