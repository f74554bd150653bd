"""Modules that write into their inputs, draw from numpy, are edited under a study, are recurrent, or teach."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness import cohort, targets, tasks, teacher
from harness.models import init, module_family
from harness.records import Record
from harness.seeds import generator
from harness.spec import StudentSpec
from harness.study_files import load_study
from harness.tasks import Task, TeacherRecipe, module_teacher, own_task

SHAPE, CLASSES = (6, 4), 3


def data() -> tuple[Tensor, Tensor]:
    noise = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % CLASSES
    return torch.randn(90, 4, generator=noise) + labels[:, None], labels


class InPlace(nn.Module):
    """Shrinks what it is given, and then is linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, CLASSES))

    def forward(self, inputs: Tensor) -> Tensor:
        inputs *= 0.5
        found: Tensor = self.layers(inputs)
        return found


def test_a_module_that_writes_into_its_inputs_is_trained_alone_and_leaves_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, labels = data()
    recipe = TeacherRecipe(module_family("writes", InPlace), width=8, epochs=2, batch_size=16)
    task = own_task(
        "writes", train=(inputs, labels), test=(inputs[::2] + 1, labels[::2]), students=InPlace, teacher=recipe
    )
    before = task.train.inputs.clone(), task.val.inputs.clone()
    (record,) = _trained(task, tmp_path, monkeypatch)
    assert torch.equal(task.train.inputs, before[0]) and torch.equal(task.val.inputs, before[1])
    assert record.status == "ok" and record.cost.cohort_size == 1
    assert task.families["own"].alone is not None
    assert task.families["own"].alone(4, task.train.inputs[:4]) == "it changes its inputs in place"


def _trained(task: Task, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    monkeypatch.setattr(tasks, "TASKS", {task.name: lambda: task})
    tasks.load.cache_clear()
    spec = StudentSpec(task.name, "own", 4, 1, "kl", alpha=0.5, temperature=2.0, epochs=2, batch_size=16)
    targets.prepare([spec], folder / "cache", "cpu", lambda *_: None)
    records = cohort.train([spec], cache=folder / "cache")
    tasks.load.cache_clear()
    return records


def test_a_module_with_batch_norm_and_dropout_is_a_teacher_by_a_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def big(width: int) -> nn.Module:
        return nn.Sequential(
            nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, CLASSES)
        )

    inputs, labels = data()
    family = module_family("big", big)
    recipe = TeacherRecipe(family, width=16, epochs=6, batch_size=16, lr=1e-2)
    task = own_task("taught", train=(inputs, labels), test=(inputs + 1, labels), students=big, teacher=recipe)
    _trained(task, tmp_path, monkeypatch)
    weights = teacher.load_weights(task, tmp_path / "cache")
    module = big(16).eval()
    module.load_state_dict({name: values.to(module.state_dict()[name].dtype) for name, values in weights.items()})
    said = teacher.load_logits(task, tmp_path / "cache").val
    assert torch.allclose(module(task.val.inputs), said, atol=1e-5)
    assert weights["1.running_mean"].abs().sum() > 0
    again = dataclasses.replace(task)
    teacher.ensure(again, tmp_path / "again")
    assert torch.equal(teacher.load_logits(again, tmp_path / "again").val, said)


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_the_sizes_of_recurrent_modules_count_every_step(kind: Callable[..., nn.Module], gates: int) -> None:
    class Net(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.read = kind(4, width, num_layers=2, batch_first=True)
            self.head = nn.Linear(width, CLASSES)

        def forward(self, inputs: Tensor) -> Tensor:
            found: Tensor = self.head(self.read(inputs)[0][:, -1])
            return found

    family = module_family("net", Net)
    by_hand = SHAPE[0] * gates * (4 * 8 + 8 * 8 + 8 * 8 + 8 * 8) + 8 * CLASSES
    assert family.macs(8, SHAPE, CLASSES) == by_hand


def test_what_a_constructor_draws_from_numpy_follows_the_seed_too() -> None:
    def drawn(width: int) -> nn.Module:
        layer = nn.Linear(4, width)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(np.random.normal(size=(width, 4))))  # noqa: NPY002
        return layer

    family, before = module_family("drawn", drawn), np.random.get_state()[1].tolist()  # type: ignore[index] # noqa: NPY002
    first, same, other = (init(family, 3, (4,), 3, generator(seed, "init")) for seed in (1, 1, 2))
    assert torch.equal(first["weight"], same["weight"]) and not torch.equal(first["weight"], other["weight"])
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index] # noqa: NPY002


STUDY = """
from harness.space import Choice, Study

def student(width):
    return width * {factor}

def task():
    return student

STUDY = Study(task=task, family="own", space={{"width": Choice(2, 4)}}, fixed={{"form": "kl"}}, trials={trials})
"""


def test_an_edited_student_is_another_study_and_a_larger_budget_is_not(tmp_path: Path) -> None:
    def identity(factor: int, trials: int) -> object:
        (tmp_path / "mine.py").write_text(STUDY.format(factor=factor, trials=trials))
        return load_study(str(tmp_path / "mine.py"), [])[2].identity()

    assert identity(1, 4) == identity(1, 8)
    assert identity(1, 4) != identity(2, 4)


def test_a_checkpoint_of_another_module_is_found_before_a_study_is_begun(tmp_path: Path) -> None:
    inputs, labels = data()
    torch.save(nn.Linear(4, 5).state_dict(), tmp_path / "five.pt")
    given = module_teacher(lambda: nn.Linear(4, CLASSES), tmp_path / "five.pt")
    task = own_task("lost", train=(inputs, labels), test=(inputs + 1, labels), students=InPlace, teacher=given)
    with pytest.raises(ValueError, match=r"five\.pt is not of this teacher"):
        teacher.try_out(task)
    torch.save(nn.Linear(4, CLASSES).state_dict(), tmp_path / "three.pt")
    right = module_teacher(lambda: nn.Linear(4, CLASSES), tmp_path / "three.pt")
    teacher.try_out(dataclasses.replace(task, teacher=right))
