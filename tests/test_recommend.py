"""From what was confirmed to a report, a recommendation, and the student as files."""

from __future__ import annotations

import io
import json
import math
import pickle
import re
import shutil
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import stats
from statsmodels.stats.power import TTestPower

from harness import cli, ledger
from harness.analysis.answers import read_answers
from harness.analysis.chosen import chosen, is_plain_itself
from harness.analysis.confirmed import CONTROLS, NOT_SHOWN, scored
from harness.analysis.judged import ELIGIBLE, Confirmed, answers_of, judge_confirmed, ranked
from harness.analysis.load import StudyData, load, rows_of
from harness.analysis.statistics import found_by_rule
from harness.export import formats, read_architecture
from harness.figures.confirmed import NAMES
from harness.recommend.__main__ import _command, app
from harness.recommend.apart import apart, seeds_to_tell
from harness.recommend.choose import Recommendation, recommend
from harness.recommend.evidence import as_data, evidence
from harness.recommend.hand_out import trained
from harness.recommend.words import next_step, say
from harness.report import build
from harness.report.blocks import Table
from harness.report.build import write
from harness.report.confirmed import confirmed_section
from harness.report.controls import answer
from harness.report.drawings import drawings
from harness.report.findings import judge
from harness.report.page import page
from harness.report.protocol import _test_reads
from harness.report.unconfirmed import unconfirmed
from tests.confirming import SEEDS, swept


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, digits_cache: Path, _figures: None) -> Path:
    """The results of a small study that was confirmed, its report written."""
    folder = tmp_path_factory.mktemp("home")
    assert swept(folder, digits_cache, more="other_controls=('smoothing', 'shuffled')") == 0
    write(folder / "out" / "mine")
    return folder / "out"


@pytest.fixture(scope="module")
def found(home: Path) -> Confirmed:
    return judge_confirmed(home / "mine", load(home / "mine"))


def told(
    arguments: Sequence[object], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[int, str]:
    """The exit code of the program and what it printed, in one line."""
    monkeypatch.setattr(sys, "argv", ["harness.recommend", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.run(app)
    printed = capsys.readouterr()
    assert isinstance(stop.value.code, int)
    return stop.value.code, " ".join((printed.out or printed.err).split())


def test_the_report_of_a_confirmed_study_answers_from_the_test_split(home: Path, found: Confirmed) -> None:
    folder = home / "mine"
    text = (folder / "summary.md").read_text()
    answer = next(part for part in text.split("\n\n") if part.startswith("**Answer.**"))
    assert f"over {SEEDS} fresh seeds" in answer and "80% power" in answer
    assert f"read for {len(found.students)} confirmed students" in text and "audit alone." in text
    assert "for every trial of the search and its controls: 1; of the confirm stage, fresh: 1000000001 to " in text
    for name in ("confirmed", "comparisons", "audit", "recommended", "classes", "reliability", "other_controls"):
        assert len(pd.read_csv(folder / f"{name}.csv")) > 0
    for name in ("confirmed", "comparisons", "audit", "recommended"):
        assert (folder / "tables" / f"{name}.tex").stat().st_size > 0
    for stem in ("confirmed_accuracy", "confirmed_gain", "selection_audit", "reliability", "class_gain", "fit"):
        assert (folder / "figures" / f"{stem}.svg").stat().st_size > 0 and f"figures/{stem}.png" in text
    assert "harness.recommend mine" in text


def test_every_figure_of_a_confirmed_study_may_be_drawn_by_another_process(home: Path) -> None:
    own = list(drawings(judge(home / "mine")))
    assert len(own) > 12
    assert [pickle.loads(pickle.dumps(drawing)).stem for drawing in own] == [drawing.stem for drawing in own]


def test_a_claim_is_made_only_where_its_interval_excludes_zero(found: Confirmed) -> None:
    controls = found.trials[found.trials["role"].isin(CONTROLS)]
    assert len(found.comparisons) == controls.groupby("width")["number"].nunique().sum() >= 2 * 2
    for row in rows_of(found.comparisons):
        if row["verdict"] != "no difference shown":
            assert row["holm_p"] < 0.05 and abs(row["gain"]) >= row["mde"]
            assert row["crossed_low"] > 0 or row["crossed_high"] < 0


def test_every_width_has_its_latency_and_size_and_its_share_of_the_gap(home: Path, found: Confirmed) -> None:
    assert (found.trials[["latency_ms", "latency_64_ms", "size_kib"]] > 0).all(axis=None)
    assert (found.trials["latency_ms"] <= found.trials["latency_p95_ms"]).all()
    measured = (home / "mine" / "latency.json").read_bytes()
    for row in rows_of(found.trials):
        plain = found.trials[(found.trials["width"] == row["width"]) & (found.trials["role"] == "ce")].iloc[0]
        gap = row["test_teacher_accuracy"] - plain["test_accuracy"]
        assert row["gap_closed"] == pytest.approx((row["test_accuracy"] - plain["test_accuracy"]) / gap)
    assert measured.count(b"p50_ms") == 4


def test_all_that_was_confirmed_competes_in_the_selection_audit(found: Confirmed) -> None:
    every = found.trials.drop_duplicates("number").groupby("width").size()
    assert found.audit.set_index("width")["num_configurations"].to_dict() == every.to_dict()


def test_the_calibration_error_of_a_record_is_that_of_the_kept_answers(home: Path, found: Confirmed) -> None:
    for number, own in read_answers(home / "mine", [int(n) for n in found.trials["number"].unique()])[0].items():
        recorded = found.students[found.students["number"] == number]["test_ece"].tolist()
        for sure, predicted, expected in zip(own.confidence, own.predicted, recorded, strict=True):
            gaps = [0.0] * 15  # bins are open below and closed above
            for chance, right in zip(sure.astype(float), predicted == own.labels, strict=True):
                gaps[math.ceil(chance * 15) - 1] += float(right) - chance
            assert sum(map(abs, gaps)) / len(sure) == pytest.approx(expected, abs=1e-5)


def test_the_recommended_is_best_on_validation_and_never_the_shuffled_teacher(found: Confirmed) -> None:
    for row in rows_of(found.recommended):
        fits = found.trials[(found.trials["num_params"] <= row["budget"]) & found.trials["role"].isin(ELIGIBLE)]
        assert row["number"] == fits.loc[fits["val_accuracy"].idxmax(), "number"]
        assert 0 <= row["p_best"] <= 1 and row["expected_regret"] >= 0
    sizes = {int(n): float(s) for n, s in zip(found.trials["number"], found.trials["num_params"], strict=True)}
    table = ranked(found, sizes, math.inf)
    assert table["p_best"].sum() == pytest.approx(1) and table["val_accuracy"].is_monotonic_decreasing


def test_the_extra_that_onnx_needs_is_named_whole(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "PACKAGES", ("no_such_package",))
    folder = tmp_path / "student[1]"  # brackets that are no markup
    code, said = told(["mine", "--out", home, "--export", tmp_path / "new", "--register", "x"], capsys, monkeypatch)
    assert code == 2 and "--register needs ONNX" in said and list(tmp_path.iterdir()) == []
    code, said = told(["mine", "--out", home, "--export", folder], capsys, monkeypatch)
    assert code == 0 and "pip install -e '.[export]'" in said and "exported to" in said
    assert "student[1]" in said.replace(" ", "")


def test_the_program_says_what_to_take_and_how_sure_that_is(
    home: Path, found: Confirmed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = int(found.trials["num_params"].min())
    code, said = told(["mine", "--out", home, "--max-params", small], capsys, monkeypatch)
    assert code == 0 and f"{small:,} parameters" in said and "width 3" in said and "expected regret" in said
    code, printed = told(["mine", "--out", home, "--json"], capsys, monkeypatch)
    data = json.loads(printed)
    best = found.trials.loc[found.trials["role"].isin(ELIGIBLE), "val_accuracy"].max()
    assert code == 0 and data["take"]["val_accuracy"] == best
    assert data["num_fitting"] == 6 and data["runner_up"]["number"] != data["take"]["number"]
    least = float(found.trials.loc[found.trials["width"] == 3, "val_accuracy"].max())
    code, printed = told(["mine", "--out", home, "--min-accuracy", least, "--json"], capsys, monkeypatch)
    data = json.loads(printed)
    assert code == 0 and data["take"]["width"] == 3 and 0 <= data["p_reached"] <= 1 and data["num_fitting"] == 3


def test_the_runner_up_is_the_likeliest_of_the_others_and_named_where_it_is_likelier(
    home: Path, found: Confirmed
) -> None:
    data = load(home / "mine")
    sizes = {int(n): float(size) for n, size in zip(found.trials["number"], found.trials["num_params"], strict=True)}
    table = ranked(found, sizes, math.inf)
    first, *others = table.index.tolist()
    for likelier in others:  # whoever the draws favour, wherever validation has it
        draws = found.draws.copy()
        draws[likelier] = np.where(np.arange(len(draws)) % 4 == 0, 0.0, 2.0)
        draws[first] = 2 - draws[likelier]
        taken = recommend(home / "mine", data, replace(found, draws=draws), {}, None)
        assert taken.chosen["number"] == first and taken.runner_up is not None
        assert taken.runner_up["number"] == likelier
        assert (taken.p_best, taken.runner_up_p_best) == (0.25, 0.75)
        assert "likelier the best on the test split than what validation chose" in spoken_of(data, taken)
        draws[first], draws[likelier] = 3.0, 2.0
        taken = recommend(home / "mine", data, replace(found, draws=draws), {}, None)
        assert "likelier the best" not in spoken_of(data, taken)


def test_an_accuracy_that_is_not_reached_on_the_test_split_is_a_weakness(home: Path, found: Confirmed) -> None:
    data = load(home / "mine")
    least = float(found.trials.loc[found.trials["width"] == 3, "val_accuracy"].max())
    low = replace(found, draws=found.draws * 0 + least / 2)
    taken = recommend(home / "mine", data, low, {}, least)
    assert taken.p_reached == 0 and taken.reaches is None
    weakness = "in <0.01 of resamples only; nothing that was confirmed and fits reaches it on validation and in half"
    assert weakness in spoken_of(data, taken)
    assert weakness in evidence(taken, data)["weakness"] and weakness in as_data(taken)["weakness"]
    wide = found.trials[found.trials["width"] == 6].drop_duplicates("number")
    able = wide[wide["val_accuracy"] >= least].sort_values("val_accuracy")
    assert len(able) > 1
    high = low.draws.copy()
    high[wide["number"]] = least
    taken = recommend(home / "mine", data, replace(found, draws=high), {}, least)
    assert taken.chosen["width"] == 3 and taken.reaches is not None
    assert taken.reaches["number"] == able["number"].iloc[-1]  # of equal size the best on validation
    assert "the smallest that reaches it on validation and, as the test split says, in half" in spoken_of(data, taken)
    few = found.trials["val_accuracy"].mask(found.trials["width"] == 6, least - 0.001)
    lucky = replace(found, draws=high, trials=found.trials.assign(val_accuracy=few))
    assert recommend(home / "mine", data, lucky, {}, least).reaches is None  # on the test split alone
    taken = recommend(home / "mine", data, replace(found, draws=low.draws * 2), {}, least)
    assert taken.reaches is not None and taken.reaches["width"] == 3
    assert "of resamples only" not in spoken_of(data, taken)
    assert f"at least {100 * least:.2f}% on the test split in >0.99 of resamples" in spoken_of(data, taken)


def test_what_misses_a_limit_in_milliseconds_by_little_is_named(home: Path, found: Confirmed) -> None:
    times = found.trials["width"].map({3: 1.0, 6: 1.04}).astype(float)
    wide = found.trials[(found.trials["width"] == 6) & found.trials["role"].isin(ELIGIBLE)]["number"]
    better = found.trials["val_accuracy"].mask(found.trials["number"] == wide.iloc[-1], 1.5)
    timed = replace(found, trials=found.trials.assign(latency_ms=times, val_accuracy=better))
    data = load(home / "mine")
    taken = recommend(home / "mine", data, timed, {"latency_ms": 1.0}, None)
    assert taken.chosen["width"] == 3
    assert [row["number"] for row in taken.nearly] == [wide.iloc[-1]]  # the best of its width
    assert "nearly" in spoken_of(data, taken) and "1.04 ms" in spoken_of(data, taken)
    assert [row["latency_ms"] for row in as_data(taken)["nearly"]] == [1.04]
    small = float(found.trials["num_params"].min())
    for limits in ({"latency_ms": 1.1}, {"latency_ms": 1.0, "num_params": small}, {}):
        assert not recommend(home / "mine", data, timed, limits, None).nearly
    slower = replace(timed, trials=timed.trials.assign(latency_ms=times.replace(1.04, 1.06)))
    assert not recommend(home / "mine", data, slower, {"latency_ms": 1.0}, None).nearly
    assert not recommend(home / "mine", data, timed, {"latency_ms": 1.0}, 0.0).nearly  # a wider one is not wanted
    times = found.trials["width"].map({6: 1.0, 3: 1.04}).astype(float)
    smaller = replace(found, trials=found.trials.assign(latency_ms=times))
    taken = recommend(home / "mine", data, smaller, {"latency_ms": 1.0}, 0.0)
    assert taken.chosen["width"] == 6 and [row["width"] for row in taken.nearly] == [3]
    worse = replace(timed, trials=timed.trials.assign(val_accuracy=better.mask(found.trials["width"] == 6, 0.01)))
    assert not recommend(home / "mine", data, worse, {"latency_ms": 1.0}, None).nearly


def test_the_next_step_is_by_the_rule_of_the_report_and_contradicts_no_verdict(home: Path, found: Confirmed) -> None:
    both = recommend(home / "mine", load(home / "mine"), found, {}, None)
    assert both.apart is not None and both.runner_up is not None
    unlike = replace(both.apart, row=None, num_rows=7, gain=0.03, low=-0.01, high=0.07, next_seeds=25)

    def said(p_best: float, p_other: float = 0.0, **changed: Any) -> str:
        sure = replace(both, p_best=p_best, runner_up_p_best=p_other, apart=replace(unlike, **changed))
        return next_step(sure, [3], "COMMAND")

    settled = "nothing between the first two: "
    assert said(0.96) == f"{settled}the choice has P(best) of at least 0.95"
    assert said(0.01, 0.96, gain=-0.03) == f"{settled}the runner-up has P(best) of at least 0.95"
    assert "nothing" not in said(0.96, row={"verdict": NOT_SHOWN})
    assert "nothing" not in said(0.6) and "nothing" not in said(0.6, next_seeds=None)
    for next_seeds in (0, 25, None):  # what the report shows is not to be shown any more
        for p_best, gain, better in (
            (0.0, -0.03, "the runner-up"),
            (0.5, 0.03, "the choice"),
            (0.97, 0.003, "the choice"),
        ):
            ends = {"gain": gain, "low": gain - 0.001, "high": gain + 0.001, "next_seeds": next_seeds}
            shown = said(p_best, 0.99 - p_best, row={"verdict": "better"}, **ends)
            assert shown.startswith(f"{settled}{better} is shown to be the better (")
    assert said(0.6, next_seeds=None) == (
        "a larger test split: up to 1,000 seeds would not show the difference of the first two, were it as seen "
        "(+3.00 [-1.00, 7.00] points)"
    )
    assert said(0.01, 0.55, next_seeds=0, gain=-0.03).startswith(
        f"{settled}the runner-up is the better, and these seeds"
    )
    assert said(0.6) == (
        "25 fresh seeds would show the difference of the first two with 80% power, were it as seen (+3.00 [-1.00, "
        "7.00] points; look 2 at this test split, level 5% / 4; the last of 7 comparisons): COMMAND"
    )
    for next_seeds in (None, 25):
        assert "take either" in said(0.6, next_seeds=next_seeds, gain=0.0, low=-0.004, high=0.004)
        assert "take either" not in said(0.6, next_seeds=next_seeds, gain=0.004, low=-0.002, high=0.006)
    assert (
        said(0.97, seeds_agree=True) == "more seeds: these agree exactly, which says nothing of their spread: COMMAND"
    )
    assert "comparisons" not in said(0.6, num_rows=1)
    one = replace(both, chosen={**both.chosen, "num_seeds": 1})
    assert next_step(one, [1], "COMMAND") == "more seeds: one says nothing of how they differ: COMMAND"


@pytest.mark.parametrize(("looks", "planned"), [([3], 4), ([2, 3], 4), ([3], 40)])
def test_a_pair_that_the_report_compares_is_one_of_all_its_comparisons(
    looks: Sequence[int], planned: int, home: Path, found: Confirmed
) -> None:
    data = load(home / "mine")
    judged = replace(found, looks=looks, num_planned=planned)
    row = rows_of(found.comparisons)[-1]
    pair = int(row["distilled_number"]), int(row["control_number"])
    correct = answers_of(home / "mine", data, pair)
    first, second = (scored(number, found.students, correct) for number in pair)
    assert first is not None and second is not None
    values = (first - second.loc[first.index]).to_numpy()
    for numbers in (pair, pair[::-1]):
        own = apart(home / "mine", data, judged, numbers)
        assert own.row is not None and own.row["control"] == row["control"]
        assert own.num_rows == planned
        assert abs(own.gain) == pytest.approx(abs(row["gain"]))
        assert own.next_seeds == seeds_to_tell(values, len(looks), planned) is not None
    others = found.trials[found.trials["role"] == "distilled"].drop_duplicates("number")["number"].astype(int)
    alone = apart(home / "mine", data, judged, (int(others.iloc[0]), int(others.iloc[-1])))
    assert alone.row is None and alone.num_rows == planned + 1


def test_answers_of_several_labels_are_shares_of_each_example(home: Path, found: Confirmed) -> None:
    data = load(home / "mine")
    number = int(found.trials["number"].iloc[0])
    sizes = {"sizes": {"test": 36}}  # as though ten digits were a text
    texts = replace(data, manifest={**data.manifest, "task": {**data.manifest["task"], **sizes}})
    whole, parts = (answers_of(home / "mine", own, [number])[number] for own in (data, texts))
    assert whole.shape == (3, 360) and parts.shape == (3, 36)
    assert parts.mean(axis=1) == pytest.approx(whole.mean(axis=1))


def test_what_stands_alone_has_no_probability_of_being_the_best(home: Path, found: Confirmed) -> None:
    data = load(home / "mine")
    number = int(found.trials["number"].iloc[0])
    lone = replace(found, draws=found.draws[[number]])
    taken = recommend(home / "mine", data, lone, {}, None)
    card = evidence(taken, data)
    assert taken.runner_up is None and card["p_best"] is card["expected_regret"] is card["runner_up"] is None
    assert "nothing else that can be judged fits" in spoken_of(data, taken) and "P(best)" not in spoken_of(data, taken)
    assert "is as small" in spoken_of(data, recommend(home / "mine", data, lone, {}, 0.0))


def test_the_card_has_the_cost_of_the_teacher_beside_that_of_the_trials(home: Path, found: Confirmed) -> None:
    data = load(home / "mine")
    cost = evidence(recommend(home / "mine", data, found, {}, None), data)["cost"]
    assert cost["FLOPs of the teacher"] == data.manifest["teacher"]["train_flops"] > 0
    every = pd.concat([data.trials, data.others.trials, data.confirmed.trials])
    assert cost["their training FLOPs"] == pytest.approx(every["train_flops"].sum())


def test_the_command_that_goes_on_is_whole(home: Path, found: Confirmed, tmp_path: Path) -> None:
    data = load(home / "mine")
    both = recommend(home / "mine", data, found, {}, None)
    assert both.apart is not None
    more = replace(both, apart=replace(both.apart, next_seeds=25))
    file = data.manifest["file"]
    assert _command(more, data, home, (None, "sqlite:///elsewhere.db")) == (
        f"python -m harness.sweep {file} --confirm 25 --trials 6 --seed 0 --out {home} "
        "--tracking-uri sqlite:///elsewhere.db"
    )
    assert _command(both, data, tmp_path, (None, None)).endswith(f"--out {tmp_path} --storage URL --tracking-uri URL")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--max-params", 3], r"--max-params 3 is too small; the smallest that was confirmed has \d+ parameters"),
        (["--max-latency-ms", 1e-9], r"--max-latency-ms 1e-09 is too small; .* ms at batch 1"),
        (["--max-kib", 0], r"--max-kib 0 is out of range; it must be above 0"),
        (["--min-accuracy", 95], r"--min-accuracy 95 is out of range; it must be a fraction above 0, up to 1"),
        (["--min-accuracy", 1], r"--min-accuracy 1 is not reached; the best on validation has 0\.\d{4}"),
        (["--register", "x"], r"--register needs --export DIR"),
    ],
)
def test_limits_that_nothing_meets_are_refused_in_a_line(
    arguments: list[object], line: str, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = told(["mine", "--out", home, *arguments], capsys, monkeypatch)
    assert code == 2 and re.match(f"error: {line}", said)


def test_a_study_that_was_not_confirmed_gives_no_recommendation(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(home, tmp_path / "out")
    for folder in (tmp_path / "out" / "mine" / "trials").iterdir():
        trial = ledger.read_spec(folder)
        if trial is not None and trial.stage == "confirm":
            shutil.rmtree(folder)
    code, said = told(["mine", "--out", tmp_path / "out"], capsys, monkeypatch)
    assert code == 2 and "no configuration was confirmed" in said
    monkeypatch.setattr(build, "drawings", lambda _: ())
    write(tmp_path / "out" / "mine")
    assert "Nothing was confirmed" in (tmp_path / "out" / "mine" / "summary.md").read_text()


def test_one_seed_and_one_width_are_said_as_such(home: Path) -> None:
    report = judge(home / "mine")
    lone = report.confirmed.comparisons[report.confirmed.comparisons["width"] == 3]
    one = replace(report.confirmed, trials=report.confirmed.trials.assign(num_seeds=1), comparisons=lone)
    said = page(replace(report, confirmed=one))
    assert "over 1 fresh seed, distillation" in said and "depending on the width" not in said
    assert "resamples of test examples alone (one seed" in said and "1 fresh seeds" not in said


def test_the_confirmed_are_two_tables_and_energy_stands_where_it_was_measured(home: Path) -> None:
    report = judge(home / "mine")
    tables = [block for block in confirmed_section(report) if isinstance(block, Table)]
    assert [table.name for table in tables] == ["confirmed", "confirmed_costs"]
    shown = report.confirmed.trials[~is_plain_itself(report.confirmed.trials)]
    assert all(len(table.head) <= 14 and len(table.rows) == len(shown) for table in tables)
    assert not any("mJ" in name for table in tables for name in table.head)
    trials = report.confirmed.trials.assign(energy_mj=0.25, energy_64_mj=float("nan"))
    metered = replace(report, confirmed=replace(report.confirmed, trials=trials))
    costs = [block for block in confirmed_section(metered) if isinstance(block, Table)][1]
    assert {row[costs.head.index("mJ an example, batch 1 / 64")] for row in costs.rows} == {"0.25 / –"}


def test_students_of_an_earlier_confirm_stage_are_counted_as_readers_of_the_test_split(home: Path) -> None:
    report = judge(home / "mine")
    own = report.confirmed.trials["number"].unique()
    fewer = report.confirmed.trials[report.confirmed.trials["number"] != own[0]]
    said = _test_reads(replace(report, confirmed=replace(report.confirmed, trials=fewer)))
    assert f"{len(own)} confirmed trials {len(own) - 1} are reported; the rest have the same configurations" in said
    assert "the rest" not in _test_reads(report)


def test_seeds_that_were_added_after_a_look_make_every_claim_harder(home: Path, found: Confirmed) -> None:
    data = load(home / "mine")
    assert found.looks == [SEEDS]
    fewer = data.confirmed.trials.assign(num_seeds=2, number=data.confirmed.trials["number"] + 1000)
    trials = pd.concat([data.confirmed.trials, fewer], ignore_index=True)
    twice = judge_confirmed(home / "mine", replace(data, confirmed=replace(data.confirmed, trials=trials)))
    assert twice.looks == [SEEDS, 2]
    for first, second in ((found.comparisons, twice.comparisons), (found.classes, twice.classes)):
        assert second["holm_p"].tolist() == pytest.approx((4 * first["holm_p"]).clip(upper=1).tolist(), nan_ok=True)
    report = replace(judge(home / "mine"), confirmed=twice)
    assert "was run 2 times, with 3 and 2 seeds" in answer(report) and "multiplied by 4" in answer(report)
    assert "times, with" not in answer(judge(home / "mine"))


def test_search_trials_that_were_added_after_a_look_are_a_look(home: Path) -> None:
    data = load(home / "mine")
    confirmed = data.confirmed.trials
    later = data.trials.head(1).assign(number=confirmed["number"].max() + 1)
    again = confirmed.tail(1).assign(number=confirmed["number"].max() + 2)
    searched = replace(data, trials=pd.concat([data.trials, later], ignore_index=True))
    assert judge_confirmed(home / "mine", searched).looks == [SEEDS]  # nothing was confirmed anew
    trials = pd.concat([confirmed, again], ignore_index=True)
    both = replace(searched, confirmed=replace(data.confirmed, trials=trials))
    assert judge_confirmed(home / "mine", both).looks == [SEEDS, SEEDS]


@pytest.mark.parametrize("what", ["result.json", "confirmed.safetensors"])
def test_a_confirm_stage_that_was_cut_short_is_reported_as_far_as_it_goes(
    what: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(home / "mine", tmp_path / "mine")
    folders = [path.parent for path in sorted((tmp_path / "mine").glob("trials/*/confirmed.safetensors"))]
    for folder in folders[::2]:
        (folder / what).unlink()
    left = judge_confirmed(tmp_path / "mine", load(tmp_path / "mine"))
    assert left.trials["number"].nunique() == (len(folders) if what != "result.json" else len(folders) // 2)
    assert (left.comparisons["verdict"] == "no difference shown").any() or left.comparisons.empty
    with monkeypatch.context() as patched:
        patched.setattr(build, "drawings", lambda _: ())
        assert (write(tmp_path / "mine").folder / "report.html").stat().st_size > 0


def test_what_has_lost_its_answers_is_named_and_the_rest_is_judged(
    home: Path, tmp_path: Path, found: Confirmed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(home, tmp_path / "out")
    number = int(found.recommended["number"].iloc[-1])
    file = ledger.confirmed_file(ledger.trial_dir(tmp_path / "out" / "mine", number))
    content = file.read_bytes()
    file.write_bytes(content[:-2000] + bytes(1000) + content[-1000:])
    monkeypatch.setattr(build, "drawings", lambda _: ())
    write(tmp_path / "out" / "mine")
    text = (tmp_path / "out" / "mine" / "summary.md").read_text()
    assert f"**Left out of P(on front), P(best) and what to take**: trial {number} (" in text
    code, said = told(["mine", "--out", tmp_path / "out"], capsys, monkeypatch)
    assert code == 0 and "among 5 confirmed that fit" in said
    assert re.search(rf"left out .* \(trial {number}\): its answers on the test split are damaged", said)
    code, printed = told(["mine", "--out", tmp_path / "out", "--json"], capsys, monkeypatch)
    assert [row["number"] for row in json.loads(printed)["left_out"]] == [number]
    for path in (tmp_path / "out").glob("mine/trials/*/confirmed.safetensors"):
        path.unlink()
    write(tmp_path / "out" / "mine")
    assert "Left out of P(on front)" in (tmp_path / "out" / "mine" / "summary.md").read_text()
    code, said = told(["mine", "--out", tmp_path / "out"], capsys, monkeypatch)
    assert code == 2 and "confirmed configurations can be judged (trial" in said and "sweep again" in said


def test_what_is_not_confirmed_and_what_cannot_be_compared_is_named_first(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert unconfirmed(load(home / "mine")) == ""
    shutil.copytree(home / "mine", tmp_path / "mine")
    data = load(tmp_path / "mine")
    wide = data.confirmed.trials[data.confirmed.trials["width"] == 6]
    for number in wide["number"]:
        (ledger.trial_dir(tmp_path / "mine", int(number)) / "result.json").unlink()
    with monkeypatch.context() as patched:
        patched.setattr(build, "drawings", lambda _: ())
        write(tmp_path / "mine")
    answer = next(p for p in (tmp_path / "mine" / "summary.md").read_text().split("\n\n") if p.startswith("**Answer"))
    assert "at width 3" in answer and answer.endswith("Not confirmed yet: width 6 (all of it).")
    code, said = told(["mine", "--out", tmp_path], capsys, monkeypatch)
    assert code == 0 and "lacks Not confirmed yet: width 6 (all of it). What is missing was not weighed here." in said
    states = data.confirmed.trials["state"].mask(data.confirmed.trials["arm"] == "control", "failed")
    failed = replace(data, confirmed=replace(data.confirmed, trials=data.confirmed.trials.assign(state=states)))
    given_up = failed.confirmed.trials.loc[failed.confirmed.trials["state"] == "failed", "source"]
    sides = chosen(data)[chosen(data)["source"].isin(given_up)]
    each = [f"width {w} ({', '.join(NAMES[role] for role in own['role'])})" for w, own in sides.groupby("width")]
    assert len(each) == 2 and unconfirmed(failed) == f" Given up in the confirm stage: {', '.join(each)}."
    one_sided = replace(data, trials=data.trials[(data.trials["arm"] == "control") | (data.trials["width"] == 6)])
    assert unconfirmed(one_sided).endswith("Not to be compared: width 3 (no finished distilled trial).")


def test_the_student_is_handed_out_with_its_evidence_and_registered_under_its_run(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["mine", "--out", home, "--export", tmp_path / "student", "--register", "small", "--json"]
    code, printed = told(arguments, capsys, monkeypatch)
    data = json.loads(printed)
    assert code == 0 and data["registered"] == "models:/small/1" and data["export"]["notes"] == []
    card = (tmp_path / "student" / "README.md").read_text()
    assert "(95% interval" in card and f"which confirms trial {data['take']['source']}" in card
    assert read_architecture(tmp_path / "student")["width"] == data["take"]["width"]
    client = mlflow.MlflowClient(f"sqlite:///{home / 'mlflow.db'}", f"sqlite:///{home / 'mlflow.db'}")
    version = client.get_model_version("small", "1")
    assert version.tags["trial"] == str(data["take"]["number"]) and "test_accuracy" not in version.tags
    _, _, record = trained(home / "mine", data["take"]["number"])
    assert version.tags["test_accuracy_of_this_seed"] == f"{record.metrics['test_accuracy']:.4f}"
    assert version.tags["seed"] == str(record.spec.seed)
    assert version.tags["test_accuracy_mean_of_seeds"] == f"{data['take']['test_accuracy']:.4f}"


def test_a_store_or_name_that_cannot_be_is_refused_before_anything_is_written(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.db"
    shutil.copy(home / "mlflow.db", other)
    with closing(sqlite3.connect(other)) as database, database:
        database.execute("PRAGMA journal_mode=DELETE")
        database.execute("UPDATE experiments SET name = 'another' WHERE name = 'mine'")
    before = sorted(tmp_path.iterdir())
    said = {
        ("--tracking-uri", f"sqlite:///{tmp_path / 'mlfow.db'}", "--register", "small"): "there is no tracking store",
        ("--tracking-uri", f"sqlite:///{other}", "--register", "small"): "has no run of this study; give the sweep's",
        ("--tracking-uri", tmp_path / "mlfow", "--register", "small"): "names no store; stores are sqlite:///FILE",
        ("--register", "a/b"): "'a/b' is no model's name",
    }
    for arguments, line in said.items():
        found = told(["mine", "--out", home, "--export", tmp_path / "student", *arguments], capsys, monkeypatch)
        assert found[0] == 2 and found[1].startswith("error: ") and line in found[1] and "take" not in found[1]
    assert sorted(tmp_path.iterdir()) == before


def spoken(home: Path, confirmed: Confirmed) -> tuple[str, dict[str, Any]]:
    """What the program says of what is to be taken, and what the model card would."""
    data = load(home / "mine")
    taken = recommend(home / "mine", data, confirmed, {}, None)
    return spoken_of(data, taken), evidence(taken, data)


def spoken_of(data: StudyData, taken: Recommendation) -> str:
    console = Console(file=io.StringIO(), width=1000)
    say(console, taken, data)
    assert isinstance(console.file, io.StringIO)
    return " ".join(console.file.getvalue().split())


@pytest.mark.parametrize(
    ("role", "words", "teacher"),
    [
        ("ce", "control it is plain training: ", "none"),
        ("smoothing", "control it is label smoothing, without a teacher: ", "none"),
        ("self", "control its teacher is a student of its own width: ", "a plainly trained"),
    ],
)
def test_what_is_said_of_a_control_that_is_taken_is_of_its_kind(
    role: str, words: str, teacher: str, home: Path, found: Confirmed
) -> None:
    trials = found.trials.copy()
    taken = trials.index[trials["role"] == ("smoothing" if role == "self" else role)][0]  # the study has no self
    trials.loc[taken, ["role", "val_accuracy"]] = role, 2.0
    said, card = spoken(home, replace(found, trials=trials))
    assert words + "no difference is shown to the best distilled student of its width (which has " in said
    assert "over this)" in said
    assert card["trained_as"] == role and card["teacher"].startswith(teacher)
    assert ("over plain training of its width" in said) == (role != "ce")
    assert (card["verdict_against_plain_training"] == "it is plain training") == (role == "ce")
    assert (card["gain_over_control"] is None) == (role == "ce")
    for verdict, other in (
        ("better", "better on test, though validation chose this ("),
        ("worse", "worse (which has "),
    ):
        judged = found.comparisons.assign(verdict=verdict)
        said, _ = spoken(home, replace(found, trials=trials, comparisons=judged))
        assert f"{words}the best distilled student of its width is shown to be {other}" in said
    none = found.comparisons.head(0)
    said, _ = spoken(home, replace(found, trials=trials, comparisons=none))
    assert f"{words}it cannot be compared with a distilled one" in said
    lone = trials[trials["role"] != "distilled"]
    said, _ = spoken(home, replace(found, trials=lone, comparisons=none))
    assert f"{words}no distilled student of its width was confirmed" in said


def test_a_student_at_chance_is_not_taken_without_a_word(home: Path, found: Confirmed) -> None:
    assert 0.1 <= found.chance < 0.15  # of ten digits, nearly as many of each
    low = found.trials.assign(test_low=0.05, test_high=0.15, test_accuracy=0.1009)
    diverged = found.students.assign(status=np.where(found.students["seed"].mod(2) == 0, "diverged", "ok"))
    chance = replace(found, trials=low, students=diverged)
    said, card = spoken(home, replace(chance, students=found.students))
    assert "weak not shown to be above chance: always the commonest class is 10." in said and "diverged" not in said
    said, card = spoken(home, chance)
    assert re.search(r"weak not shown .*%; \d of its 3 students diverged and count as guessing", said)
    assert "chance" in card["weakness"]
    text = page(replace(judge(home / "mine"), confirmed=chance))
    assert "**Of what validation would take, beware of** " in text and "not shown to be above chance" in text
    said, card = spoken(home, replace(found, trials=found.trials.assign(test_low=0.5)))
    assert "weak" not in said and "weakness" not in card


def test_weights_that_are_not_the_records_are_not_handed_out(home: Path, tmp_path: Path, found: Confirmed) -> None:
    shutil.copytree(home / "mine", tmp_path / "mine")
    number = int(found.trials["number"].iloc[0])
    student, _, record = trained(tmp_path / "mine", number)
    assert student.width == record.spec.width
    best = found.students[found.students["number"] == number]["val_accuracy"].max()
    assert record.metrics["val_accuracy"] == best
    folder, other = (ledger.trial_dir(tmp_path / "mine", int(n)) for n in found.trials["number"].iloc[:2])
    shutil.copy(ledger.confirmed_file(other), ledger.confirmed_file(folder))
    with pytest.raises(ValueError, match=f"the students of trial {number} are not in .* any more"):
        trained(tmp_path / "mine", number)


def crossed_world(seeds: int, examples: int, gain: float, by_example: float) -> Any:
    rng = np.random.default_rng(1)
    of_seeds, of_examples = rng.normal(size=(seeds, 1)), rng.normal(size=(1, examples))
    return gain + 0.05 * of_seeds + by_example * of_examples + 0.1 * rng.normal(size=(seeds, examples))


def test_how_many_seeds_would_tell_two_apart() -> None:
    """The rule asks for 80% power to see what a test would find with 80% power: statsmodels has the latter."""
    assert seeds_to_tell(crossed_world(10, 400, 0.5, 0.0)) == 0
    values = crossed_world(10, 4000, 0.03, 0.0)
    values += 0.03 - values.mean()
    needed, sd = seeds_to_tell(values), float(values.mean(axis=1).std(ddof=1))
    assert needed is not None and needed > 10

    def power(seeds: int) -> float:
        least = TTestPower().solve_power(nobs=seeds, alpha=0.05, power=0.8)  # in SDs
        shift = 0.03 / sd * math.sqrt(seeds)
        return float(stats.nct.sf(least * math.sqrt(seeds), seeds - 1, shift))

    assert power(needed) >= 0.8 > power(needed - 1)
    for looks, rows in ((1, 1), (1, 18), (2, 18), (3, 40)):  # all noise is of seeds here: the spread is theirs
        tests = (looks + 1) ** 2 * rows
        assert seeds_to_tell(values, looks, rows) == next(
            n for n in range(11, 999) if found_by_rule(sd, n, tests) <= 0.03
        )
    two = crossed_world(2, 400, 0.1, 0.0)  # of two seeds hardly anything is known
    assert (seeds_to_tell(two) or 0) > 2
    assert seeds_to_tell(crossed_world(10, 50, 0.02, 0.5)) is None  # a matter of test examples, not of seeds
    assert seeds_to_tell(np.zeros((10, 50))) is None
    assert seeds_to_tell(np.ones((1, 50))) is None
    alike = np.eye(3, 360) + np.roll(np.eye(3, 360), 9, axis=1)  # every seed the same difference, of other examples
    assert seeds_to_tell(alike) is None
