"""Data that does not fit its networks, and logits that are none: told in one line, with what to do, before a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness import teacher
from harness.executors.worker import describe
from harness.models import MLP, gru
from harness.tasks import TeacherRecipe, logits_teacher, module_teacher
from harness.values import to_json
from tests.owned import RECIPE, clouds, known, noise, spec_of, task_of, why_alone

FLOATS = r"inputs are whole numbers: give x\.astype\('float32'\), and of images x\.astype\('float32'\) / 255$"
SHORT = TeacherRecipe(MLP, width=8, epochs=2, batch_size=16)


def pure(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, 3))


class Scaled(nn.Module):
    """Makes real numbers of whole ones itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.own = pure(width)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.own(inputs / 255)
        return found


def bytes_of(examples: int, seed: int = 0) -> tuple[np.ndarray, Tensor]:
    inputs, labels = clouds(examples, seed)
    return (40 * inputs + 128).clamp(0, 255).numpy().astype(np.uint8), labels


BYTES: dict[str, Any] = {"train": bytes_of(96), "val": bytes_of(40, 1), "test": bytes_of(40, 2)}


def described(task: Any, monkeypatch: pytest.MonkeyPatch, **changed: Any) -> dict[str, Any]:
    known(task, monkeypatch)
    return describe([to_json(spec_of(task, width=width, **changed)) for width in (4, 8)], "cpu")


@pytest.mark.parametrize(
    ("students", "who"),
    [
        (pure, "the student does"),
        ({"own": MLP}, "the student of width 4 does"),
        (Scaled, "the teacher's family 'mlp' does"),
    ],
    ids=["module", "family", "teacher"],
)
def test_bytes_of_images_are_told_to_be_made_real_numbers(
    students: Any, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(students, SHORT, **BYTES)
    with pytest.raises(ValueError, match=rf"^{who} not take inputs \[4, 5\] torch\.int64 \(.*\); {FLOATS}") as caught:
        described(task, monkeypatch)
    assert "\n" not in str(caught.value)


def test_a_given_teacher_of_bytes_is_told_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(pure(4).state_dict(), tmp_path / "big.pt")
    task = task_of(Scaled, module_teacher(lambda: pure(4), tmp_path / "big.pt"), **BYTES)
    with pytest.raises(ValueError, match=rf"^teacher 'big' does not take inputs torch\.int64 \(.*\); {FLOATS}"):
        described(task, monkeypatch)


def test_tokens_that_are_real_numbers_are_told_to_be_made_whole_and_another_error_stays_alone() -> None:
    with pytest.raises(ValueError, match=r"inputs are real numbers: for tokens give x\.astype\('int64'\)$"):
        why_alone(task_of(lambda width: nn.Sequential(nn.Embedding(9, width), nn.Flatten(), nn.Linear(5 * width, 3))))
    with pytest.raises(ValueError, match=r"does not take inputs \[4, 5\] torch\.int64 \(IndexError: [^;]*\)$"):
        why_alone(task_of(lambda width: nn.Sequential(nn.Embedding(9, width), nn.Flatten()), **BYTES))


@pytest.mark.parametrize("students", [pure, {"own": MLP}], ids=["module", "family"])
@pytest.mark.parametrize(
    ("rows", "mend"),
    [
        (torch.eye(3), r"give labels\.argmax\(1\), one an example"),
        (torch.ones(3, 3), "give one an example: multi-label"),
    ],
    ids=["one_hot", "many"],
)
def test_labels_of_several_numbers_an_example_are_told_what_they_may_be(
    rows: Tensor, mend: str, students: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: dict[str, Any] = {"train": clouds(96), "val": clouds(40, 1), "test": clouds(40, 2)}
    parts = {name: (inputs, rows[labels]) for name, (inputs, labels) in parts.items()}
    task = task_of(students, **parts, num_classes=3)
    with pytest.raises(
        ValueError,
        match=r"gives logits \[4, 3\] for 4 examples; mine\d+ needs \[4, 3, 3\]; "
        rf"labels are \[examples, 3\]: {mend}.*; where each position has one, logits must be "
        r"\[batch, positions, classes\]$",
    ):
        described(task, monkeypatch)


def test_a_label_at_each_position_fits_a_network_that_answers_at_each(monkeypatch: pytest.MonkeyPatch) -> None:
    def texts(examples: int, seed: int) -> tuple[Tensor, Tensor]:
        tokens = torch.randint(0, 6, (examples, 8), generator=torch.Generator().manual_seed(seed))
        return tokens[:, :-1], tokens[:, 1:]

    parts: dict[str, Any] = {"train": texts(96, 0), "val": texts(40, 1), "test": texts(40, 2)}
    family = gru(6, pooled=False)
    task = task_of({"own": family}, TeacherRecipe(family, width=8, epochs=1, batch_size=16), **parts, num_classes=6)
    assert described(task, monkeypatch)["num_classes"] == 6


def test_a_batch_that_is_larger_than_the_data_is_told_what_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"train": clouds(48), "val": clouds(40, 1), "test": clouds(40, 2)}
    with pytest.raises(
        ValueError,
        match=r'^batch_size 64 is more than the 48 training examples; write fixed=\{"batch_size": 32\}$',
    ):
        described(task_of(pure, SHORT, **few), monkeypatch, batch_size=64)
    with pytest.raises(
        ValueError, match=r"has batch_size 64, more than the 48 .*; write TeacherRecipe\(\.\.\., batch_size=32\)$"
    ):
        described(task_of(pure, RECIPE, **few), monkeypatch)


class Broken(Scaled):
    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.own(inputs).log()
        return found


def test_a_student_whose_first_logits_are_not_finite_is_refused_as_that() -> None:
    with pytest.raises(
        ValueError, match=r"^the student of width 4 gives logits that are not finite on 4 training examples$"
    ):
        why_alone(task_of(Broken))


def soft(width: int) -> nn.Module:
    return nn.Sequential(pure(width), nn.Softmax(-1))


def test_probabilities_given_as_logits_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(soft(4).state_dict(), tmp_path / "big.pt")
    task = task_of(soft, module_teacher(lambda: soft(4), tmp_path / "big.pt"))
    described(task, monkeypatch)
    mend = "gives what look like probabilities: leave its softmax out, or give its log"
    own = f"students '{task.name}-own' give what look like probabilities: leave their softmax out, or give its log"
    assert list(dict.fromkeys(caplog.messages)) == [own, f"teacher 'big' {mend}"]
    caplog.clear()
    files: dict[str, Any] = {}
    for name, examples in (("train", 96), ("val", 40), ("test", 40)):
        files[name] = tmp_path / f"{name}.npy"
        np.save(files[name], noise(examples, 3).softmax(-1).numpy().round(3))
    logits_teacher(**files)
    assert caplog.messages == [
        f"the rows of {files['train']} look like probabilities: give their logarithm (np.log(p))"
    ]


def test_logits_are_not_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, examples in (("train", 96), ("val", 40), ("test", 40)):
        np.save(tmp_path / f"{name}.npy", noise(examples, 3).log_softmax(-1).numpy())
    files: dict[str, Any] = {name: tmp_path / f"{name}.npy" for name in ("train", "val", "test")}
    given = logits_teacher(**files)
    assert described(task_of(pure, given), monkeypatch)["warned"] == [] == caplog.messages
    teacher.try_out(task_of(pure))
