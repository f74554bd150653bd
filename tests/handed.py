"""Small tasks, and students of any family that have learnt something, to be handed out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from harness import teaching
from harness.export import Student
from harness.models import Family
from harness.tasks import LockedSplit, Scale, Split, Task, TeacherRecipe

EVIDENCE: Mapping[str, Any] = {
    "study": "small",
    "question": "how small a student does it take?",
    "trial": 12,
    "knobs": {"form": "kl", "alpha": 0.25, "temperature": 4.0},
    "test_accuracy": {"value": 0.9412, "low": 0.93, "high": 0.951, "level": 0.95},
    "seeds": [101, 102, 103],
    "gain_over_control": {"value": 0.012, "low": 0.004, "high": 0.02, "level": 0.95},
    "p_best": 0.83,
    "expected_regret": 0.0007,
    "runner_up": {"trial": 7, "width": 8},
    "cost": {"seconds": 12.5},
}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made_task(family: Family, shape: tuple[int, ...], inputs: Tensor | None = None, classes: int = 3) -> Task:
    """Sixty examples of so many classes, each about a mean of its own; or these inputs, in turns of every class."""
    labels = torch.arange(60) % classes
    inputs = noise(classes, *shape)[labels] + noise(60, *shape, seed=1) if inputs is None else inputs
    parts = [Split(inputs[start::3].contiguous(), labels[start::3].contiguous()) for start in range(3)]
    return Task(
        name="clouds",
        source="made up",
        num_classes=classes,
        train=parts[0],
        val=parts[1],
        test=LockedSplit(parts[2]),
        families={family.name: family},
        teacher=TeacherRecipe(family, width=4, epochs=1),
        scale=Scale(0.5, 2.0),
    )


def trained(task: Task, family: Family, width: int = 3, seed: int = 0) -> Student:
    """A student of the task after a few steps of plain training."""
    recipe = TeacherRecipe(family, width, epochs=1, lr=1e-2)
    training = teaching.Training(task, recipe, torch.Generator().manual_seed(seed), num_steps=12, device="cpu")
    for _ in range(12):
        training.step(task.train.inputs, task.train.labels)
    params = {name: values.detach() for name, values in training.params.items()}
    return Student(task, family, width, params, EVIDENCE)
