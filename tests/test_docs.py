"""What README and docs say is run."""

from __future__ import annotations

import re
import runpy
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.executors.worker import describe
from harness.losses import LOSSES
from harness.study_files import load_study
from harness.values import to_json
from tests.inline import sweep_here
from tests.owned import trained

ROOT = Path(__file__).parents[1]


def blocks(path: str) -> list[str]:
    """The Python code blocks of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / path).read_text(), flags=re.DOTALL)


def test_the_study_in_the_readme_is_one(tmp_path: Path) -> None:
    [code] = blocks("README.md")
    (tmp_path / "my_study.py").write_text(code)
    name, _, study = load_study(str(tmp_path / "my_study.py"), [])
    assert name == "my_study" and study.widths == (8, 16, 32, 64)


def test_a_task_of_ones_own_runs_as_the_docs_say(tmp_path: Path) -> None:
    [code, *_] = blocks("docs/own-task.md")
    (tmp_path / "my_study.py").write_text(code)
    assert sweep_here(tmp_path / "my_study.py", tmp_path / "results", trials=3, confirm=1, deterministic=True) == 0
    assert "six Gaussian clouds" in (tmp_path / "results" / "my_study" / "summary.md").read_text()


def test_texts_of_ones_own_run_as_the_docs_say(tmp_path: Path) -> None:
    [_, code, _] = blocks("docs/own-task.md")
    (tmp_path / "my_texts.py").write_text(code)
    for name, begin, end in (("train", 0, 120), ("test", 120, 160)):
        marks = [("liked" if i % 2 else "not", i % 11, i % 13) for i in range(begin, end)]
        rows = [f'"it was {mark} by {one}, and {other} of them",{mark}' for mark, one, other in marks]
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *rows]))
    _, file, study = load_study(str(tmp_path / "my_texts.py"), [])
    told = describe([to_json(probe) for probe in study.probes(str(file))], "cpu")
    assert told["source"] == "my own reviews" and told["classes"] == ["liked", "not"] and told["sizes"]["test"] == 40
    [spec] = study.specs({"width": 8, "alpha": 0.5, "temperature": 4.0}, plain=False, task=str(file))[:1]
    [record] = trained([spec], tmp_path)
    assert record.metrics["val_accuracy"] > 0.7


def test_a_language_model_on_a_text_of_ones_own_is_a_study_as_the_docs_say(tmp_path: Path) -> None:
    [*_, code] = blocks("docs/own-task.md")
    (tmp_path / "my_language.py").write_text(code)
    letters = np.random.default_rng(0).choice(list("abcdef"), 6000)
    (tmp_path / "own.txt").write_text("".join(letters))
    _, file, study = load_study(str(tmp_path / "my_language.py"), [])
    told = describe([to_json(probe) for probe in study.probes(str(file))], "cpu")
    assert told["sizes"] == {"train": 149, "val": 19, "test": 19} and told["vocabulary"] == list("abcdef")
    assert (told["characters_a_label"], told["warned"]) == (1.0, [])
    [spec] = study.specs({"width": 8, "alpha": 0.5, "lr": 0.005}, plain=True, task=str(file))[:1]
    [record] = trained([spec], tmp_path)
    assert record.metrics["val_loss"] < 1.1 * np.log(6)  # random letters


def test_a_form_of_ones_own_runs_as_the_docs_say(tmp_path: Path, digits_cache: Path) -> None:
    """Fused with the built-in one, as an arm of its own, and in the report by its name."""
    [code] = blocks("docs/own-form.md")
    (tmp_path / "my_form.py").write_text(code)
    shutil.copytree(digits_cache, tmp_path / "results" / "teachers")
    assert sweep_here(tmp_path / "my_form.py", tmp_path / "results", trials=4, confirm=1, deterministic=True) == 0
    trials = pd.read_csv(tmp_path / "results" / "my_form" / "trials.csv")
    own = trials[trials["form"] == "confident_kl"]
    assert len(own) == 2 and set(own["status"]) == {"ok"} and (own["kd_ratio_start"] > 0).all()
    assert own["confident_kl.power"].between(0.1, 4).all()
    assert trials.loc[trials["form"] != "confident_kl", "confident_kl.power"].isna().all()
    assert "| confident_kl |" in (tmp_path / "results" / "my_form" / "summary.md").read_text()


def test_the_readme_names_every_form() -> None:
    readme = (ROOT / "README.md").read_text()
    assert all(f"| `{form}` |" in readme for form in LOSSES)


def test_the_readme_tree_names_every_room() -> None:
    readme = (ROOT / "README.md").read_text()
    rooms = {path.name + ("/" if path.is_dir() else "") for path in (ROOT / "harness").iterdir()}
    for room in rooms - {"__init__.py", "__pycache__/"}:
        assert f"  {room} " in readme, room


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(page: str) -> None:
    place = (ROOT / page).parent
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / page).read_text()):
        assert (place / target).exists(), f"{page} links to {target}"


@pytest.mark.parametrize("module", ["harness.sweep", "harness.report", "harness.bench", "harness.verify"])
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_help_teaches_with_examples(
    module: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [module, "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert stop.value.code == 0 and f"python -m {module}" in capsys.readouterr().out
