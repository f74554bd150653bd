"""A new user's path: copy the template, put in one's own, run it, report it; and what is said of a module that cannot
be fused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from harness import ledger, tasks
from harness.executors.worker import describe
from harness.manifest import said_alone, said_weak
from harness.models import MLP
from harness.recommend.hand_out import hand_out
from harness.study_files import load_study
from harness.values import to_json
from tests.inline import sweep_here
from tests.owned import clouds, known, spec_of, task_of

ROOT = Path(__file__).parents[1]
TEMPLATE = ROOT / "studies" / "template.py"
MODULE = "nn.Sequential(nn.Linear(20, width), nn.ReLU(), nn.Linear(width, 6))"
ARRAYS = "inputs = rng.normal(size=(24, 20))[cloud] + 0.7 * rng.normal(size=(2400, 20))"


def copied(folder: Path, module: str, *, teacher: str = "TeacherRecipe(MLP, width=16, epochs=2)") -> Path:
    """The template with a module, arrays and a teacher of one's own, as a user would put them in."""
    text = TEMPLATE.read_text(encoding="utf-8")
    for before, after in (
        (MODULE, module),
        (ARRAYS, "inputs = np.eye(6, 9)[cloud % 6].astype(np.float32) + rng.normal(size=(2400, 9)).astype(np.float32)"),
        ("TeacherRecipe(MLP, width=256, epochs=20)", teacher),
        ('"width": Choice(2, 4, 8)', '"width": Choice(3, 5)'),
        ("trials=24", "trials=24, other_controls=()"),
        ('fixed={"epochs": 20}', 'fixed={"epochs": 2, "batch_size": 256}'),
    ):
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    (folder / "copied.py").write_text(text, encoding="utf-8")
    return folder / "copied.py"


NORMED = "nn.Sequential(nn.Linear(9, width), nn.BatchNorm1d(width), nn.Dropout(0.1), nn.ReLU(), nn.Linear(width, 6))"


def run(*arguments: object, folder: Path) -> str:
    """What a program of the harness prints, run as a user runs it."""
    found = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def written() -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (ROOT / "harness").rglob("*.py")}


def test_the_template_is_short_and_is_a_study_as_it_stands() -> None:
    assert len(TEMPLATE.read_text(encoding="utf-8").splitlines()) < 40
    _, file, study = load_study("template", [ROOT / "studies"])
    told = describe([to_json(probe) for probe in study.probes(str(file))], "cpu")
    assert told["name"] == "mine" and told["alone"] == {}
    assert told["sizes"] == {"train": 1439, "val": 361, "test": 600}  # a fifth of each class is held out, rounded


def test_a_new_user_copies_the_template_puts_in_their_own_runs_it_and_has_a_report(tmp_path: Path) -> None:
    """As programs, steps measured, with a module that is trained by itself."""
    before = written()
    file = copied(tmp_path, NORMED)
    assert len(file.read_text(encoding="utf-8").splitlines()) < 40
    sweep = ("harness.sweep", "copied.py", "--trials", 4, "--confirm", 1, "--jobs", 1, "--device", "cpu")
    printed = run(*sweep, "--out", "out", folder=tmp_path)
    assert "students of family 'own' are trained one at a time: its 1.running_mean changes as it is" in printed
    run("harness.report", "copied", "--out", "out", folder=tmp_path)
    assert written() == before
    summary = (tmp_path / "out" / "copied" / "summary.md").read_text(encoding="utf-8")
    assert "the user's own" in summary and "mine" in summary
    trials = pd.read_csv(tmp_path / "out" / "copied" / "trials.csv")
    assert (trials["state"] == "complete").all() and set(trials["status"]) == {"ok"}
    said = json.loads((tmp_path / "out" / "copied" / "study.json").read_text(encoding="utf-8"))
    assert "; students of family 'own' are trained one at a time: its 1.running_mean changes" in said["cohorts"]
    assert (tmp_path / "out" / "copied" / "report.html").stat().st_size > 10_000


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_a_module_teacher_teaches_and_a_confirmed_student_is_handed_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its weights and its buffers, held against the val accuracy of its record."""
    torch.save(nn.Linear(9, 6).state_dict(), tmp_path / "big.pt")
    teacher = f'__import__("harness.tasks").tasks.module_teacher(lambda: nn.Linear(9, 6), "{tmp_path / "big.pt"}")'
    file = copied(tmp_path, NORMED, teacher=teacher)
    assert sweep_here(file, tmp_path / "out", trials=3, confirm=2, deterministic=True) == 0
    assert "are trained one at a time: its 1.running_mean changes as it is trained" in capsys.readouterr().out
    said = json.loads((tmp_path / "out" / "copied" / "study.json").read_text(encoding="utf-8"))
    assert said["cohorts"].startswith("by a fixed rule; students of family 'own' are") and said["task"]["alone"]
    assert said["teacher"]["name"] == "big" and said["teacher"]["num_params"] == 60
    folder = tmp_path / "out" / "copied"
    specs = {number: ledger.read_spec(ledger.trial_dir(folder, number)) for number in ledger.numbers(folder)}
    number = next(number for number, spec in specs.items() if spec is not None and spec.stage == "confirm")
    handed = hand_out(tmp_path / "out" / "copied", number, tmp_path / "student", {})
    assert len(handed.differences) == 3 and not handed.notes


def test_what_is_said_of_students_that_are_trained_alone_is_one_line_by_reason() -> None:
    assert said_alone("own", {}) == ""
    assert said_alone("own", {"2": "it draws", "4": "it draws", "8": "it counts"}) == (
        "students of family 'own' are trained one at a time: it draws (width 2, 4); it counts (width 8)"
    )


def test_students_are_described_by_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Built-in families and pure modules are fused; the widths of a module may differ."""

    def own(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(5, width), nn.Dropout(0.5) if width > 4 else nn.Tanh(), nn.Linear(width, 3))

    task = known(task_of(own), monkeypatch)
    assert "digits" in tasks.TASKS
    told = describe([to_json(spec_of(task, width=width)) for width in (4, 8)], "cpu")
    assert told["alone"] == {"8": "it draws random numbers as it is trained"}
    assert told["num_params"] == {"4": 5 * 4 + 4 + 4 * 3 + 3, "8": 5 * 8 + 8 + 8 * 3 + 3}


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            lambda width: nn.Linear(5, width),
            r"the student of width 4 gives logits \[4, 4\] for 4 examples; .*\[4, 3\]$",
        ),
        (lambda width: nn.Linear(width, 3), r"^the student does not take inputs \[4, 5\] torch.float32"),
        (lambda width: nn.Linear(5, 3 + 0 * width), "^students .* of widths 4 and 8 have the same shapes"),
    ],
    ids=["classes", "inputs", "widths"],
)
def test_a_student_that_cannot_be_trained_is_refused_before_a_sweep_in_one_line(
    module: object, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = known(task_of(module), monkeypatch)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message) as caught:
        describe([to_json(spec_of(task, width=width)) for width in (4, 8)], "cpu")
    assert "\n" not in str(caught.value)


def test_a_val_that_lacks_classes_and_a_teacher_that_guesses_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, labels = clouds(40, 1)
    task = known(task_of({"own": MLP}, val=(inputs[labels < 2], labels[labels < 2])), monkeypatch)
    [said] = describe([to_json(spec_of(task))], "cpu")["warned"]
    assert said.startswith("val has no example of 1 of the 3 classes of train (the first: 2)")
    assert said_weak({"val_accuracy": None}, 3) == "" == said_weak({"val_accuracy": 0.9}, 3)
    assert "are its inputs scaled, its classes in" in said_weak({"val_accuracy": 0.34}, 3)
