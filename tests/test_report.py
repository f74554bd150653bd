"""The report: files that repeat themselves to the byte, a page that claims no more than it may, and clear refusals."""

from __future__ import annotations

import itertools
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from typer.testing import CliRunner

from harness import cli, figures
from harness.analysis.load import load
from harness.figures import style
from harness.files import read_json, write_json
from harness.report.__main__ import app
from harness.report.build import write
from harness.report.drawings import drawings
from harness.report.findings import Report, judge
from harness.report.page import page
from harness.report.tables import front_table
from tests.fake_study import FakeStudy, write_fake_study

pytestmark = pytest.mark.usefixtures("_figures")

NOTHING = FakeStudy(trials=0, controls=0, teacher=False)
POOR = {
    "no trials": NOTHING,
    "one trial": FakeStudy(trials=1, controls=0, diverged=(), failed=(), running=()),
    "all diverged": FakeStudy(trials=6, controls=1, diverged=range(99), failed=(), running=()),
    "one width": FakeStudy(trials=9, controls=2, widths=(4,), forms=("kl",), diverged=()),
    "no controls": FakeStudy(trials=9, controls=0, diverged=()),
    "controls alone": FakeStudy(trials=0, controls=2, diverged=(), failed=(), running=()),
    "one seed": FakeStudy(trials=9, controls=1, seeds=1, teacher=False),
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, _figures: None) -> Report:
    return write(write_fake_study(tmp_path_factory.mktemp("results")))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_report_is_tables_a_page_and_figures(report: Report) -> None:
    assert all(path.is_file() for path in report.files)
    stems = {path.stem for path in report.files if path.suffix == ".png"}
    assert stems == {path.stem for path in report.files if path.suffix == ".pdf"} and len(stems) == 12
    assert not list(report.folder.rglob(".*"))
    trials = pd.read_csv(report.folder / "trials.csv")
    assert len(trials) == 129 and trials["on_front"].sum() == len(report.front)
    assert pd.read_csv(report.folder / "pareto.csv")["number"].tolist() == report.front["number"].tolist()
    assert len(pd.read_csv(report.folder / "gains.csv")) == len(pd.read_csv(report.folder / "controls.csv")) == 5


def test_a_report_made_again_is_the_same_to_the_byte_and_touches_no_trial(report: Report) -> None:
    stale = report.folder / "figures" / "of_an_older_version.png"
    before = contents(report.folder)
    stale.write_bytes(b"")
    write(report.folder)
    assert contents(report.folder) == before


def test_what_a_report_that_was_killed_left_half_written_goes_with_the_next(tmp_path: Path) -> None:
    folder = write_fake_study(tmp_path, NOTHING)
    gone = subprocess.check_output([sys.executable, "-c", "import os; print(os.getpid())"], text=True).strip()
    own = [f".{name}.{socket.gethostname()}-{gone}.tmp" for name in ("trials.csv", "report.html")]
    for name in own:
        (folder / name).write_text("half")
    write(folder)
    assert not [name for name in own if (folder / name).exists()] and not list(folder.rglob("*.tmp"))


def test_the_page_answers_first_and_says_what_the_answer_rests_on(report: Report) -> None:
    text = (report.folder / "summary.md").read_text()
    question, answer = text.split("\n\n")[1:3]
    assert question.startswith("**The question.**")
    assert answer.startswith("**Answer.**") and "no difference is shown at any of the 5 widths" in answer
    assert "same validation split" in answer and "not a confirmed claim" in answer
    assert not re.search(r"\b(better|outperforms|superior|significant)", text)
    assert "the test split was not read" in text and "0123456789abcdef" in text
    assert "| search (distilled) | 64 | 62 | 1 | 1 | 1 | 0 |" in text
    for link in re.findall(r"\]\((figures/[^)]+)\)", text):
        assert (report.folder / link).is_file()


def test_the_front_fits_a_terminal_of_80_columns_and_names_its_limits(report: Report) -> None:
    console = Console(width=80, record=True, quiet=False, file=None, force_terminal=False)
    with console.capture() as capture:
        console.print(front_table(report))
    shown = capture.get()
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert all(f"{row:,}" in shown for row in report.front["num_params"])
    assert "search-stage estimates" in shown and "…" not in shown


@pytest.mark.parametrize("name", POOR)
def test_a_poor_study_still_reports_and_says_what_is_missing(tmp_path: Path, name: str) -> None:
    found = judge(write_fake_study(tmp_path, POOR[name]))
    for drawing in drawings(found):
        with figures.paper():
            figure = drawing.draw()
            figure.set_dpi(40)
            figure.draw_without_rendering()
    text = page(found)
    Console(quiet=True).print(front_table(found))
    expected = {
        "no trials": "**No answer yet.** Of 0 trials on disk",
        "one trial": "no width has both",
        "all diverged": "none finished without diverging",
        "one width": "no difference is shown at the one width",
        "no controls": "No plain control has finished",
        "controls alone": "no width has both",
        "one seed": "With 1 seed there is no spread",
    }
    assert expected[name] in text
    assert "nan" not in text.lower().replace("nanoseconds", "")


def test_a_searched_knob_that_no_trial_has_had_is_an_empty_column(tmp_path: Path) -> None:
    """A form that was never sampled, or whose every trial failed, leaves its knobs without a value."""
    folder = write_fake_study(tmp_path, FakeStudy(trials=12, controls=2))
    manifest = read_json(folder / "study.json")
    manifest["identity"]["space"]["dkd.rest"] = {"kind": "Float", "low": 1, "high": 8, "log": True, "when": {}}
    write_json(folder / "study.json", manifest)
    written = write(folder)
    assert pd.read_csv(folder / "trials.csv")["dkd.rest"].isna().all()
    assert "| dkd.rest |" in (folder / "summary.md").read_text() and len(written.front)


def test_a_study_without_trials_is_written_whole(tmp_path: Path) -> None:
    folder = write_fake_study(tmp_path, NOTHING)
    written = write(folder)
    assert "importance" not in written.drawn and "at least 8 trials" in (folder / "summary.md").read_text()
    assert pd.read_csv(folder / "pareto.csv").empty


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The line on which the program leaves with exit code 2."""
    monkeypatch.setattr("sys.argv", ["harness.report", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.run(app)
    assert stop.value.code == 2
    return capsys.readouterr().err.strip()


def test_an_unknown_study_is_one_line_with_the_choices_and_writes_nothing(
    report: Report, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = report.folder.parent
    shutil.copytree(report.folder, out / "mnist5k.aside-17", ignore=shutil.ignore_patterns("trials"))
    before = contents(out)
    line = refused(["mnist", "--out", str(out)], capsys, monkeypatch)
    assert line == f"error: no results for study 'mnist'; studies with results in {out} are mnist5k"
    assert contents(out) == before
    shutil.rmtree(out / "mnist5k.aside-17")
    for study in ("", ".", "../x", "nothing"):
        assert "no results for study" in refused([study, "--out", str(tmp_path / "none")], capsys, monkeypatch)
    assert not (tmp_path / "none").exists()


def test_the_program_reports_a_study_by_the_path_of_its_file(tmp_path: Path) -> None:
    write_fake_study(tmp_path, NOTHING)
    result = CliRunner().invoke(app, ["studies/mnist5k.py", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "summary.md" in result.output and (tmp_path / "mnist5k" / "summary.md").is_file()


def test_a_report_needs_neither_torch_nor_mlflow() -> None:
    code = (
        "import sys, harness.report.build, harness.sampler; print([m for m in ('torch', 'mlflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_thousand_trials_load_within_seconds(tmp_path: Path) -> None:
    folder = write_fake_study(tmp_path, FakeStudy(trials=500, controls=100))
    start = time.process_time()
    assert len(load(folder).trials) == 1000 and time.process_time() - start < 6


def test_log_ticks_are_round_and_at_least_three() -> None:
    assert style.log_ticks(722, 3722) == [1000, 1500, 2000, 3000] or len(style.log_ticks(722, 3722)) >= 3
    assert style.log_ticks(100, 200_000) == [100, 1000, 10_000, 100_000]
    assert [style.short(size) for size in (500, 1000, 1500, 115_114, 2e6)] == ["500", "1k", "1.5k", "115k", "2M"]


def test_labels_are_spread_no_nearer_than_the_gap_and_keep_their_order() -> None:
    placed = style.spread([1.0, 0.99, 0.5, 1.0], 0.1)
    assert placed[2] == 0.5 and placed[1] < placed[0] < placed[3]
    assert style.spread([1.0, 1.0, 0.2], 0.1, ceiling=1.0) == pytest.approx([0.9, 1.0, 0.2])
    ordered = sorted(placed)
    assert min(b - a for a, b in itertools.pairwise(ordered)) >= 0.1 - 1e-12


def test_no_bar_is_cut_and_every_form_has_its_own_hue() -> None:
    table = pd.DataFrame({"fANOVA": {"width": 0.7, "lr": 0.3}, "PED-ANOVA": {"width": 0.2}})
    with figures.paper():
        axes: Axes = figures.importance_bars(table, 20).axes[0]
    assert axes.get_xlim()[0] == 0 and axes.get_xlim()[1] > 0.7
    hues = style.hues([f"form{index}" for index in range(9)])
    assert len(set(hues.values())) == 10


def test_figures_leave_no_state_in_pyplot() -> None:
    code = "import sys, harness.figures; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False" and isinstance(style.blank(2, "n = 1"), Figure)


def test_pruned_trials_are_counted_and_stand_in_no_statistic(tmp_path: Path) -> None:
    """They would all be the best, had they been measured at their end."""
    search, controls = range(20, 40), range(70, 74)
    pruned = FakeStudy(pruned=(*search, *controls))
    found = judge(write_fake_study(tmp_path / "pruned", pruned))
    without = write_fake_study(tmp_path / "missing", pruned)
    for number in (*search, *controls):
        (without / "trials" / str(number) / "result.json").unlink()
    missing = judge(without)
    for name in ("front", "controls", "gains", "pulls", "importance"):
        pd.testing.assert_frame_equal(getattr(found, name), getattr(missing, name))
    trials = found.data.trials
    assert set(trials.loc[trials["state"] == "pruned", "number"]) == {*search, *controls}
    assert set(trials.loc[trials["state"] == "pruned", "status"]) == {"pruned"}
    assert trials["pruned_at"].dropna().tolist() == [4] * 24
    assert (trials.loc[trials["state"] == "pruned", "seconds"] > 0).all()
    said = page(found)
    assert "24 pruned at epoch 4" in said and "pruned" not in page(missing)
    assert "| search (distilled) | 64 | 42 | 1 | 20 | 1 | 1 | 0 |" in said
    assert "99.90" not in said


def test_a_study_in_which_all_was_pruned_is_reported(tmp_path: Path) -> None:
    """Its figures too."""
    fake = FakeStudy(trials=6, controls=1, diverged=(), failed=(), running=(), pruned=range(99))
    found = write(write_fake_study(tmp_path, fake))
    assert found.front.empty and "none finished" in page(found)
