"""The 1,797 8x8 digits inside scikit-learn, for smoke tests: the test split is small, so its intervals are wide."""

from __future__ import annotations

import numpy as np

from harness.models import CNN, CONV, MLP, RESIDUAL
from harness.tasks.packaged import table
from harness.tasks.task import Task, TeacherRecipe, image_task

SHA256 = "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8"


def load() -> Task:
    """The task. Raises `ValueError` in one line when the data is not there or is not what it should be."""
    rows = table("sklearn", "datasets/data/digits.csv.gz", SHA256, columns=65)
    return image_task(
        name="digits",
        source="1,797 handwritten digits shipped in scikit-learn (BSD-3)",
        images=rows[:, :-1].astype(np.uint8).reshape(-1, 8, 8),
        labels=rows[:, -1],
        families={"cnn": CNN, "mlp": MLP, **RESIDUAL},
        teacher=TeacherRecipe(CONV, width=16, epochs=15, batch_size=32, lr=1e-2),
    )
