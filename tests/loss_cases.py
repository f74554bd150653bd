"""How the tests call a loss form: the same logits in every run, each knob as one number for every student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch import Tensor

from harness.forms import Knob
from harness.losses import LOSSES
from tests import by_numpy

Number = float | Tensor
Setting = dict[str, Any]
"""Knobs by name: numbers, or tensors of one a student."""
Logits = tuple[np.ndarray, np.ndarray]
PROGRESS = 0.03
"""A share of training at which neither `dkd` has risen nor `ctkd` ramped to the end, at their default knobs."""


def pair(*shape: int, dtype: torch.dtype = torch.float64, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    """Student and teacher logits, the same in every run."""
    drawn = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * scale
    return drawn[0].to(dtype), drawn[1].to(dtype)


def labels_for(logits: Tensor) -> Tensor:
    """Labels `[..., batch]` that run through the classes."""
    shape = logits.shape[:-1]
    return torch.arange(shape.numel()).view(shape) % logits.shape[-1]


def settings(knobs: Mapping[str, Knob]) -> list[Setting]:
    """Values of a form's knobs: the defaults, and the ends of their ranges, one knob low where the next is high."""
    found: list[Setting] = [{name: knob.default for name, knob in knobs.items()}]
    for turn in (0, 1):
        ends = {name: (knob.low, knob.high)[(i + turn) % 2] for i, (name, knob) in enumerate(knobs.items())}
        found += [ends] if ends else []
    return found


def arguments(
    form: str,
    student: Tensor,
    *,
    labels: Tensor | None = None,
    progress: Number = PROGRESS,
    **changed: Number,
) -> dict[str, Number]:
    """What the form is given beside logits; knobs and learned numbers not in `changed` have their defaults."""
    wide = student.dtype if student.dtype == torch.float64 else torch.float32
    at = LOSSES[form]
    values = {**{name: knob.default for name, knob in at.knobs.items()}, **at.learned, **changed}
    given: dict[str, Number] = {
        name: value if isinstance(value, Tensor) else torch.full(student.shape[:-2], value, dtype=wide)
        for name, value in values.items()
    }
    if "labels" in at.takes:
        given["labels"] = labels_for(student) if labels is None else labels
    if "progress" in at.takes:
        given["progress"] = progress
    return given


def distance(
    form: str,
    student: Tensor,
    teacher: Tensor,
    *,
    labels: Tensor | None = None,
    progress: Number = PROGRESS,
    **changed: Number,
) -> Tensor:
    """The form's value `[...]`."""
    given = arguments(form, student, labels=labels, progress=progress, **changed)
    found = LOSSES[form].function(student, teacher, **given)
    assert isinstance(found, Tensor)
    return found


def gradient(
    form: str,
    student: Tensor,
    teacher: Tensor,
    *,
    labels: Tensor | None = None,
    progress: Number = PROGRESS,
    **changed: Number,
) -> Tensor:
    """The gradient of the form's value to the student's logits, every student's own."""
    leaf = student.clone().requires_grad_()
    value = distance(form, leaf, teacher, labels=labels, progress=progress, **changed)
    (found,) = torch.autograd.grad(value.sum(), leaf)
    return found


def wanted(
    form: str,
    student: Tensor,
    teacher: Tensor,
    *,
    labels: Tensor | None = None,
    progress: Number = PROGRESS,
    **changed: float,
) -> float:
    """The value by numpy in float64, of logits `[batch, classes]`."""
    given = arguments(form, student.double(), labels=labels, progress=progress, **changed)
    plain = {name: of(name, value) for name, value in given.items()}
    return by_numpy.LOGIT_FORMS[form](student.double().numpy(), teacher.double().numpy(), **plain)


def of(name: str, value: Number) -> float | np.ndarray:
    if not isinstance(value, Tensor):
        return value
    return value.numpy() if name == "labels" else value.item()


def rows(*logits: Sequence[float], dtype: torch.dtype = torch.float32) -> Tensor:
    """Logits `[batch, classes]`, written out."""
    return torch.tensor(logits, dtype=dtype)


@st.composite
def logits_pairs(draw: st.DrawFn, low: float = -30, high: float = 30, least: int = 2) -> Logits:
    shape = draw(array_shapes(min_dims=2, max_dims=2, min_side=least, max_side=5))
    drawn = arrays(np.float64, shape, elements=st.floats(low, high))
    return draw(drawn), draw(drawn)


temperatures = st.floats(0.5, 50)

EXTREMES: Mapping[str, tuple[Tensor, Tensor]] = {
    "opposite_and_huge": (rows([1e4, -1e4, 0.0]), rows([-1e4, 1e4, 0.0])),
    "the_student_is_huge": (rows([1e4, 0.0, 0.0]), rows([0.0, 1.0, 2.0])),
    "the_teacher_is_huge": (rows([0.0, 1.0, 2.0]), rows([0.0, 1e4, -1e4])),
    "all_huge_and_near": (rows([1e4, 1e4 + 1, 1e4 + 3]), rows([1e4, 1e4 + 2, 1e4 + 1])),
    "both_huge_and_the_same": (rows([1e4, -1e4, 0.0]), rows([1e4, -1e4, 0.0])),
    "all_tied": (rows([2.0, 2.0, 2.0]), rows([5.0, 5.0, 5.0])),
    "all_tied_and_no_mean_exact": (rows([1234.567] * 10, [0.1] * 10), rows([0.1] * 10, [-1234.567] * 10)),
    "all_zero": (rows([0.0, 0.0, 0.0]), rows([0.0, 0.0, 0.0])),
    "the_student_is_tied": (rows([0.0, 0.0, 0.0]), rows([3.0, 3.0, -1.0])),
    "the_teacher_is_tied": (rows([3.0, 3.0, -1.0]), rows([0.0, 0.0, 0.0])),
    "every_example_the_same": (rows([1.0, 2.0, 4.0], [1.0, 2.0, 4.0]), rows([3.0, 3.0, -1.0], [3.0, 3.0, -1.0])),
    "one_example_huge_and_one_tied": (rows([1e4, -1e4, 0.0], [1.0, 1.0, 1.0]), rows([0.0, 1.0, 2.0], [3.0, 3.0, 3.0])),
}
"""Logits in float32 that overflow, saturate or tie."""
