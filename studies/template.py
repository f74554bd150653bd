"""Copy this file, put in your student, your arrays and your teacher, and run: python -m harness.sweep my_study.py"""

from typing import Any

from harness.space import TEMPERATURE_FORMS, Choice, Float, Study


def task() -> Any:  # its imports are inside: the driver reads this file too, and does without torch
    import numpy as np
    from torch import nn

    from harness.models import MLP
    from harness.tasks import TeacherRecipe, own_task

    def student(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(20, width), nn.ReLU(), nn.Linear(width, 6))

    rng = np.random.default_rng(0)
    cloud = rng.integers(0, 24, 2400)  # four clouds a class
    inputs = rng.normal(size=(24, 20))[cloud] + 0.7 * rng.normal(size=(2400, 20))  # yours: an example a row
    labels = cloud % 6  # yours: whole numbers from 0
    train, test = (inputs[:1800], labels[:1800]), (inputs[1800:], labels[1800:])  # val is held out of train
    teacher = TeacherRecipe(MLP, width=256, epochs=20)  # or module_teacher(MyTeacher, "teacher.safetensors")
    return own_task("mine", train=train, test=test, students=student, teacher=teacher)


STUDY = Study(
    task=task,
    family="own",
    space={
        "width": Choice(2, 4, 8),
        "form": Choice("kl", "mse"),
        "alpha": Float(0.0, 1.0),
        "temperature": Float(1.0, 20.0, log=True, when={"form": TEMPERATURE_FORMS}),
        "lr": Float(1e-3, 1e-1, log=True),
    },
    fixed={"epochs": 20},
    trials=24,
)
