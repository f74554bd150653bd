"""The contract of every task: its teacher is better on validation than the widest student that is trained without it.

Minutes of training, so with `HARNESS_LONG` alone (`make torture`). The digits' teacher is tested in `test_teacher`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness import cohort, tasks, teacher
from harness.spec import PLAIN, StudentSpec

LRS = (3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
WIDEST = {
    "mnist5k": ("cnn", 8, 12),
    "mnist1d": ("cnn1d", 8, 30),
    "fashion_mnist10k": ("cnn", 8, 8),
    "newsgroups": ("bag", 16, 5),
    "reuters8": ("bag", 16, 8),
    "snippets": ("bag", 8, 8),
    "pydoc_chars": ("gru", 32, 3),
}
"""Family, width and epochs of the widest students that the studies have."""


@pytest.mark.skipif("HARNESS_LONG" not in os.environ, reason="takes minutes; make torture runs it")
@pytest.mark.parametrize("name", WIDEST)
def test_a_teacher_is_better_than_the_widest_student(name: str, tmp_path: Path) -> None:
    try:
        task = tasks.load(name)
    except ValueError as missing:
        pytest.skip(str(missing))
    family, width, epochs = WIDEST[name]
    own = teacher.ensure(task, tmp_path)
    students = [
        StudentSpec(name, family, width, 1, PLAIN, alpha=1.0, lr=lr, weight_decay=0.1, epochs=epochs) for lr in LRS
    ]
    best = max(record.metrics["val_accuracy"] for record in cohort.train(students, cache=tmp_path))
    assert own["val_accuracy"] > best
