"""A claim that is put to the test in a second: does a teacher help perceptrons on the digits?"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from studies.literature.claim import Arm, Claim, View
from studies.literature.verdict import Part

if TYPE_CHECKING:
    from harness.tasks import Task


def task(seed: int) -> Task:
    """The digits under a teacher of one epoch."""
    from harness import tasks
    from harness.models import MLP

    return dataclasses.replace(tasks.load("digits"), teacher=tasks.TeacherRecipe(MLP, 8, 1, seed=seed))


CLAIM = Claim(
    name="tiny",
    module="tests.tiny_claim",
    paper="Nobody 2026 (arXiv:0000.00000)",
    says="A teacher helps.",
    setup="The digits.",
    varies="The seed makes all but the splits.",
    doubts=("Two pipelines say nothing.",),
    parts=(
        Part("teacher over plain", "accuracy with a teacher less without", 1.0, "it is a test"),
        Part("and by loss", "the same by the better lr's name", 1.0, "it is a test"),
    ),
    tasks={"task": task},
    arms=(
        Arm("plain", {"form": "ce", "alpha": 1.0, "temperature": None}),
        Arm("taught", {"form": "kl", "alpha": 0.5}),
    ),
    common={"family": "mlp", "width": 4, "epochs": 1, "batch_size": 128},
    tuned={"lr": (1e-3, 1e-2, 1e-1), "temperature": (1.0, 4.0)},
    effects=lambda results: {
        "teacher over plain": results.points("taught", "plain"),
        "and by loss": results.points(results.best(["taught"]), "plain"),
    },
    view=View("how", {"students": {"without": "plain", "with": "taught"}}, {"plain": "plain"}),
    tuning_seeds=1,
    repeats=2,
)
