"""Several searches of one study: the program that makes them, and what is claimed over them."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests

from harness import figures
from harness.analysis.confirmed import BETTER, CONTROLS, NOT_SHOWN, WORSE
from harness.analysis.intervals import crossed
from harness.analysis.load import rows_of
from harness.analysis.searches import COLUMNS, Planned, differences, folders, over_searches, planned
from harness.files import write_sealed
from harness.ledger import read_manifest
from harness.options import again
from harness.report import markdown
from harness.report.findings import judge
from harness.report.searches import searches_answer, searches_section
from tests.confirming import STUDY
from tests.inline import sweep_here

WIDTHS = (2, 4, 6)


def searched(
    rng: np.random.Generator, count: int, gain: float, search: float, taste: float, examples: int = 150
) -> dict[int, dict[tuple[int, str], NDArray[np.float64]]]:
    """So many searches whose gains spread with SD `search` about `gain`, on examples whose gains spread by `taste`."""
    lasting = {(w, c): rng.normal(0, taste, examples) for w in WIDTHS for c in CONTROLS}
    return {
        seed: {pair: gain + rng.normal(0, search) + own + rng.normal(0, 0.1, examples) for pair, own in lasting.items()}
        for seed in range(count)
    }


def test_a_row_is_that_of_scipy_and_statsmodels() -> None:
    searches = searched(np.random.default_rng(0), 5, 0.02, 0.01, 0.05)
    table = over_searches(searches)
    assert tuple(table.columns) == COLUMNS and len(table) == len(WIDTHS) * len(CONTROLS)
    larger = []
    for row in rows_of(table):
        own = np.stack([search[row["width"], row["control"]] for search in searches.values()])
        found = stats.ttest_1samp(own.mean(axis=1), 0)
        interval = found.confidence_interval()
        assert np.allclose(
            [row["gain"], row["low"], row["high"], row["sd"], row["p_t"]],
            [own.mean(), interval.low, interval.high, own.mean(axis=1).std(ddof=1), found.pvalue],
        )
        assert (row["crossed_low"], row["p_crossed"]) == (crossed(own).low, crossed(own).p)
        assert row["gains"].split() == [f"{100 * gain:+.2f}" for gain in own.mean(axis=1)]
        larger.append(max(found.pvalue, row["p_crossed"]))
    assert np.allclose(table["holm_p"], multipletests(larger, method="holm")[1])


def claimed(seed: int, count: int, gain: float = 0.0, search: float = 0.01, taste: float = 0.05) -> set[str]:
    table = over_searches(searched(np.random.default_rng(seed), count, gain, search, taste))
    return set(table["verdict"])


@pytest.mark.parametrize(("search", "taste"), [(0.01, 0.0), (0.01, 0.05), (0.001, 0.1), (0.05, 0.02)])
def test_where_the_study_gains_nothing_few_claim_though_every_search_has_its_luck(search: float, taste: float) -> None:
    false = [claimed(seed, 5, 0.0, search, taste) != {NOT_SHOWN} for seed in range(200)]
    assert np.mean(false) <= 0.05


def test_a_true_gain_is_found_and_a_true_loss() -> None:
    assert claimed(0, 5, 0.05) == {BETTER} and claimed(0, 5, -0.05) == {WORSE}


def test_two_searches_show_nothing_and_none_are_an_empty_table() -> None:
    table = over_searches(searched(np.random.default_rng(0), 2, 0.5, 1e-4, 1e-4))
    assert set(table["verdict"]) == {NOT_SHOWN} and table["low"].isna().all() and (table["gain"] > 0.4).all()
    assert over_searches({}).empty


def test_a_pair_that_one_search_lacks_stands_on_the_others() -> None:
    searches = searched(np.random.default_rng(0), 4, 0.02, 0.01, 0.05)
    del searches[2][4, "ce"]
    table = over_searches(searches).set_index(["width", "control"])
    assert table.loc[(4, "ce"), "num_searches"] == 3 and table.loc[(4, "ce"), "seeds"] == "0 1 3"
    assert (table.drop(index=(4, "ce"))["num_searches"] == 4).all()


def test_searches_that_were_added_after_a_look_pay_for_it() -> None:
    searches = searched(np.random.default_rng(0), 5, 0.02, 0.01, 0.05)
    once, twice = over_searches(searches), over_searches(searches, Planned(5, (), 2))
    assert np.allclose(twice["holm_p"], np.minimum(4 * once["holm_p"], 1))
    assert (twice["found_80"] >= once["found_80"]).all() and (twice["found_80"] > once["found_80"]).any()


def test_whoever_adds_searches_until_one_claims_is_not_believed_more_often() -> None:
    """Three searches, then one more at a time, until there are eight or a claim: plain Holm would claim in far more."""

    def claims(seed: int, *, paying: bool) -> bool:
        every = searched(np.random.default_rng(seed), 8, 0.0, 0.01, 0.0)
        for look, count in enumerate(range(3, 9), 1):
            some = {number: every[number] for number in range(count)}
            if set(over_searches(some, Planned(count, (), look if paying else 1))["verdict"]) != {NOT_SHOWN}:
                return True
        return False

    naive, paid = (np.mean([claims(seed, paying=paying) for seed in range(60)]) for paying in (False, True))
    assert naive > 0.1 > 0.083 >= paid


def test_of_a_plan_that_is_not_done_nothing_is_claimed() -> None:
    searches = searched(np.random.default_rng(0), 5, 0.05, 0.01, 0.05)
    assert set(over_searches(searches)["verdict"]) == {BETTER}
    assert set(over_searches(searches, Planned(6, (5,)))["verdict"]) == {NOT_SHOWN}


@pytest.mark.parametrize(
    ("plans", "count", "missing", "looks"),
    [
        ([5, 5, 5, 5, 5], 5, (), 1),
        ([1, 5, 5, 5, 5], 5, (), 1),  # one alone, then the others: one shows nothing
        ([3, 3, 3, 5, 5], 5, (), 2),
        ([1, 1, 1, 1, 1], 5, (), 3),  # one after the other: looks at three, four and five
        ([6, 6, 6, 6, 6], 6, (5,), 1),
        ([None] * 5, 0, (), 1),
    ],
)
def test_how_searches_came_to_be_is_read_from_what_each_began_with(
    plans: list[int | None], count: int, missing: tuple[int, ...], looks: int, tmp_path: Path
) -> None:
    places = {}
    for seed, plan in enumerate(plans):
        places[seed] = tmp_path / str(seed)
        places[seed].mkdir()
        said = {"started_ms": 1000 + seed} | ({} if plan is None else {"searches": plan})
        write_sealed(places[seed] / "study.json", said)
    assert planned(places, list(places)) == Planned(count, missing, looks)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, digits_cache: Path) -> Path:
    """The results of a small study that was searched three times."""
    folder = tmp_path_factory.mktemp("searches")
    (folder / "mine.py").write_text(STUDY.format(confirm=2, more="other_controls=()"))
    shutil.copytree(digits_cache, folder / "out" / "teachers")
    assert sweep_here(folder / "mine.py", folder / "out", deterministic=True, quiet=True, searches=3) == 0
    return folder / "out"


def test_each_search_has_a_seed_a_folder_and_choices_of_its_own(home: Path) -> None:
    found = folders(home / "mine")
    assert {seed: place.name for seed, place in found.items()} == {0: "mine", 1: "mine-seed1", 2: "mine-seed2"}
    assert folders(home / "mine-seed2") == found
    seeds = [set(read_manifest(place)["confirm_seeds"]) for place in found.values()]
    assert not seeds[0] & seeds[1] and not seeds[1] & seeds[2]
    trials = [pd.read_csv(place / "trials.csv")["lr"].tolist() for place in found.values()]
    assert trials[0] != trials[1] != trials[2]


def test_the_report_of_the_study_says_what_holds_over_its_searches(home: Path) -> None:
    table = pd.read_csv(home / "mine" / "searches.csv")
    assert (table["num_searches"] == 3).all() and set(table["control"]) == {"ce"}
    gains = {seed: pd.read_csv(place / "comparisons.csv").set_index("width")["gain"]
             for seed, place in folders(home / "mine").items()}  # fmt: skip
    for row in rows_of(table):
        assert row["gain"] == pytest.approx(np.mean([own[row["width"]] for own in gains.values()]), abs=1e-6)
    page = (home / "mine" / "summary.md").read_text()
    assert "Over 3 searches of this study" in page and "## Over several searches" in page
    assert "Before there were 3 there were not enough to look at." in page


def test_a_search_that_was_deleted_is_missed(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "mine-seed1")
    found = judge(tmp_path / "out" / "mine")
    assert found.planned == Planned(3, (1,)) and set(found.searches["verdict"]) == {NOT_SHOWN}
    text = markdown.page(list(searches_section(found)))
    assert "**Of 3 planned searches 1 cannot be read, seed 1: nothing is claimed before all are there.**" in text
    assert "this is look 2, and Holm's p is multiplied by 4" in markdown.page(
        list(searches_section(replace(found, planned=Planned(3, (), 2))))
    )


def test_a_width_that_few_searches_compare_is_named_and_not_spoken_of(home: Path) -> None:
    report = judge(home / "mine")
    table = report.searches.assign(num_searches=[1 if width == 3 else 3 for width in report.searches["width"]])
    [said] = searches_answer(replace(report, searches=table))
    assert "Over 3 searches" in said and "at width 6 (" in said
    assert " points with 80% power, as these searches have it." in said
    assert said.endswith("Fewer than 3 searches compare them at width 3.")
    assert not list(searches_answer(replace(report, searches=table.assign(num_searches=2))))


def test_the_same_command_again_trains_nothing_and_more_searches_go_on(home: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in home.glob("mine*/trials/*/result.json")}
    file = home.parent / "mine.py"
    assert sweep_here(file, home, deterministic=True, quiet=True, searches=3) == 0
    assert before == {path: path.stat().st_mtime_ns for path in home.glob("mine*/trials/*/result.json")}


def test_another_study_of_a_like_name_is_no_search_of_this_one(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home, tmp_path / "out")
    place = tmp_path / "out" / "mine-seed1" / "study.json"
    known = read_manifest(place.parent)
    write_sealed(place, known | {"budget": known["budget"] | {"trials": 99}})
    (tmp_path / "out" / "mine-seed2" / "study.json").write_text(json.dumps({"identity": 3}))
    (tmp_path / "out" / "mine-seed7").mkdir()
    (tmp_path / "out" / "mine-seedless").mkdir()
    assert list(folders(tmp_path / "out" / "mine")) == [0] and folders(tmp_path / "out" / "none") == {}
    assert judge(tmp_path / "out" / "mine").searches.empty


def test_answers_that_are_lost_leave_a_search_out_of_the_pairs_that_need_them(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "mine", tmp_path / "mine")
    assert {width for width, _ in differences(tmp_path / "mine")} == {3, 6}
    for path in (tmp_path / "mine").glob("trials/*/confirmed.safetensors"):
        path.write_bytes(b"")
    assert differences(tmp_path / "mine") == {}


@pytest.mark.parametrize("searches", [0, -1, 1001])
def test_a_number_of_searches_that_cannot_be_is_one_line(searches: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"--searches {searches} is out of range; it must be from 1 to 1,000"):
        sweep_here(Path("digits"), tmp_path / "out", quiet=True, searches=searches)
    assert not (tmp_path / "out").exists()


def test_the_figure_shows_every_search_and_the_mean() -> None:
    table = over_searches(searched(np.random.default_rng(0), 5, 0.02, 0.01, 0.05))
    with figures.paper():
        figure = figures.searches_gain(table)
    assert len(figure.axes) == len(CONTROLS)
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert [len(np.asarray(line.get_xdata())) for line in crosses] == [5] * len(WIDTHS)
    assert "5 searches" in figures.note_of(figure)


def test_a_search_beyond_the_axis_is_named_at_its_edge() -> None:
    found = searched(np.random.default_rng(0), 6, 0.02, 0.01, 0.05)
    found[0] = {pair: difference + 0.4 for pair, difference in found[0].items()}
    with figures.paper():
        figure = figures.searches_gain(over_searches(found))
    said = [text.get_text() for text in figure.axes[0].texts if text.get_text()]
    shown = [len(list(line.get_xdata())) for line in figure.axes[0].lines if line.get_marker() == "x"]  # type: ignore[arg-type]
    far = [f"{100 * found[0][width, CONTROLS[0]].mean():+.1f}" for width in WIDTHS]
    assert said == far and shown == [5] * len(WIDTHS)


def test_the_command_that_goes_on_with_one_search_goes_on_with_all_of_them(home: Path, tmp_path: Path) -> None:
    file = home.parent / "mine.py"
    for name in ("mine", "mine-seed1", "mine-seed2"):
        said = again(read_manifest(home / name), home / name, 2)
        assert shlex.join(said[2:]) == f"harness.sweep {file} --confirm 2 --trials 6 --seed 0 --searches 3"
        fewer = {**read_manifest(home / name), "searches": None}  # others were added, or it is not on record
        assert again(fewer, home / name)[-2:] == ["--searches", "3"]
    (tmp_path / "mine-seed2.aside-7").mkdir()
    (tmp_path / "mine-seed2.aside-7" / "study.json").write_text("{}")
    alone = {**read_manifest(home / "mine"), "searches": 1}
    assert "--searches" not in again(alone, tmp_path / "mine")
    assert again({"budget": "x", "identity": 3}, tmp_path / "mine") == ["python", "-m", "harness.sweep", "mine"]
