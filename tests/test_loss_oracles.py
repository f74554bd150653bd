"""What holds between the loss forms: identities, bounds, invariances and limits, and the bugs seen in public code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import losses
from harness.losses import LOSSES
from tests import by_numpy
from tests.loss_cases import Logits, distance, gradient, labels_for, logits_pairs, pair, rows, temperatures, wanted

TEMPERED = [form for form in LOSSES if "temperature" in LOSSES[form].knobs]
GROWS = {"tvd": 1, "dist": 2}
"""The power of the temperature that the gradient grows with at a high one, where T^2 is more than makes up for it."""
STEEP = ("dist", "logit_standard")
"""The forms that divide by a spread: they jump where a row is all ties, so no property of theirs holds there."""


# Identities.


@given(logits_pairs())
def test_squared_norm_is_mse_times_the_number_of_classes(logits: Logits) -> None:
    student, teacher = map(torch.from_numpy, logits)
    expected = student.shape[-1] * distance("mse", student, teacher).item()
    assert distance("squared_norm", student, teacher).item() == pytest.approx(expected, rel=1e-12)


@given(logits_pairs(), temperatures)
def test_soft_ce_exceeds_kl_by_the_teachers_entropy(logits: Logits, temperature: float) -> None:
    student, teacher = map(torch.from_numpy, logits)
    log_p = by_numpy.log_softmax(logits[1], temperature)
    entropy = temperature**2 * -(np.exp(log_p) * log_p).sum(-1).mean()
    soft = distance("soft_ce", student, teacher, temperature=temperature).item()
    apart = soft - distance("kl", student, teacher, temperature=temperature).item()
    assert apart == pytest.approx(entropy, rel=1e-9, abs=1e-9)


def test_soft_ce_and_kl_have_the_same_gradient() -> None:
    student, teacher = pair(6, 10)
    at = [gradient(form, student, teacher, temperature=4.0) for form in ("soft_ce", "kl")]
    assert torch.allclose(at[0], at[1], rtol=1e-12, atol=1e-14)


@given(logits_pairs(), temperatures)
def test_kl_is_the_target_part_and_the_rest_as_the_teacher_doubts_the_label(logits: Logits, temperature: float) -> None:
    """T^2 KL = TCKD + (1 - p_y) NCKD, example by example: with one weight for the batch no `dkd` is a `kl`."""
    for one in range(len(logits[0])):
        student, teacher = (torch.from_numpy(rows[one : one + 1]) for rows in logits)
        label = torch.tensor([one % student.shape[-1]])
        parts = [
            distance(
                "dkd", student, teacher, labels=label, progress=1.0, temperature=temperature, target=a, rest=1.0 - a
            )
            for a in (1.0, 0.0)
        ]
        doubt = 1 - (teacher / temperature).softmax(-1)[0, label].item()
        expected = distance("kl", student, teacher, temperature=temperature).item()
        assert parts[0].item() + doubt * parts[1].item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_dkd_of_two_classes_has_no_rest() -> None:
    student, teacher = pair(6, 2)
    label = torch.tensor([0, 1, 0, 1, 1, 0])
    rest = distance("dkd", student, teacher, labels=label, progress=1.0, target=0.0)
    assert rest.item() == pytest.approx(0, abs=1e-12)
    target = distance("dkd", student, teacher, labels=label, progress=1.0, temperature=4.0, target=1.0)
    assert target.item() == pytest.approx(distance("kl", student, teacher, temperature=4.0).item(), rel=1e-9)


def test_dkd_rises_in_a_line_over_its_warmup() -> None:
    student, teacher = pair(6, 10)
    whole = distance("dkd", student, teacher, progress=1.0, warmup=0.2).item()
    at = [distance("dkd", student, teacher, progress=x, warmup=0.2).item() / whole for x in (0.0, 0.05, 0.1, 0.2, 0.6)]
    assert at == pytest.approx([0, 0.25, 0.5, 1, 1], rel=1e-12)
    without = [distance("dkd", student, teacher, progress=x, warmup=0.0).item() for x in (0.0, 0.5)]
    assert without == pytest.approx([whole, whole], rel=1e-12)


def test_nkd_of_a_student_that_equals_its_teacher_asks_only_for_more_of_the_label() -> None:
    """The gradient is that of -p_y log q_y alone: p_y (q - onehot), over the batch."""
    student, _ = pair(6, 10)
    label = labels_for(student)
    probs, target = student.softmax(-1), F.one_hot(label, 10)
    expected = (probs * target).sum(-1, keepdim=True) * (probs - target) / 6
    for temperature in (1.0, 4.0):
        found = gradient("nkd", student, student, labels=label, temperature=temperature)
        assert torch.allclose(found, expected, rtol=1e-10, atol=1e-14)


def test_the_weight_of_wsld_has_no_gradient() -> None:
    """So the student is not pushed to raise its own weight: the gradient is T w (q - p), over the batch."""
    student, teacher = pair(6, 10)
    label = labels_for(student)
    weight = torch.from_numpy(by_numpy.softness(student.numpy(), teacher.numpy(), label.numpy()))
    for temperature in (1.0, 4.0):
        apart = (student / temperature).softmax(-1) - (teacher / temperature).softmax(-1)
        found = gradient("wsld", student, teacher, labels=label, temperature=temperature)
        assert torch.allclose(found, temperature * weight[:, None] * apart / 6, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("gap", [10.0, 14.0, 18.0, 30.0])
def test_wsld_in_float32_still_tells_how_sure_a_sure_student_is(gap: float) -> None:
    """`log_softmax` rounds a cross-entropy of 1e-7 to nothing, or to twice it, and the weight is a ratio of two."""
    student, teacher = rows([gap - 0.5, 0, 1]), rows([gap, 1, 0])
    expected = wanted("wsld", student, teacher, labels=torch.tensor([0]))
    assert distance("wsld", student, teacher, labels=torch.tensor([0])).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.0), (0.05, 0.25), (0.1, 0.5), (0.2, 1.0), (0.7, 1.0)])
def test_ctkd_reverses_the_gradient_of_its_temperature_as_training_goes_on(progress: float, share: float) -> None:
    """By half a cosine over the ramp, from 0 to -1: a third of the way (in angle) is a quarter of the way down."""
    student, teacher = pair(6, 10)
    part = progress if progress != 0.05 else 0.2 / 3
    theta = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(distance("ctkd", student, teacher, progress=part, ramp=0.2, theta=theta), theta)
    step = 1e-5
    above, below = (distance("ctkd", student, teacher, theta=0.3 + sign * step).item() for sign in (1, -1))
    assert found.item() == pytest.approx(-share * (above - below) / (2 * step), rel=1e-6, abs=1e-12)


def test_ctkd_gives_each_student_the_gradient_of_its_own_temperature() -> None:
    student, teacher = pair(3, 6, 10)
    theta = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64, requires_grad=True)
    (together,) = torch.autograd.grad(distance("ctkd", student, teacher, theta=theta).sum(), theta)
    for i in range(3):
        own = theta.detach()[i].requires_grad_()
        (alone,) = torch.autograd.grad(distance("ctkd", student[i], teacher[i], theta=own), own)
        assert together[i].item() == pytest.approx(alone.item(), rel=1e-12)
        assert alone.item() != 0


def test_ctkds_reversal_leaves_the_students_gradient_alone() -> None:
    student, teacher = pair(6, 10)
    expected = gradient("kl", student, teacher, temperature=1 + 20 / (1 + math.exp(-1)))
    for progress in (0.0, 0.02, 1.0):
        found = gradient("ctkd", student, teacher, progress=progress)
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-14)


# Bounds and symmetries.


@pytest.mark.parametrize("form", ["kl", "reverse_kl", "js"])
@given(logits=logits_pairs(), temperature=temperatures)
def test_a_divergence_is_never_negative(form: str, logits: Logits, temperature: float) -> None:
    student, teacher = map(torch.from_numpy, logits)
    assert distance(form, student, teacher, temperature=temperature).item() >= -1e-13 * temperature**2


@given(logits_pairs(), temperatures)
def test_js_is_symmetric_gjsd_at_a_half_and_at_most_log_2(logits: Logits, temperature: float) -> None:
    student, teacher = map(torch.from_numpy, logits)
    found = distance("js", student, teacher, temperature=temperature).item()
    for other in (
        distance("js", teacher, student, temperature=temperature),
        distance("gjsd", student, teacher, temperature=temperature, beta=0.5),
    ):
        assert other.item() == pytest.approx(found, rel=1e-9, abs=1e-12)
    assert found <= temperature**2 * math.log(2) * (1 + 1e-12)


@given(logits_pairs(), temperatures, st.floats(0.1, 0.9))
def test_gjsd_with_the_parts_swapped_is_the_same(logits: Logits, temperature: float, beta: float) -> None:
    student, teacher = map(torch.from_numpy, logits)
    found = distance("gjsd", student, teacher, temperature=temperature, beta=beta).item()
    swapped = distance("gjsd", teacher, student, temperature=temperature, beta=1 - beta).item()
    assert swapped == pytest.approx(found, rel=1e-9, abs=1e-12)


@given(logits_pairs(), temperatures)
def test_tvd_is_between_0_and_the_temperature_squared(logits: Logits, temperature: float) -> None:
    student, teacher = map(torch.from_numpy, logits)
    assert 0 <= distance("tvd", student, teacher, temperature=temperature).item() <= temperature**2 * (1 + 1e-12)


def test_tvd_of_two_that_never_agree_is_the_temperature_squared() -> None:
    assert distance("tvd", rows([1e3, 0]), rows([0, 1e3]), temperature=3.0).item() == pytest.approx(9, rel=1e-6)


# Invariances.


@pytest.mark.parametrize("form", [*(form for form in TEMPERED if form not in STEEP), "centred_mse", "ctkd", "mlld"])
@settings(max_examples=15)  # of each of the many forms
@given(logits=logits_pairs(-5, 5, least=3), shift=st.floats(-30, 30))
def test_a_form_of_probabilities_does_not_change_when_a_constant_is_added_to_a_row(
    form: str, logits: Logits, shift: float
) -> None:
    student, teacher = map(torch.from_numpy, logits)
    moved, teachers = student.clone(), teacher.clone()
    moved[0] += shift
    teachers[-1] -= shift
    before = distance(form, student, teacher).item()
    assert distance(form, moved, teachers).item() == pytest.approx(before, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("form", STEEP)
@given(shift=st.floats(-30, 30))
def test_a_correlation_does_not_change_when_a_constant_is_added_to_a_row(form: str, shift: float) -> None:
    student, teacher = pair(6, 10)
    moved, teachers = student.clone(), teacher.clone()
    moved[0] += shift
    teachers[-1] -= shift
    before = distance(form, student, teacher).item()
    assert distance(form, moved, teachers).item() == pytest.approx(before, rel=1e-9)


def test_squared_distances_of_logits_do_change_when_a_constant_is_added() -> None:
    student, teacher = pair(6, 10)
    for form in ("mse", "squared_norm", "smooth_l1", "cosine"):
        assert distance(form, student + 3, teacher).item() != pytest.approx(distance(form, student, teacher).item())


def test_the_pearson_of_dist_does_not_change_with_scale_and_shift_of_the_probabilities() -> None:
    """A student halfway between the teacher and ignorance, in probabilities, loses nothing: p / 2 + 1 / (2C)."""
    _, teacher = pair(6, 10)
    hesitant = (teacher.softmax(-1) / 2 + 1 / 20).log()
    for inter, intra in [(1.0, 0.0), (0.0, 1.0)]:
        found = distance("dist", hesitant, teacher, temperature=1.0, inter=inter, intra=intra).item()
        assert found == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_class_as_probable_in_every_example_correlates_with_nothing_in_dist(dtype: torch.dtype) -> None:
    """The first is, but for rounding, since the others are in another order each: noise would have a correlation."""
    student = rows([1, 2, 3, 0.3], [1, 0.3, 2, 3], [1, 3, 0.3, 2], [1, 3, 2, 0.3], [1, 2, 0.3, 3], dtype=dtype)
    _, teacher = pair(5, 4, dtype=dtype)
    p, q = (np.exp(by_numpy.log_softmax(logits.double().numpy())) for logits in (teacher, student))
    others = sum(1 - by_numpy.pearson(p[:, i], q[:, i]) for i in (1, 2, 3))
    found = distance("dist", student, teacher, temperature=1.0, inter=0.0, intra=1.0).item()
    assert found == pytest.approx((1 + others) / 4, rel=1e-5)


@given(st.floats(0.1, 10), st.floats(-10, 10))
def test_logit_standard_does_not_change_with_scale_and_shift_of_a_row(scale: float, shift: float) -> None:
    student, teacher = pair(6, 10)
    moved = student.clone()
    moved[2] = moved[2] * scale + shift
    before = distance("logit_standard", student, teacher).item()
    assert distance("logit_standard", moved, teacher).item() == pytest.approx(before, rel=1e-5)
    assert distance("logit_standard", teacher * scale + shift, teacher).item() == pytest.approx(0, abs=1e-9)


@given(st.floats(0.1, 10))
def test_cosine_does_not_change_with_scale(scale: float) -> None:
    student, teacher = pair(6, 10)
    before = distance("cosine", student, teacher).item()
    assert distance("cosine", student * scale, teacher).item() == pytest.approx(before, rel=1e-9)
    assert distance("cosine", student, teacher * scale).item() == pytest.approx(before, rel=1e-9)
    for huge in (1e-16, 1e22):  # in float32 their squares are nothing, or infinite
        assert distance("cosine", student.float() * huge, teacher.float()).item() == pytest.approx(before, rel=1e-5)


# Temperature.


LIMITS = {"kl": 1.0, "reverse_kl": 1.0, "js": 0.25, "mse_probs": 2 / 10}
"""What a form tends to at a high temperature, in units of `centred_mse`; of 10 classes."""


@pytest.mark.parametrize("form", LIMITS)
def test_a_form_tends_to_the_centred_squared_error_as_the_temperature_grows(form: str) -> None:
    student, teacher = pair(6, 10)
    apart = (student - student.mean(-1, keepdim=True)) - (teacher - teacher.mean(-1, keepdim=True))
    limit = LIMITS[form] * apart.square().sum(-1).mean().item() / (2 * 10)
    errors = [abs(distance(form, student, teacher, temperature=t).item() / limit - 1) for t in (10.0, 1e2, 1e3, 1e4)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.8])
def test_gjsd_tends_to_beta_times_its_rest_of_the_centred_squared_error(beta: float) -> None:
    student, teacher = pair(6, 10)
    limit = beta * (1 - beta) * distance("centred_mse", student, teacher).item()
    assert distance("gjsd", student, teacher, temperature=1e4, beta=beta).item() == pytest.approx(limit, rel=1e-3)


def test_gjsd_over_beta_tends_to_kl_as_beta_goes_to_0_and_to_reverse_kl_at_1() -> None:
    student, teacher = pair(6, 10)
    for beta, form in [(1e-6, "kl"), (1 - 1e-6, "reverse_kl")]:
        found = distance("gjsd", student, teacher, temperature=2.0, beta=beta).item() / 1e-6
        assert found == pytest.approx(distance(form, student, teacher, temperature=2.0).item(), rel=1e-3)


@pytest.mark.parametrize("form", TEMPERED)
def test_a_form_in_float32_is_right_at_a_very_high_temperature(form: str) -> None:
    """The plain form of `kl` is 9% wrong here."""
    student, teacher = pair(64, 10)
    expected = distance(form, student, teacher, temperature=1e4).item()
    found = distance(form, student.float(), teacher.float(), temperature=1e4).item()
    assert found == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("form", TEMPERED)
def test_the_gradient_keeps_its_size_when_the_temperature_grows(form: str) -> None:
    """Without T^2 it would shrink 10,000 times from T = 10 to T = 1,000; `tvd`'s and `dist`'s grow all the same."""
    student, teacher = pair(6, 10)
    sizes = [gradient(form, student, teacher, temperature=t).norm().item() for t in (10.0, 1000.0)]
    assert sizes[1] == pytest.approx(sizes[0] * 100 ** GROWS.get(form, 0), rel=0.5)


RATIOS = {
    "kl": ({"temperature": 4.0}, 1.5),
    "mse": ({}, 1.9),
    "js": ({"temperature": 1.0}, 0.12),
    "mse_probs": ({"temperature": 4.0}, 0.3),
    "logit_standard": ({"temperature": 4.0}, 4.1),
    "dkd": ({"temperature": 4.0}, 4.5),
    "dist": ({"temperature": 1.0}, 7.3),
}
"""Gradient norms relative to cross-entropy's at the start of training on 10 classes, as measured in public code.

`mse_probs` is .03 there, for it is a mean over the classes; ours is a sum.
"""


@pytest.mark.parametrize("form", RATIOS)
def test_the_gradient_at_the_start_has_the_size_that_was_measured(form: str) -> None:
    """A student that knows nothing yet, and a teacher sure of the label: so one alpha is not the same for two forms."""
    near, far = pair(512, 10, scale=1.0)
    labels = torch.arange(512) % 10
    student, teacher = (0.1 * near).requires_grad_(), 1.5 * far + 8 * F.one_hot(labels, 10)
    (hard,) = torch.autograd.grad(losses.cross_entropy(student, labels), student)
    knobs, ratio = RATIOS[form]
    soft = gradient(form, student.detach(), teacher, labels=labels, progress=1.0, **knobs)
    assert (soft.norm() / hard.norm()).item() == pytest.approx(ratio, rel=0.25)


def test_kl_is_a_mean_over_the_batch_and_not_over_the_classes() -> None:
    """`nn.KLDivLoss()`'s default divides by the classes too, so it is ten times too small."""
    student, teacher = pair(6, 10)
    log_q, p = F.log_softmax(student / 4, -1), F.softmax(teacher / 4, -1)
    found = distance("kl", student, teacher, temperature=4.0).item()
    assert found == pytest.approx(4**2 * F.kl_div(log_q, p, reduction="batchmean").item(), rel=1e-12)
    with pytest.warns(UserWarning, match="batchmean"):
        too_small = 4**2 * torch.nn.KLDivLoss()(log_q, p).item()
    assert found == pytest.approx(10 * too_small, rel=1e-12)


@pytest.mark.parametrize("beta", [0.1, 1.0, 10.0])
def test_smooth_l1_is_torchs(beta: float) -> None:
    student, teacher = pair(6, 10)
    expected = F.smooth_l1_loss(student, teacher, beta=beta).item()
    assert distance("smooth_l1", student, teacher, beta=beta).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("form", [form for form in LOSSES if form != "mlld"])
def test_a_form_is_a_mean_over_the_batch(form: str) -> None:
    """Every example twice over is the same loss; `mlld` is not, for its Gram matrix is of every two examples."""
    student, teacher = pair(6, 10)
    labels = labels_for(student)
    once = distance(form, student, teacher, labels=labels).item()
    twice = distance(form, student.repeat(2, 1), teacher.repeat(2, 1), labels=labels.repeat(2)).item()
    assert twice == pytest.approx(once, rel=1e-12)
