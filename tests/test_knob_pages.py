"""The page on the knobs together: nothing claimed that was not judged, nothing raised where there is little."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness import figures
from harness.analysis.indifference import indifference
from harness.analysis.interactions import interactions
from harness.analysis.knobs import Knobs, judge_knobs
from harness.analysis.load import load
from harness.figures import style
from harness.importances import importances
from harness.report import markdown
from harness.report.drawings import _knob_drawings
from harness.report.findings import Report, judge
from harness.report.together import indifference_section, interaction_section, width_section
from tests.fake_study import FakeStudy, write_fake_study
from tests.knob_trials import FORMS, SPACE, controls, knob_trials

pytestmark = pytest.mark.usefixtures("_figures")

EVALUATE = functools.partial(importances, trees=4)
CASES = {
    "no trials": knob_trials(0),
    "controls alone": controls(),
    "one trial": knob_trials(1),
    "two trials": knob_trials(2),
    "all diverged": knob_trials(30).assign(status="diverged"),
    "one width": knob_trials(30, widths=(4,)),
    "one form": knob_trials(30, forms=("kl",)),
    "no temperature": knob_trials(30, forms=("mse",)),
    "nothing but width varies": knob_trials(30, forms=("mse",)).assign(alpha=0.5, lr=0.01),
    "all alike": knob_trials(30).assign(val_accuracy=0.9),
    "one seed": knob_trials(30).assign(num_seeds=1, val_accuracy_sd=float("nan")),
    "alpha of two values": knob_trials(60).assign(alpha=lambda table: table["number"] % 2 / 2),
}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return judge(write_fake_study(tmp_path_factory.mktemp("results"), FakeStudy(trials=0, controls=0, teacher=False)))


def reported(bare: Report, trials: pd.DataFrame, knobs: Knobs) -> tuple[str, list[str]]:
    """The sections as text and the figures that were drawn."""
    report = replace(bare, data=replace(bare.data, trials=trials), knobs=knobs)
    drawn = []
    for drawing in _knob_drawings(report, FORMS):
        with figures.paper():
            figure = drawing.draw()
            figure.set_dpi(30)
            figure.draw_without_rendering()
            assert "n" in figures.note_of(figure)
        drawn.append(drawing.stem)
    sections = (width_section, interaction_section, indifference_section)
    return markdown.page([block for section in sections for block in section(report)]), drawn


@pytest.mark.parametrize("name", CASES)
def test_a_study_with_little_to_say_says_what_is_missing(bare: Report, name: str) -> None:
    knobs = judge_knobs(CASES[name], SPACE, EVALUATE)
    text, drawn = reported(bare, CASES[name], knobs)
    assert "nan" not in text.lower() and "interaction shown |" not in text
    nothing = name in ("no trials", "controls alone", "all diverged")
    assert (drawn == []) == nothing
    expected = {
        "one trial": "has 1 of the 8 finished distilled trials it needs",
        "two trials": "a robust default needs 20 finished distilled trials, not 2",
        "one width": "not computed: width does not vary enough",
        "one form": "not computed: form does not vary enough",
        "no temperature": "not computed: form does not vary enough",
        "nothing but width varies": "there is nothing to choose",
        "all alike": "nothing varies among the",
        "one seed": "the seeds show no spread: 0.5 points",
        "alpha of two values": "| alpha x temperature | kl |",
    }
    assert ("No distilled trial has finished without diverging" if nothing else expected[name]) in text


def test_a_study_with_enough_has_tables_and_figures_that_state_their_limits(bare: Report) -> None:
    trials = pd.concat([knob_trials(120, together=2.0), controls()], ignore_index=True)
    knobs = judge_knobs(trials, SPACE, EVALUATE)
    text, drawn = reported(bare, trials, knobs)
    assert drawn == ["importance_by_width", "surrogate_surfaces", "form_by_width", "best_by_width"]
    assert "| alpha x temperature | kl |" in text and "interaction shown |" in text
    assert "not distinguishable from noise with 120 trials" in text and "Not distinguishable is not absent" in text
    assert "The robust default is `" in text


def test_a_default_in_which_no_trial_lies_is_called_a_guess(bare: Report) -> None:
    trials = knob_trials(40)
    knobs = judge_knobs(trials, SPACE, EVALUATE)
    cells = knobs.robust
    for count, widths, said in (
        (0, 0, "**No trial lies there: this is a model's guess.**"),
        (3, 2, "**at the others this is a model's guess.**"),
        (5, 3, "Trials of every width lie there."),
    ):
        first = cells.head(1).assign(num_trials=count, widths_tried=widths)
        text, _ = reported(bare, trials, replace(knobs, robust=first))
        assert said in text and "The robust default is `" in text


def test_no_default_is_named_where_the_surrogate_may_be_wrong_by_more_than_seeds_can_tell(bare: Report) -> None:
    trials = knob_trials(40)
    knobs = judge_knobs(trials, SPACE, EVALUATE)
    epsilon = 100 * float(knobs.indifference["epsilon"].max())
    first = knobs.robust.head(1).assign(shortfall_high=epsilon + 0.1)
    text, _ = reported(bare, trials, replace(knobs, robust=first))
    assert f"more than the {epsilon:.2f} points that seeds can tell" in text
    assert "The robust default is `" not in text


def test_forms_are_one_column_where_the_surrogate_sees_no_difference_between_widths() -> None:
    cells = pd.DataFrame(
        [(form, width, value, 1) for form, value in (("kl", 1.0), ("mse", -1.0)) for width in (2, 4, 8)],
        columns=["form", "width", "value", "num_trials"],
    )
    row = {"pair": "form x width", "num_trials": 40, "of": 40, "r_squared": 0.1, "holm_p": 1.0}
    with figures.paper():
        for moved, columns, outlined in ((0.0, 1, 0), (0.1, 3, 3)):
            cells.loc[0, "value"] = 1.0 + moved
            figure = figures.form_by_width(cells, pd.DataFrame([row]))
            axes = figure.axes[0]
            assert len(axes.get_xticks()) == columns and len(axes.patches) == outlined
            assert ("no difference between widths" in figures.note_of(figure).replace("\n", " ")) == (columns == 1)


def test_many_forms_and_widths_still_fit_into_one_column() -> None:
    """A layout that collapses is a warning, and so an error here."""
    forms = tuple(f"a_form_{place}" for place in range(9))
    trials = knob_trials(230, forms=forms, widths=(2, 3, 4, 6, 8, 12, 16, 24))
    trials["temperature"] = 1 + 19 * np.random.default_rng(0).uniform(size=len(trials))
    found = interactions(trials, SPACE)
    with figures.paper():
        for figure in (
            figures.surrogate_surfaces(found.surfaces, found.table, trials),
            figures.form_by_width(found.by_width, found.table),
            figures.best_by_width(indifference(trials), trials, forms),
        ):
            figure.set_dpi(60)
            figure.draw_without_rendering()
            assert figure.get_figwidth() == style.COLUMN


def test_a_report_writes_the_tables_of_the_knobs(tmp_path: Path) -> None:
    folder = write_fake_study(tmp_path, FakeStudy(trials=24, controls=1, widths=(2, 4), forms=("kl", "mse")))
    found = judge(folder)
    assert found.knobs.indifference["width"].tolist() == [2, 4]
    assert len(load(folder).trials) == 26 and found.knobs.importance["num_trials"].min() >= 8
