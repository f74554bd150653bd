"""The claims of the literature: the rule of their verdicts, and that each can be put to the test and resumed."""

from __future__ import annotations

import io
import json
import re
import runpy
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from studies.literature import page, training
from studies.literature.claim import FIRST_TUNING_SEED, Claim, Results, chosen
from studies.literature.program import program, put_to_test
from studies.literature.verdict import Part, judge
from tests.tiny_claim import CLAIM as TINY

ROOT = Path(__file__).parents[1]
NAMES = (
    "busbridge_capacity", "cho_early_stopping", "hinton_temperature", "kim_mse", "mirzadeh_assistant",
    "muller_smoothing",
)  # fmt: skip
CLAIMS: list[Claim] = [import_module(f"studies.literature.{name}").CLAIM for name in NAMES]
ONE = Part("main", "a less b", 1.0, "half of what is usual")


def names(claim: Claim) -> str:
    return claim.name


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ((1.0, 2.0, 3.0), "underpowered"),  # mean 2, SE .577, t(2) 4.303: [-.48, 4.48] holds 0 and 1
        ((2.0, 2.5, 3.0), "reproduced"),  # mean 2.5, SE .289: [1.26, 3.74]
        ((0.2, 0.3, 0.4), "reproduced"),  # mean .3, SE .058: [.05, .55]; less than delta, and yet above 0
        ((-0.1, 0.1, 0.3), "contradicted"),  # mean .1, SE .115: [-.40, .60] holds 0 but not 1
        ((-3.0, -2.0, -1.0), "contradicted"),  # the other way round
        ((-3.0, 0.0, 3.0), "underpowered"),  # [-7.5, 7.5]
        ((0.5, 0.5, 0.5), "underpowered"),  # seeds that agree exactly give no interval
    ],
)
def test_the_verdict_is_that_of_the_interval(differences: tuple[float, ...], verdict: str) -> None:
    [found] = judge([ONE], {"main": differences})
    assert found.verdict == verdict
    low, high = found.effect.low, found.effect.high
    assert (verdict == "reproduced") == (low > 0)
    assert (verdict == "contradicted") == (not low > 0 and high < 1)


def test_several_parts_are_judged_by_holm() -> None:
    """t = 5 on 2 degrees of freedom is p .038: shown alone, and not beside a part that shows nothing."""
    alone = [1.0 - 0.2 * 3**0.5, 1.0, 1.0 + 0.2 * 3**0.5]
    [found] = judge([ONE], {"main": alone})
    assert found.effect.p_t == pytest.approx(0.0377, abs=1e-4) and found.verdict == "reproduced"
    second = Part("second", "c less d", 1.0, "the same")
    first, other = judge([ONE, second], {"main": alone, "second": [-3.0, 0.0, 3.0]})
    assert first.p_zero == pytest.approx(2 * 0.0377, abs=2e-4)
    assert (first.verdict, other.verdict) == ("underpowered", "underpowered")


def test_effects_must_be_those_of_the_parts() -> None:
    with pytest.raises(ValueError, match="effects other are not those of the parts main"):
        judge([ONE], {"other": [1.0, 2.0]})


def test_a_smallest_effect_must_be_above_zero() -> None:
    with pytest.raises(ValueError, match=r"part 'main': delta 0\.0 must be a number above 0"):
        Part("main", "a less b", 0.0, "")


def test_the_knobs_of_an_arm_are_those_of_the_best_mean_on_val() -> None:
    one, two = (("lr", 1e-3),), (("lr", 1e-2),)
    rows = [("plain", one, 0.9), ("plain", one, 0.5), ("plain", two, 0.8), ("plain", two, 0.7), ("taught", one, 0.1)]
    tuning = pd.DataFrame(rows, columns=["arm", "knobs", "val_accuracy"])
    found = chosen(TINY, tuning)
    assert found.loc["plain", "knobs"] == two and found.loc["plain", "val"] == pytest.approx(0.75)
    assert list(found["on_edge"]) == ["", "lr"]


def test_a_difference_is_that_of_the_means_of_a_pipelines_students() -> None:
    rows = [(1, "plain", 0.5), (1, "plain", 0.7), (1, "taught", 0.9), (1, "taught", 0.7), (2, "plain", 0.6),
            (2, "plain", 0.6), (2, "taught", 0.5), (2, "taught", 0.5)]  # fmt: skip
    tested = pd.DataFrame(rows, columns=["seed", "arm", "test_accuracy"])
    assert Results(TINY, tested, tested).points("taught", "plain") == pytest.approx([20.0, -10.0])


def test_a_tiny_claim_runs_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    folder = tmp_path / "literature" / "tiny"
    put_to_test(TINY, 2, tmp_path, Console(file=io.StringIO()))
    names = [f"seed-{n}.json" for n in (1, 2)] + [f"tune-{FIRST_TUNING_SEED}.json"]
    assert sorted(path.name for path in folder.glob("*-*.json")) == names
    assert {path.suffix for path in folder.glob("tiny.*")} == {".png", ".pdf", ".svg"}
    verdict, summary = (folder / "verdict.json").read_text(), (folder / "summary.md").read_text()
    assert "arXiv:0000.00000" in summary and json.loads(verdict)["verdict"] in summary
    assert "2 pipelines, seeds 1 to 2." in summary
    (folder / "seed-2.json").unlink()
    before = (folder / "seed-1.json").stat().st_mtime_ns
    results = training.run(TINY, tmp_path, 2, lambda *_: None)
    again = page.as_json(results, judge(TINY.parts, TINY.effects(results)))
    assert again["parts"][0]["differences"] == tuple(json.loads(verdict)["parts"][0]["differences"])
    assert (folder / "seed-1.json").stat().st_mtime_ns == before and (folder / "seed-2.json").is_file()


def test_seeds_of_another_grid_are_trained_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "literature" / "tiny"
    training.run(TINY, tmp_path, 1, lambda *_: None)
    (folder / "seed-1.json").replace(folder / "seed-2.json")
    training.run(TINY, tmp_path, 2, lambda *_: None)
    assert "seed-2.json is of other students, teachers or data" in caplog.text
    assert len(list(folder.glob("seed-2.json.aside-*"))) == 1


def test_tuning_does_not_read_the_test_split_and_shares_no_seed_with_the_test(tmp_path: Path) -> None:
    results = training.run(TINY, tmp_path, 1, lambda *_: None)
    assert not [name for name in results.tuning if str(name).startswith("test_")]
    assert set(results.tested["seed"]).isdisjoint(results.tuning["seed"])
    lines = "\n".join(page.lines(results, judge(TINY.parts, {part.name: [1.0, 2.0, 4.0] for part in TINY.parts})))
    assert "under seeds 1001 to 1001" in lines


def test_a_number_of_seeds_that_is_none_is_one_clear_line(tmp_path: Path) -> None:
    found = CliRunner().invoke(program(TINY), ["--seeds", "1", "--out", str(tmp_path)])
    assert str(found.exception) == "--seeds 1 is out of range; it must be a whole number from 2 to 40"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_help_names_the_paper(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    module = f"studies.literature.{name}"
    monkeypatch.setattr("sys.argv", [module, "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    said = capsys.readouterr().out
    assert stop.value.code == 0 and f"python -m {module}" in said
    assert re.search(r"arXiv:\d{4}\.\d{5}", said)


@pytest.mark.parametrize("claim", CLAIMS, ids=names)
def test_a_claim_names_its_module_and_paper_and_what_its_figure_shows(claim: Claim) -> None:
    assert claim.module == f"studies.literature.{claim.name}" and re.search(r"arXiv:\d{4}\.\d{5}", claim.paper)
    arms = {arm.name for arm in claim.arms}
    shown = [arm for line in claim.view.lines.values() for arm in line.values()] + list(claim.view.levels.values())
    assert set(shown) == arms and len(arms) == len(claim.arms)
    assert all(part.why and part.d for part in claim.parts)


@pytest.mark.parametrize("claim", CLAIMS, ids=names)
def test_every_student_of_a_claim_can_be_trained(claim: Claim, tmp_path: Path) -> None:
    """Each is checked on its own task; under another seed than those that choose, each is another student."""
    wanted = training.students(claim, FIRST_TUNING_SEED, claim.tuning(), tmp_path)
    assert len(wanted) == claim.repeats * len(claim.tuning())
    last = claim.first_seed + claim.seeds - 1
    seeds = {spec.seed for arm, knobs in claim.tuning() for spec in claim.students(arm, knobs, last, "digits")}
    assert seeds.isdisjoint(spec.seed for _, _, spec in wanted)


def test_the_page_of_the_literature_has_every_claim_and_its_figure() -> None:
    text = (ROOT / "docs" / "literature.md").read_text()
    for name in NAMES:
        assert f"python -m studies.literature.{name}" in text and f"literature/{name}.png" in text
        assert (ROOT / "docs" / "literature" / f"{name}.png").is_file()
