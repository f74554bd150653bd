"""Tasks of the harness with a teacher that trains in seconds, and whose first weights and batches come from a seed."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.tasks import Task


def mnist1d(seed: int, *, width: int = 16, epochs: int = 20) -> Task:
    """MNIST-1D under a convolutional teacher, which reaches about 94% on val by default."""
    from harness import tasks
    from harness.models import CONV1D

    recipe = tasks.TeacherRecipe(CONV1D, width, epochs, lr=1e-2, seed=seed)
    return dataclasses.replace(tasks.load("mnist1d"), teacher=recipe)


def mnist5k(seed: int, *, width: int = 256, label_smoothing: float = 0.0) -> Task:
    """5,000 MNIST digits under a perceptron of two hidden layers, taught on jittered images: about 95% on val."""
    from harness import tasks
    from harness.models import MLP

    recipe = tasks.TeacherRecipe(MLP, width, epochs=10, shift=1, seed=seed, label_smoothing=label_smoothing)
    return dataclasses.replace(tasks.load("mnist5k"), teacher=recipe)
