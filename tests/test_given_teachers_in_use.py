"""A teacher that was given, in a study: its cache, what cannot be asked of it, and when the test split is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from harness import cohort, teacher
from harness.cohort.data import load_data
from harness.models import MLP
from harness.tasks import GivenTeacher, logits_teacher, module_teacher
from tests.owned import clouds, known, noise, spec_of, task_of, trained

IDS = {"train": np.arange(96), "val": np.arange(40), "test": np.arange(40)}


def linear() -> nn.Module:
    return nn.Linear(5, 3)


def pure(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, 3))


def checkpoint(path: Path, seed: int) -> Path:
    save_file({"weight": noise(3, 5, seed=seed), "bias": noise(3, seed=seed)}, path)
    return path


def test_another_checkpoint_is_another_teacher(tmp_path: Path) -> None:
    """A task of the same name and data, in another session: the cached logits are not taken for its own."""
    said = []
    for seed in (1, 2, 1):
        path = checkpoint(tmp_path / "big.safetensors", seed)
        task = task_of(pure, module_teacher(linear, path))
        object.__setattr__(task, "name", "same")
        teacher.ensure(task, tmp_path / "cache")
        said.append(teacher.load_logits(task, tmp_path / "cache").train)
    assert torch.equal(said[0], said[2]) and not torch.equal(said[0], said[1])
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize("what", ["logits", "ids_beside", "ids_given"])
def test_other_logits_and_other_ids_are_another_teacher(what: str, tmp_path: Path) -> None:
    def key(turn: int) -> str:
        order = np.roll(np.arange(96), turn)
        for name, count in (("train", 96), ("val", 40), ("test", 40)):
            np.save(tmp_path / f"{name}.npy", noise(count, 3, seed=turn if what == "logits" else 0).numpy())
            np.save(tmp_path / f"{name}.ids.npy", order[order < count] if what == "ids_beside" else np.arange(count))
        ids = {**IDS, "train": order} if what == "ids_given" else IDS
        train, val, test = (tmp_path / f"{name}.npy" for name in ("train", "val", "test"))
        return logits_teacher(train=train, val=val, test=test, ids=ids).key()

    assert key(0) == key(0) != key(1)


def test_cached_logits_that_are_not_as_they_were_written_are_made_anew(tmp_path: Path) -> None:
    task = task_of(pure, module_teacher(linear, checkpoint(tmp_path / "big.safetensors", 1)))
    teacher.ensure(task, tmp_path / "cache")
    place = teacher.folder(task, tmp_path / "cache") / "logits.safetensors"
    found, raw = teacher.load_logits(task, tmp_path / "cache"), place.read_bytes()
    train, val = found.train.clone(), found.val.clone()  # they are read where they stand in the file
    place.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    teacher.load_logits.cache_clear()
    teacher.ensure(task, tmp_path / "cache")
    again = teacher.load_logits(task, tmp_path / "cache")
    assert torch.equal(again.train, train) and torch.equal(again.val, val)
    assert list(place.parent.glob("aside-*"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"teacher": "online"}, "teacher 'online' is trained beside the student; "),
        ({"teacher_width": 8}, "teacher_width 8 and teacher_epochs 0: "),
        ({"teacher_epochs": 1}, "teacher_width 0 and teacher_epochs 1: "),
    ],
    ids=["online", "width", "epochs"],
)
def test_what_needs_a_recipe_is_refused_in_one_line(
    changed: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = module_teacher(linear, checkpoint(tmp_path / "big.safetensors", 1))
    task = known(task_of(pure, given), monkeypatch)
    with pytest.raises(ValueError, match=f"^{message}{task.name} has a teacher that is given, 'big'$"):
        cohort.check(spec_of(task, **changed))


def test_features_of_a_given_teacher_are_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = module_teacher(linear, checkpoint(tmp_path / "big.safetensors", 1))
    task = known(task_of({"own": MLP}, given), monkeypatch)
    with pytest.raises(ValueError, match=r"^feature '\w+' compares the teacher's inner layers; .* is given, 'big'$"):
        cohort.check(spec_of(task, feature="hint"))


@pytest.mark.parametrize("kind", ["self", "assistant", "uniform", "shuffled", "shuffled_in_class"])
def test_teachers_that_need_no_recipe_teach_beside_a_given_one(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = module_teacher(linear, checkpoint(tmp_path / "big.safetensors", 1))
    task = known(task_of(pure, given), monkeypatch)
    chain = {"assistants": "6>5"} if kind == "assistant" else {}
    trained([spec_of(task, teacher=kind, **chain)], tmp_path / "cache")


def test_the_test_split_is_asked_about_in_the_confirm_stage_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def answer(split: str, inputs: torch.Tensor) -> torch.Tensor:
        asked.append(split)
        return noise(len(inputs), 3)

    task = known(task_of(pure, GivenTeacher("mine", lambda: "key", answer)), monkeypatch)
    spec = spec_of(task)
    trained([spec], tmp_path)
    assert sorted(asked) == ["train", "val"]
    (records, states), *_ = cohort.train_each(
        [spec], cache=tmp_path, device="cpu", until=None, states={}, stage="confirm"
    )
    assert asked[2:] == ["test"] and states
    right = (noise(40, 3).argmax(1) == clouds(40, 2)[1]).double().mean().item()
    assert records[0].metrics["test_teacher_accuracy"] == pytest.approx(right)
    assert torch.equal(load_data(spec, tmp_path, "cpu", "confirm").teacher["test"], noise(40, 3).double())
