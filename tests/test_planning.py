"""What `--plan` prints: the first round as a sweep would hand it out."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from harness import planning
from harness.costs import Costs, Timing
from harness.packing import Work
from harness.space import Choice, Halving, Study
from tests.fakes import STUDY, FakeRuns, make_driver

COSTS = Costs(tuple(Timing(8, size, 1.0 + 0.01 * size) for size in (1, 8, 64)), {8: 100}, pads=True, where="here")


def printed(study: Study, trials: int, workers: int = 1) -> str:
    said = StringIO()
    Console(file=said, width=160).print(planning.page("mine", study, "digits", trials, COSTS, workers))
    return said.getvalue()


@pytest.mark.parametrize("changed", [{}, {"equal": "form"}, {"sampler": "random", "seed": 7, "batch": 6}])
def test_the_round_is_the_one_that_a_sweep_asks_for_first(tmp_path: Path, changed: dict[str, object]) -> None:
    study = replace(STUDY, **changed)  # type: ignore[arg-type]
    shown = planning._first_round(study, "digits", 12)
    driver = make_driver(tmp_path, FakeRuns(), study=study, trials=12)
    driver._ask_rounds(1)
    trials = [driver._open[number][1] for number in sorted(driver._open)]
    assert [one.number for one in shown] == [trial.number for trial in trials]
    assert [one.width for one in shown] == [trial.specs[0].width for trial in trials]
    assert len(shown) < 12 + len(STUDY.widths) * 4  # one round, not the whole study


def test_a_budget_that_is_less_than_a_round_is_shown_whole() -> None:
    assert f"the first round, {2 + 3} trials" in printed(STUDY, 2)  # and a control at each width


def test_trials_that_cannot_be_trained_together_are_not_shown_together() -> None:
    optimisers = Choice("sgd", "adam", "adamw")
    study = replace(STUDY, batch=12, space={**STUDY.space, "optimiser": optimisers})
    work = planning._first_round(study, "digits", 12)
    assert len({one.kind for one in work}) == 3
    said = " ".join(printed(study, 12).split())
    assert "of 3 kinds, of which no two are trained together" in said
    assert "kinds" not in printed(STUDY, 12)


def test_a_study_that_prunes_begins_with_its_first_rung_and_time_goes_with_epochs() -> None:
    epochs = {**STUDY.space, "epochs": Choice(8, 24)}
    long = replace(STUDY, space=epochs, batch=12)
    pruned = replace(long, pruning=Halving(rungs=(4, 6)))
    assert {one.steps for one in planning._first_round(pruned, "digits", 12)} == {4}
    assert {one.steps for one in planning._first_round(long, "digits", 12)} == {8, 24}
    work = [Work(number, 8, 8, str(number), steps) for number, steps in enumerate((10, 30))]
    said = StringIO()
    Console(file=said, width=160).print(planning._handed_out(work, COSTS, 1))
    rows = [line for line in said.getvalue().splitlines() if "│" in line]
    assert ["75%" in rows[0], "25%" in rows[1]] == [True, True]  # the longer one first
    assert "as jobs 7.5 times faster" in said.getvalue()  # 8 x 1.01 against 1.08, of both


def test_every_way_that_was_measured_is_shown() -> None:
    looped = tuple(Timing(8, size, 0.5 * size, looped=True, threads=2) for size in (1, 8))
    both = replace(COSTS, timings=COSTS.timings + looped)
    said = StringIO()
    Console(file=said, width=160).print(planning.page("mine", STUDY, "digits", 12, both, 1))
    rows = [line for line in said.getvalue().splitlines() if "2, 4, 8" in line]
    assert "together" in rows[0] and "1,010,000" in rows[0]
    assert "one by one" in rows[1] and rows[1].count("500,000") == 2
