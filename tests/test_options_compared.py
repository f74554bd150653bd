"""Which option? The one that validation chose against every other: its numbers, its errors, its words and figure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests

from harness import figures
from harness.analysis.confirmed import COMPARED, options_compared
from harness.analysis.intervals import crossed
from harness.analysis.judged import judge_confirmed
from harness.analysis.load import rows_of
from harness.analysis.statistics import minimum_detectable
from harness.report.blocks import List
from harness.report.controls import answer
from harness.report.findings import Report, judge
from harness.report.options import option_comparison_section, options_answer
from harness.report.page import page
from harness.report.tables import listed
from tests.confirmed_cases import Confirmed, shown
from tests.confirming import swept
from tests.simulated import MIXED, NOISY, TASTY, World, answers

WIDTHS = (4, 8)


def options(
    right: NDArray[np.bool_], names: Sequence[str], chosen: int = 0, widths: Sequence[int] = WIDTHS
) -> Confirmed:
    """From right answers [width, option, seeds, examples]; the trial of the chosen option is the distilled one too."""
    num_seeds = right.shape[2]
    correct = dict(enumerate(right.reshape(-1, *right.shape[2:])))
    rows = [(n, "option", widths[n // len(names)], names[n % len(names)]) for n in correct]
    rows += [(place * len(names) + chosen, "distilled", width, "") for place, width in enumerate(widths)]
    students = pd.DataFrame({
        "number": np.repeat(list(correct), num_seeds), "seed": np.tile(np.arange(100, 100 + num_seeds), len(correct)),
        "test_accuracy": np.concatenate([table.mean(axis=1) for table in correct.values()]), "status": "ok",
    })  # fmt: skip
    return Confirmed(pd.DataFrame(rows, columns=["number", "role", "width", "option"]), students, correct)


def study(ability: Sequence[float] = (1.2, 1.2, 0.6, 1.8), chosen: int = 0, seeds: int = 10) -> Confirmed:
    right = answers(np.random.default_rng(5), MIXED, ability, len(WIDTHS), seeds, 500).right
    return options(right, ("kl", "js", "poor", "good")[: len(ability)], chosen)


def compared(made: Confirmed) -> pd.DataFrame:
    return options_compared(made.trials, made.students, made.correct, draws=500)


def claims(right: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether the table of each study claims anything, [studies], by the rule of `options_compared`, for many studies.

    `right` is [studies, widths, options, seeds, examples], and the first option the chosen one.
    """
    studies, *_, seeds, examples = right.shape
    values = (right[:, :, :1].astype(np.int8) - right[:, :, 1:]).reshape(studies, -1, seeds, examples)
    return np.asarray(shown(values).any(axis=1))


def test_a_row_is_the_chosen_option_less_another_by_the_statistics_of_their_pair() -> None:
    made = study()
    table = compared(made)
    assert table.columns.tolist() == list(COMPARED) and len(table) == 2 * 3
    assert (table["chosen"] == "kl").all() and table["width"].tolist() == [4] * 3 + [8] * 3
    accuracy = made.students.groupby("number")["test_accuracy"].agg(list)
    named = {row["number"]: (row["width"], row["option"]) for row in rows_of(made.trials) if row["role"] == "option"}
    for row in rows_of(table):
        first, second = row["chosen_number"], row["option_number"]
        assert named[first] == (row["width"], "kl") and named[second] == (row["width"], row["option"])
        expected = stats.ttest_rel(accuracy[first], accuracy[second])
        low, high = expected.confidence_interval()
        gain = np.mean(accuracy[first]) - np.mean(accuracy[second])
        assert (row["gain"], row["low"], row["high"]) == pytest.approx((gain, low, high))
        assert row["p_t"] == pytest.approx(expected.pvalue)
        both = crossed(made.correct[first].astype(int) - made.correct[second])
        assert (row["crossed_low"], row["crossed_high"], row["p_crossed"]) == pytest.approx(
            (both.low, both.high, both.p)
        )
    larger = np.maximum(table["p_t"], table["p_crossed"])
    assert table["holm_p"].tolist() == pytest.approx(multipletests(larger, method="holm")[1].tolist())


def test_the_detectable_difference_is_that_of_the_pair_so_that_an_unsteady_option_silences_no_other() -> None:
    right = answers(np.random.default_rng(5), MIXED, (1.2, 1.2, 1.5, 0.6), 2, 10, 500).right
    right[:, 3, ::3] &= np.random.default_rng(6).random(right[:, 3, ::3].shape) < 0.4  # fails on every third seed
    table = compared(options(right, ("kl", "js", "good", "unsteady")))
    assert table["mde"].tolist() == pytest.approx([minimum_detectable(spread, 10) for spread in table["spread"]])
    for _, own in table.groupby("width"):
        assert own["option"].tolist() == ["good", "js", "unsteady"] and own["mde"].iloc[2] > 3 * own["mde"].iloc[0]
        assert own["verdict"].iloc[0] == "worse" and abs(own["gain"].iloc[0]) < own["mde"].iloc[2]


def test_the_chosen_option_may_be_shown_better_and_worse_than_others() -> None:
    for width, own in compared(study()).groupby("width"):
        assert own["option"].tolist() == ["good", "js", "poor"], width  # least behind the chosen one first
        assert own["verdict"].tolist() == ["worse", "no difference shown", "better"], width


def test_the_reference_is_what_validation_chose_and_not_the_winner_of_the_test() -> None:
    assert (compared(study(chosen=2))["chosen"] == "poor").all()
    assert (compared(study(chosen=2))["gain"] < 0).all() and (compared(study(chosen=3))["gain"] > 0).all()


def test_each_width_has_a_reference_of_its_own() -> None:
    made = study()
    made.trials.loc[made.trials.index[-1], "number"] = 7  # at width 8 the last option
    assert compared(made).groupby("width")["chosen"].unique().map(list).tolist() == [["kl"], ["good"]]


def test_one_option_is_compared_with_nothing() -> None:
    table = compared(study(ability=(1.2,)))
    assert table.empty and table.columns.tolist() == list(COMPARED)
    assert table.dtypes.to_dict() == compared(study()).dtypes.to_dict()


def test_an_option_or_a_chosen_one_that_is_missing_at_a_width_has_no_row_there() -> None:
    made = study()
    gone = made.trials[made.trials["number"] != 1]  # js at width 4
    table = options_compared(gone, made.students, made.correct, draws=100)
    assert table.groupby("width")["option"].agg(list).tolist() == [["good", "poor"], ["good", "js", "poor"]]
    assert multipletests(table[["p_t", "p_crossed"]].max(axis=1), method="holm")[1].tolist() == pytest.approx(
        table["holm_p"].tolist()
    )
    gone = made.trials[made.trials["number"] != 0]  # the chosen one at width 4
    assert options_compared(gone, made.students, made.correct, draws=100)["width"].unique().tolist() == [8]


@pytest.mark.parametrize("chosen", [True, False])
def test_an_option_that_diverged_on_a_seed_counts_as_guessing_and_silences_no_row_of_others(chosen: bool) -> None:
    made = study()
    number, students = 0 if chosen else 1, made.students.copy()
    hit = (students["number"] == number) & (students["seed"] == 103)
    students.loc[hit, "status"], students.loc[hit, "test_accuracy"] = "diverged", 0.1
    before = compared(made)
    table = options_compared(made.trials, students, made.correct, draws=500)
    touched = (table["chosen_number"] == number) | (table["option_number"] == number)
    assert touched.sum() == (3 if chosen else 1) and (table["num_diverged"] == touched).all()
    assert table.loc[touched, "warning"].str.contains("1 of 20 students diverged and count as guessing").all()
    assert (table.loc[touched, "mde"] > 2 * before["mde"].max()).all()
    assert (table.loc[touched, "verdict"] == "no difference shown").all()
    assert table.loc[~touched, "verdict"].tolist() == before.loc[~touched, "verdict"].tolist()


@pytest.mark.parametrize("world", [NOISY, MIXED, TASTY])
def test_of_nineteen_equal_options_a_difference_is_claimed_in_at_most_one_study_in_twenty(world: World) -> None:
    """Whatever validation chose: of equal options each is the reference as well as another."""
    claimed: list[bool] = []
    for seed in range(20):
        right = answers(np.random.default_rng(seed), world, (1.2,) * 19, 2 * 50, 10, 100).right
        claimed += claims(right.reshape(50, 2, *right.shape[1:])).tolist()
    assert len(claimed) == 1_000 and np.mean(claimed) <= 0.05


def test_the_winner_of_the_test_as_the_reference_would_claim_a_difference_more_often() -> None:
    right = answers(np.random.default_rng(0), NOISY, (1.2,) * 19, 2 * 300, 10, 100).right
    order = np.argsort(-right.mean(axis=(2, 3)), axis=1)
    won = np.take_along_axis(right, order[:, :, None, None], axis=1)
    assert claims(won.reshape(300, 2, *right.shape[1:])).mean() > 0.08


def test_the_table_claims_what_the_rule_for_many_studies_claims() -> None:
    null = answers(np.random.default_rng(1), TASTY, (1.2,) * 19, 6, 10, 300).right
    real = answers(np.random.default_rng(1), MIXED, (1.8, *(1.2,) * 18), 2, 10, 300).right
    right = np.concatenate([null, real]).reshape(4, 2, *null.shape[1:])
    names = [f"option {place}" for place in range(19)]
    found = [(compared(options(one, names))["verdict"] != "no difference shown").any() for one in right]
    assert found == claims(right).tolist() and any(found) and not all(found)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, digits_cache: Path) -> Report:
    """A small study of two forms that was confirmed for real, judged without figures."""
    folder = tmp_path_factory.mktemp("options")
    assert swept(folder, digits_cache, more='equal="form",') == 0
    return judge(folder / "out" / "mine")


def test_a_confirmed_study_of_options_says_which_were_told_apart(real: Report) -> None:
    table, text = real.confirmed.options_compared, page(real)
    assert table["width"].tolist() == sorted({int(width) for width in real.confirmed.trials["width"]})
    distilled = real.confirmed.trials[real.confirmed.trials["role"] == "distilled"].set_index("width")["form"]
    assert table["chosen"].tolist() == distilled.loc[table["width"]].tolist()
    assert (table["chosen"] != table["option"]).all() and set(table["option"]) <= {"kl", "mse"}
    assert "## Every form against the one that validation chose" in text
    assert "- Which form, on the test split? At width" in text.partition("## ")[0]
    assert (real.folder / "options_compared.csv").is_file()
    assert (real.folder / "tables" / "options_compared.tex").is_file()


def test_while_something_is_to_be_confirmed_the_rows_to_come_count(real: Report) -> None:
    """So that no claim is taken back as the stage goes on: each p is at least what it will be of the same numbers."""
    whole, trials = real.confirmed, real.data.confirmed.trials
    gone = whole.trials.loc[whole.trials["role"] == "option", "number"].max()
    rest = replace(real.data.confirmed, trials=trials[trials["number"] != gone])
    part = judge_confirmed(real.folder, replace(real.data, confirmed=rest))
    for name, key in (("by_option", "distilled_number"), ("options_compared", "option_number")):
        found, before = (getattr(each, name).set_index(["width", key]) for each in (whole, part))
        shared = before.index.intersection(found.index)
        assert len(before) < len(found) and len(shared)
        for p_t, p_crossed, p in before.loc[shared, ["p_t", "p_crossed", "holm_p"]].to_numpy():
            assert p >= min(1, len(found) * max(p_t, p_crossed)) - 1e-12 or p > before["holm_p"].min()
    classes = part.classes.assign(larger=part.classes[["p_t", "p_crossed"]].max(axis=1, skipna=False))
    least = classes.sort_values("larger").iloc[0]
    widths = whole.classes["width"].nunique()
    assert least["holm_p"] == pytest.approx(min(1, 10 * widths * least["larger"]))


def had(real: Report, made: Confirmed) -> Report:
    """The report, had the study confirmed that."""
    return replace(real, confirmed=replace(real.confirmed, options_compared=compared(made), trials=made.trials))


def words(report: Report) -> tuple[str, ...]:
    """The section's sentence on each width."""
    return next(block.items for block in option_comparison_section(report) if isinstance(block, List))


def test_the_sentences_name_who_is_better_worse_and_not_told_apart(real: Report) -> None:
    report = had(real, study())
    assert len(words(report)) == 2
    for said in words(report):
        expected = (
            r"\*\*Width [48]\*\*: validation chose kl\. On the test split it is \*\*better\*\* than poor "
            r"\(\+\S+ \[\+\S+, \S+\]\); \*\*worse\*\* than good \(-\S+ \[-\S+, -\S+\]\), so validation "
            r"missed the best; not told apart from js, where a true difference of \S+ points is found with 80% power\. "
            r"Not compared, for want of a confirmed trial at this width: mse\."
        )
        assert re.fullmatch(expected, said), said
    (answer,) = options_answer(report)
    assert answer.startswith(
        "Which form, on the test split? At width 4, kl, which validation chose, is **better** than poor; **worse** "
        "than good, so validation missed the best; not told apart from js ("
    )
    assert answer.endswith("Each is compared with that choice alone, and not told apart is not equal.")


def test_the_answer_counts_where_names_would_be_many(real: Report) -> None:
    names = ["kl", "mse", *(f"option {place}" for place in range(17))]
    made = options(answers(np.random.default_rng(1), MIXED, (1.2,) * 19, 2, 10, 100).right, names)
    report = had(real, made)
    (answer,) = options_answer(report)
    assert answer.count("is not told apart from any of the 18 others (") == 2
    assert all(name in words(report)[0] for name in names)


def test_what_could_not_be_compared_is_said(real: Report) -> None:
    alone = had(real, options(study().correct[0][None, None], ("kl",), widths=(4,)))
    assert words(alone)[0].endswith("Not compared, for want of a confirmed trial at this width: mse.")
    assert not list(options_answer(alone)) and "options_compared" not in page(real).partition("## ")[0]
    made = study()
    gone = replace(made, trials=made.trials[made.trials["number"] != 0])
    lost = words(had(real, gone))
    assert lost[0] == "**Width 4**: what validation chose here is not among what was confirmed, so nothing is compared."
    assert lost[1].startswith("**Width 8**: validation chose kl. On the test split it is ")


def test_a_study_without_equal_budgets_has_no_such_section(real: Report) -> None:
    identity = {name: said for name, said in real.data.manifest["identity"].items() if name != "equal"}
    report = replace(real, data=replace(real.data, manifest={**real.data.manifest, "identity": identity}))
    assert not list(option_comparison_section(report))


def test_the_figure_shows_every_option_and_what_is_far_away_by_its_number() -> None:
    names = ("kl", "js", "poor", "a", "b", "c", "hopeless")
    made = options(
        answers(np.random.default_rng(5), MIXED, (1.2, 1.2, 0.9, 1.2, 1.2, 1.2, -2), 2, 10, 500).right, names
    )
    table = compared(made)
    with figures.paper():
        drawn = figures.options_compared(table, "form")
    panels = drawn.get_axes()
    assert [axes.get_title(loc="left") for axes in panels] == [f"width {w}, validation chose kl" for w in WIDTHS]
    for axes, (_, own) in zip(panels, table.groupby("width"), strict=True):
        assert [label.get_text() for label in axes.get_yticklabels()] == own["option"].tolist()[::-1]
        (text,) = [text.get_text() for text in axes.texts]
        assert text == f"{100 * own['gain'].iloc[-1]:+.1f}"
        rest = own.iloc[:-1]
        assert (
            axes.get_xlim()[0] < 100 * rest["crossed_low"].min() < 100 * rest["crossed_high"].max() < axes.get_xlim()[1]
        )
    assert figures.options_compared(table.iloc[:0], "form").get_axes()[0].texts
    one_seed = compared(study(seeds=1))
    assert len(figures.options_compared(one_seed, "form").get_axes()) == 2


def test_a_side_that_was_searched_more_is_said_in_the_answer(real: Report) -> None:
    for distilled, said in ((4, False), (5, True)):
        counts = real.gains.assign(distilled_trials=distilled, control_trials=2)
        text = answer(replace(real, gains=counts))
        each = listed([f"{width} ({distilled} to 2)" for width in real.gains["width"]])
        assert (f"the best of more trials than plain training at width {each}: a part of" in text) == said
        assert ("each form, with as many trials in all, is compared" in text) == said
