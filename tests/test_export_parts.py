"""What an export is made of: the comparison, the folder put in place, the words of the card."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harness import export
from harness.export import formats
from harness.export.card import card, said
from harness.export.compare import Difference, answers, compare
from harness.export.place import whole_folder
from harness.models import MLP
from tests.handed import EVIDENCE, made_task, trained

STUDENT = trained(made_task(MLP, (4,)), MLP)
FOUND = {"model.safetensors": Difference(0.0, 0.0, 20), "model.onnx": Difference(3.3e-7, 1.5e-7, 20, 1)}


def test_a_difference_is_held_against_the_examples_largest_logit() -> None:
    wanted = torch.tensor([[100.0, 0.0], [0.5, 0.25]])
    found = compare("it", wanted + torch.tensor([[0.0, 5e-4], [4e-6, 0.0]]), wanted)
    assert found.absolute == pytest.approx(5e-4) and found.relative == pytest.approx(5e-6) and found.ties == 0
    with pytest.raises(ValueError, match=r"it is not the student: logits differ by up to 5e-05"):
        compare("it", wanted + torch.tensor([[0.0, 0.0], [5e-5, 0.0]]), wanted)


def test_what_is_no_number_is_a_difference() -> None:
    with pytest.raises(ValueError, match="is not the student"):
        compare("it", torch.tensor([[float("nan"), 1.0]]), torch.tensor([[0.0, 1.0]]))


def test_another_answer_is_borne_only_in_a_tie() -> None:
    wanted = torch.tensor([[1.0, 1.0 - 4e-6], [1.0, 0.0]])
    assert compare("it", torch.tensor([[1.0 - 4e-6, 1.0], [1.0, 0.0]]), wanted).ties == 1
    with pytest.raises(ValueError, match="it is not the student"):
        compare("it", wanted.flip(-1), wanted)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"it gives logits \[2, 3\], the student \[2, 4\]"):
        compare("it", torch.zeros(2, 3), torch.zeros(2, 4))


def test_examples_are_run_in_batches_of_several_sizes() -> None:
    sizes = []

    def run(inputs: torch.Tensor) -> torch.Tensor:
        sizes.append(len(inputs))
        return inputs

    assert torch.equal(answers(run, torch.arange(10)), torch.arange(10)) and sizes == [1, 3, 6]
    sizes.clear()
    assert len(answers(run, torch.arange(2))) == 2 and sizes == [2]


def put(folder: Path, text: str, *, fail: bool = False) -> None:
    with whole_folder(folder, ("a.json", "b"), "a.json", "kind") as fresh:
        (fresh / "a.json").write_text('{"format": "kind"}')
        (fresh / "b").write_text(text)
        if fail:
            raise KeyError("stopped")


def test_a_folder_is_put_in_place_whole_and_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "down"
    with pytest.raises(KeyError):
        put(folder, "first", fail=True)
    assert list(folder.parent.iterdir()) == []
    put(folder, "first")
    with pytest.raises(KeyError):
        put(folder, "second", fail=True)
    assert (folder / "b").read_text() == "first"
    put(folder, "second")
    assert (folder / "b").read_text() == "second" and list(folder.parent.iterdir()) == [folder]


def test_the_old_folder_comes_back_where_the_new_one_cannot_be_put(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "it", "first")
    rename = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if path.suffix == ".tmp":
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="No space left"):
        put(tmp_path / "it", "second")
    assert (tmp_path / "it" / "b").read_text() == "first" and list(tmp_path.iterdir()) == [tmp_path / "it"]


def test_a_folder_of_anything_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    put(tmp_path / "empty", "may be")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "b").write_text("mine")
    put(tmp_path / "beside", "first")
    (tmp_path / "beside" / "notes").write_text("mine")
    for name, message in (
        ("file", "is no folder"),
        ("mine", "is not empty and not an exported student"),
        ("beside", "holds 'notes' beside an exported student"),
    ):
        with pytest.raises(ValueError, match=f"{name} {message}.*; give another.*"):
            put(tmp_path / name, "second")
    assert (tmp_path / "mine" / "b").read_text() == "mine" and (tmp_path / "beside" / "b").read_text() == "first"


def test_the_folder_that_one_stands_in_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    for folder in (Path(), tmp_path):
        with pytest.raises(ValueError, match="is where this runs"):
            put(folder, "first")


def test_an_export_replaces_an_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "PACKAGES", ("no_such_package",))
    export.write(STUDENT, tmp_path / "out")
    other = trained(made_task(MLP, (4,)), MLP, width=5)
    export.write(other, tmp_path / "out")
    assert export.read_architecture(tmp_path / "out")["width"] == 5
    shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "not given"),
        (float("nan"), "not given"),
        (0.123456789, "0.123457"),
        ({"value": 0.94, "low": 0.93, "high": 0.95}, "0.94 (95% interval 0.93 to 0.95)"),
        ({"trial": 7, "width": 8}, "trial 7; width 8"),
        ([1, 2], "1, 2"),
        ([], "none"),
        ("a|b\n<script>", "a\\|b &lt;script>"),
    ],
)
def test_evidence_is_said_on_one_line(value: object, words: str) -> None:
    assert said(value) == words


def test_the_card_has_every_piece_of_evidence_the_differences_and_the_usual_headings() -> None:
    text = card(replace(STUDENT, evidence={**EVIDENCE, "colour": "green"}), FOUND, ["model.pt2 is not written: why"])
    headings = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert headings == [
        "Model details", "Intended use", "Factors", "Metrics", "Evaluation data", "Training data",
        "Quantitative analyses", "Ethical considerations", "Caveats and recommendations", "How to load",
    ]  # fmt: skip
    for piece in (
        "how small a student does it take?", "| trial | 12 |", "| alpha | 0.25 |", "| colour | green |",
        "| test accuracy, mean over seeds | 0.9412 (95% interval 0.93 to 0.951) |", "| seeds | 101, 102, 103 |",
        "| P(best) | 0.83 |",
        "| gain over plain training | 0.012 (95% interval 0.004 to 0.02) |", "| expected regret | 0.0007 |",
        "| runner-up | trial 7; width 8 |", "| cost | seconds 12.5 |", f"SHA-256 {STUDENT.task.test.hash}",
        "| `model.onnx` | 20 | 3.3e-07 | 1.5e-07 | 1 |", "model.pt2 is not written: why.",
        "subtract 0.5 from raw ones and divide by 2.0",
    ):  # fmt: skip
        assert piece in text, piece
    assert "not given" not in text.replace("| teacher | not given |", "")


def test_the_card_names_the_classes_where_they_have_names() -> None:
    assert "their names" not in card(STUDENT, FOUND, [])
    for names, told in (
        (("cat", "dog|fox"), "cat, dog\\|fox |"),
        (tuple(map(str, range(120))), "99 and 20 more; arch"),
    ):
        task = replace(STUDENT.task, train=replace(STUDENT.task.train, classes=names))
        text = card(replace(STUDENT, task=task), FOUND, [])
        assert "| their names, from 0 | " in text and told in text


def test_the_card_says_what_is_not_known() -> None:
    text = card(replace(STUDENT, evidence={}), FOUND, [])
    assert "| test accuracy, mean over seeds | not given |" in text and "The study asked: not given." in text


def test_the_card_tells_of_bfloat16() -> None:
    text = card(replace(STUDENT, evidence={"knobs": {"dtype": "bfloat16"}}), FOUND, [])
    assert "these files compute in float32" in text


def test_a_place_where_nothing_can_be_made_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (Path("/proc/foo"), Path("/proc/foo/bar"), tmp_path / "file" / "student"):
        line = r"^cannot write to .* \([A-Z].*\); give another folder$"
        with pytest.raises(ValueError, match=line), whole_folder(place, (), "said.json", "kind"):
            pass


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        ({"knobs": {"form": "kl"}, "trained_as": "distilled"}, "trained by knowledge distillation and chosen"),
        ({"knobs": {"form": "ce", "label_smoothing": 0.0}, "trained_as": "ce"}, "by plain cross-entropy, without a"),
        (
            {"knobs": {"form": "ce", "label_smoothing": 0.1}, "trained_as": "smoothing"},
            "with label smoothing, without a",
        ),
        ({"knobs": {"form": "kl"}, "trained_as": "self"}, "distillation from a student of its own width"),
    ],
)
def test_the_card_says_how_the_student_was_trained(evidence: dict[str, object], words: str) -> None:
    assert words in card(replace(STUDENT, evidence=evidence), FOUND, [])
