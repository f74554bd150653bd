"""The losses in closed form are the functions that define them, and their gradients those of autograd."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from harness import losses
from harness.losses import LOSSES, gradients
from harness.losses.gradients import CLOSED, Apart, Softened, by_autograd
from harness.losses.softened import log_softmax, wide
from tests.loss_cases import EXTREMES, Setting, arguments, distance, gradient, pair, settings

FORMS = [form for form, own in LOSSES.items() if gradients.closed(own) is not None]
every_setting = pytest.mark.parametrize(
    ("form", "setting"),
    [pytest.param(form, at, id=f"{form}-{i}") for form in FORMS for i, at in enumerate(settings(LOSSES[form].knobs))],
)


def in_closed_form(form: str, student: Tensor, teacher: Tensor, **changed: Any) -> tuple[Tensor, Tensor]:
    closed, given = gradients.closed(LOSSES[form]), arguments(form, student, **changed)
    assert closed is not None
    at: Softened | Apart = Apart.of(student, teacher)
    if closed.base is Softened:
        at = Softened.of(log_softmax(wide(student)), teacher, torch.as_tensor(given["temperature"]))
    value, slope, factor = closed.function(at, **{name: given[name] for name in closed.knobs})
    return value, slope * (factor[..., None, None] if isinstance(factor, Tensor) else factor)


def error(found: Tensor, exact: Tensor) -> float:
    """Relative to the largest number."""
    assert found.shape == exact.shape
    return (found - exact).abs().max().item() / max(exact.abs().max().item(), 1e-30)


def test_every_closed_form_stands_for_a_form() -> None:
    assert {LOSSES[form].function for form in FORMS} == set(CLOSED)


@every_setting
@pytest.mark.parametrize("scale", [0.01, 2.0])
def test_a_closed_form_is_its_form_and_the_gradient_is_autograds(form: str, setting: Setting, scale: float) -> None:
    """In float64; in float32 its error is of autograd's size, which small logits at a high temperature make large."""
    student, teacher = pair(3, 12, 10, scale=scale)
    exact = distance(form, student, teacher, **setting), gradient(form, student, teacher, **setting)
    assert all(
        error(a, b) < 1e-12 for a, b in zip(in_closed_form(form, student, teacher, **setting), exact, strict=True)
    )
    single = student.float(), teacher.float()
    exact = (
        distance(form, single[0].double(), single[1].double(), **setting),
        gradient(form, *map(Tensor.double, single), **setting),
    )
    usual = distance(form, *single, **setting), gradient(form, *single, **setting)
    found = in_closed_form(form, *single, **setting)
    assert all(error(a, b) < 3 * error(c, b) + 5e-7 for a, b, c in zip(found, exact, usual, strict=True))
    assert torch.equal(single[0], student.float()) and torch.equal(single[1], teacher.float())  # nothing is written to


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", EXTREMES)
def test_a_closed_form_is_right_and_finite_at_the_extremes_in_float32(form: str, case: str) -> None:
    student, teacher = EXTREMES[case]
    for setting in settings(LOSSES[form].knobs):
        value, grad = in_closed_form(form, student, teacher, **setting)
        wanted = gradient(form, student.double(), teacher.double(), **setting)
        assert value.item() == pytest.approx(distance(form, student, teacher, **setting).item(), rel=1e-5, abs=1e-30)
        assert (grad - wanted).abs().max().item() <= 1e-5 * max(wanted.abs().max().item(), 1e-3), setting


@pytest.mark.parametrize("form", FORMS)
def test_students_who_see_the_same_share_a_teachers_answers(form: str) -> None:
    student, teacher = pair(6, 12, 10)
    own = {
        name: torch.linspace(knob.low, knob.high, 6, dtype=torch.float64) for name, knob in LOSSES[form].knobs.items()
    }
    shared = {name: knob.view(2, 3) for name, knob in own.items()}
    value, grad = in_closed_form(form, student.view(2, 3, 12, 10), teacher[[0, 3]][:, None], **shared)
    one_each = in_closed_form(form, student, teacher[[0, 0, 0, 3, 3, 3]], **own)
    assert torch.equal(value.flatten(), one_each[0])
    assert torch.equal(grad.flatten(0, 1), one_each[1])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 5e-7)])
@pytest.mark.parametrize("smoothing", [None, (0.0, 0.1, 0.5)])
def test_cross_entropy_in_closed_form(
    smoothing: tuple[float, ...] | None, dtype: torch.dtype, tolerance: float
) -> None:
    student, _ = pair(3, 12, 10, dtype=dtype)
    labels = torch.arange(12) % 10
    share = None if smoothing is None else torch.tensor(smoothing, dtype=dtype)
    leaf = student.clone().requires_grad_()
    wanted = losses.cross_entropy(leaf, labels.expand(3, 12), share)
    value, slope, factor = gradients.cross_entropy(log_softmax(student), labels[None], share)
    grad = slope * factor
    assert error(value, wanted.detach()) < tolerance
    assert error(grad, torch.autograd.grad(wanted.sum(), leaf)[0]) < tolerance


def test_cross_entropy_of_a_class_that_cannot_be() -> None:
    """A user's module may mask a class: it costs nothing where it is not the label, and everything where it is."""
    student = torch.tensor([[[0.0, 1.0, -math.inf]], [[0.0, 1.0, -math.inf]]])
    value, grad, _ = gradients.cross_entropy(log_softmax(student), torch.tensor([[0], [2]]))
    assert value[0].item() == pytest.approx(math.log(1 + math.e)) and value[1].item() == math.inf
    assert torch.isfinite(grad).all() and not grad[0, 0, 2]


def test_by_autograd_a_value_that_does_not_depend_on_something_has_no_gradient_there() -> None:
    student, teacher = pair(3, 12, 10)
    form = losses.Form(lambda _, teacher, shift: (teacher + shift[:, None, None]).square().mean((-1, -2)))
    shift = torch.arange(3.0, dtype=torch.float64).requires_grad_()
    found = by_autograd(form, student, teacher, {}, {"shift": shift})
    assert not found.grad.any() and not found.value.requires_grad
    assert torch.allclose(found.learned[0], 2 * (teacher.mean((-1, -2)) + shift.detach()))


def test_a_form_that_learns_one_of_its_knobs_is_differentiated_by_autograd() -> None:
    own = losses.Form(LOSSES["kl"].function, learned={"temperature": 2.0})
    assert gradients.closed(own) is None and gradients.closed(losses.Form(LOSSES["kl"].function)) is not None


def test_by_autograd_a_form_that_says_nothing_at_a_moment_has_no_gradient_then() -> None:
    student, teacher = pair(3, 12, 10)
    form = losses.Form(lambda student, _, shift, progress: torch.zeros(len(student)) * progress)  # noqa: ARG005
    shift = torch.ones(3).requires_grad_()
    found = by_autograd(form, student, teacher, {"progress": 0.1}, {"shift": shift})
    assert found.grad.shape == student.shape and not found.grad.any()
    assert [number.shape for number in found.learned] == [shift.shape] and not found.learned[0].any()


def test_a_form_may_be_anything_that_can_be_called() -> None:
    @dataclass
    class Own:
        power: float = 2.0

        def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
            return (student - teacher).abs().pow(self.power).mean((-1, -2))

    assert gradients.closed(losses.Form(Own())) is None
