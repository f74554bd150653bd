"""The contract of every loss form, and what each one is, by hand and by an independent computation."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch import Tensor

from harness import losses
from harness.losses import LOSSES
from harness.space import TEMPERATURE_FORMS
from harness.spec import StudentSpec

KNOBS = {"temperature": 4.0}
NOT_DIVERGENCES = ("soft_ce",)  # at z_s == z_t it is T^2 times the teacher's entropy, not 0
every_form = pytest.mark.parametrize("form", LOSSES)


def log_softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    scaled = logits / temperature
    scaled = scaled - scaled.max(axis=-1, keepdims=True)
    return np.asarray(scaled - np.log(np.exp(scaled).sum(axis=-1, keepdims=True)))


def kl_by_numpy(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    log_p, log_q = log_softmax(teacher, temperature), log_softmax(student, temperature)
    return float(temperature**2 * (np.exp(log_p) * (log_p - log_q)).sum() / len(student))


def soft_ce_by_numpy(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    p, log_q = np.exp(log_softmax(teacher, temperature)), log_softmax(student, temperature)
    return float(-(temperature**2) * (p * log_q).sum() / len(student))


def mse_by_numpy(student: np.ndarray, teacher: np.ndarray, _: float) -> float:
    return float(((student - teacher) ** 2).sum() / student.size)


def squared_norm_by_numpy(student: np.ndarray, teacher: np.ndarray, _: float) -> float:
    return float(((student - teacher) ** 2).sum() / len(student))


BY_NUMPY: dict[str, Callable[[np.ndarray, np.ndarray, float], float]] = {
    "kl": kl_by_numpy,
    "soft_ce": soft_ce_by_numpy,
    "mse": mse_by_numpy,
    "squared_norm": squared_norm_by_numpy,
}


def distance(form: str, student: Tensor, teacher: Tensor, **changed: float) -> Tensor:
    """The form at these knobs, each given as one number for every student of the leading axes."""
    wide = student.dtype if student.dtype == torch.float64 else torch.float32
    values = {**KNOBS, **changed}
    knobs = {name: torch.full(student.shape[:-2], values[name], dtype=wide) for name in LOSSES[form].knobs}
    return LOSSES[form].function(student, teacher, **knobs)


def pair(*shape: int, dtype: torch.dtype = torch.float64, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    """Student and teacher logits, the same in every run."""
    drawn = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * scale
    return drawn[0].to(dtype), drawn[1].to(dtype)


def gradient(form: str, student: Tensor, teacher: Tensor, **knobs: float) -> Tensor:
    leaf = student.clone().requires_grad_()
    (found,) = torch.autograd.grad(distance(form, leaf, teacher, **knobs).sum(), leaf)
    return found


def student_of(
    form: str, *, alpha: float = 0.3, temperature: float | None = None, mixing: str = "convex"
) -> StudentSpec:
    return StudentSpec("digits", "mlp", 4, 1, form, alpha=alpha, temperature=temperature, mixing=mixing)


@every_form
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_a_form_matches_an_independent_computation(form: str, dtype: torch.dtype, tolerance: float) -> None:
    student, teacher = pair(7, 10, dtype=dtype)
    wanted = BY_NUMPY[form](student.double().numpy(), teacher.double().numpy(), KNOBS["temperature"])
    found = distance(form, student, teacher)
    assert found.shape == ()
    assert found.dtype == dtype
    assert found.item() == pytest.approx(wanted, rel=tolerance)


@every_form
def test_a_student_that_equals_its_teacher_has_no_gradient_and_a_divergence_no_value(form: str) -> None:
    student, _ = pair(6, 10)
    assert gradient(form, student, student).abs().max().item() < 1e-13
    if form in NOT_DIVERGENCES:
        assert distance(form, student, student).item() > 0
    else:
        assert distance(form, student, student).item() == pytest.approx(0, abs=1e-13)


EXTREMES = {
    "opposite_and_huge": ([1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]),
    "the_student_is_huge": ([1e4, 0.0, 0.0], [0.0, 1.0, 2.0]),
    "the_teacher_is_huge": ([0.0, 1.0, 2.0], [0.0, 1e4, -1e4]),
    "all_huge_and_near": ([1e4, 1e4 + 1, 1e4], [1e4, 1e4, 1e4 + 1]),
    "all_tied": ([2.0, 2.0, 2.0], [5.0, 5.0, 5.0]),
    "the_student_is_tied": ([0.0, 0.0, 0.0], [3.0, 3.0, -1.0]),
}


@every_form
@pytest.mark.parametrize("temperature", [1.0, 20.0])
@pytest.mark.parametrize("case", EXTREMES)
def test_value_and_gradient_are_finite_at_the_extremes_in_float32(form: str, temperature: float, case: str) -> None:
    student, teacher = (torch.tensor([row]) for row in EXTREMES[case])
    wanted = BY_NUMPY[form](student.double().numpy(), teacher.double().numpy(), temperature)
    assert distance(form, student, teacher, temperature=temperature).item() == pytest.approx(wanted, rel=2e-3, abs=1e-4)
    assert torch.isfinite(gradient(form, student, teacher, temperature=temperature)).all()


@every_form
def test_the_gradient_is_that_of_the_value(form: str) -> None:
    student, teacher = pair(2, 4, 5, scale=1.5)
    assert torch.autograd.gradcheck(lambda z: distance(form, z, teacher), [student.requires_grad_()])


@every_form
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_stacked_slice_gives_each_student_exactly_what_it_gets_alone(form: str, dtype: torch.dtype) -> None:
    student, teacher = pair(5, 16, 10, dtype=dtype)
    temperature = torch.tensor([1.0, 2.0, 4.0, 8.0, 20.0], dtype=dtype)
    knobs = {"temperature": temperature} if "temperature" in LOSSES[form].knobs else {}
    leaf = student.clone().requires_grad_()
    together = LOSSES[form].function(leaf, teacher, **knobs)
    (gradients,) = torch.autograd.grad(together.sum(), leaf)
    assert together.shape == (5,)
    for i in range(5):
        one = slice(i, i + 1)
        alone = distance(form, student[one], teacher[one], temperature=temperature[i].item())
        assert torch.equal(together[one], alone)
        own = gradient(form, student[one], teacher[one], temperature=temperature[i].item())
        assert torch.equal(gradients[one], own)


@every_form
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(form: str, dtype: torch.dtype) -> None:
    student, teacher = pair(8, 10, dtype=dtype)
    found = distance(form, student, teacher, temperature=20.0)
    assert found.dtype == torch.float32
    assert torch.equal(found, distance(form, student.float(), teacher.float(), temperature=20.0))
    assert torch.equal(found, distance(form, student, teacher.float(), temperature=20.0))


Logits = tuple[np.ndarray, np.ndarray]


@st.composite
def logits_pairs(draw: st.DrawFn) -> Logits:
    shape = draw(array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=5))
    rows = arrays(np.float64, shape, elements=st.floats(-30, 30))
    return draw(rows), draw(rows)


temperatures = st.floats(0.5, 50)


@given(logits_pairs(), temperatures)
def test_kl_is_never_negative(logits: Logits, temperature: float) -> None:
    student, teacher = map(torch.from_numpy, logits)
    assert distance("kl", student, teacher, temperature=temperature).item() >= -1e-13 * temperature**2


@given(logits_pairs(), temperatures, st.floats(-30, 30))
def test_kl_does_not_change_when_a_constant_is_added_to_a_row(logits: Logits, temperature: float, shift: float) -> None:
    student, teacher = map(torch.from_numpy, logits)
    moved = student.clone()
    moved[0] += shift
    before = distance("kl", student, teacher, temperature=temperature).item()
    assert distance("kl", moved, teacher, temperature=temperature).item() == pytest.approx(before, rel=1e-9, abs=1e-9)


@given(logits_pairs())
def test_squared_norm_is_mse_times_the_number_of_classes(logits: Logits) -> None:
    student, teacher = map(torch.from_numpy, logits)
    wanted = student.shape[-1] * distance("mse", student, teacher).item()
    assert distance("squared_norm", student, teacher).item() == pytest.approx(wanted, rel=1e-12)


@given(logits_pairs(), temperatures)
def test_soft_ce_exceeds_kl_by_the_teachers_entropy(logits: Logits, temperature: float) -> None:
    student, teacher = map(torch.from_numpy, logits)
    log_p = log_softmax(logits[1], temperature)
    entropy = temperature**2 * -(np.exp(log_p) * log_p).sum(-1).mean()
    apart = distance("soft_ce", student, teacher, temperature=temperature) - distance(
        "kl", student, teacher, temperature=temperature
    )
    assert apart.item() == pytest.approx(entropy, rel=1e-9, abs=1e-9)


def test_soft_ce_and_kl_have_the_same_gradient() -> None:
    student, teacher = pair(6, 10)
    assert torch.allclose(
        gradient("soft_ce", student, teacher), gradient("kl", student, teacher), rtol=1e-12, atol=1e-14
    )


def test_kl_tends_to_the_centred_squared_error_as_the_temperature_grows() -> None:
    student, teacher = pair(6, 10)
    apart = (student - student.mean(-1, keepdim=True)) - (teacher - teacher.mean(-1, keepdim=True))
    limit = apart.square().sum(-1).mean().item() / (2 * 10)
    errors = [abs(distance("kl", student, teacher, temperature=t).item() / limit - 1) for t in (10.0, 1e2, 1e3, 1e4)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3


def test_kl_in_float32_is_right_at_a_very_high_temperature() -> None:
    student, teacher = pair(64, 10)
    wanted = distance("kl", student, teacher, temperature=1e4).item()
    assert distance("kl", student.float(), teacher.float(), temperature=1e4).item() == pytest.approx(wanted, rel=0.01)


def test_kl_worked_by_hand() -> None:
    """At temperature 2 the teacher says 3/4, 1/4 and the student 1/2, 1/2; 2^2 scales it."""
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2 * math.log(3), 0.0]])
    wanted = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert distance("kl", student, teacher, temperature=2.0).item() == pytest.approx(wanted, rel=1e-6)
    assert wanted == pytest.approx(0.523248, abs=1e-6)


def test_soft_ce_worked_by_hand() -> None:
    """A student that says 1/4, 3/4 under a teacher that says 3/4, 1/4, at temperature 2."""
    student, teacher = torch.tensor([[0.0, 2 * math.log(3)]]), torch.tensor([[2 * math.log(3), 0.0]])
    wanted = 4 * (0.75 * math.log(4) + 0.25 * math.log(4 / 3))
    assert distance("soft_ce", student, teacher, temperature=2.0).item() == pytest.approx(wanted, rel=1e-6)


def test_mse_and_squared_norm_worked_by_hand() -> None:
    """Two examples: differences (-2, -3) and (1, 0); squares sum to 13 and 1."""
    student, teacher = torch.tensor([[1.0, 2.0], [1.0, 0.0]]), torch.tensor([[3.0, 5.0], [0.0, 0.0]])
    assert distance("mse", student, teacher).item() == 14 / 4
    assert distance("squared_norm", student, teacher).item() == 14 / 2


def test_cross_entropy_worked_by_hand_and_as_the_library_computes_it() -> None:
    logits, _ = pair(3, 6, 10)
    labels = torch.arange(18).view(3, 6) % 10
    found = losses.cross_entropy(logits, labels)
    for i in range(3):
        assert found[i].item() == pytest.approx(F.cross_entropy(logits[i], labels[i]).item(), rel=1e-12)
    quarter = torch.tensor([[0.0, math.log(3)]])
    assert losses.cross_entropy(quarter, torch.tensor([0])).item() == pytest.approx(math.log(4), rel=1e-6)


def test_cross_entropy_of_a_saturated_student_is_finite_and_still_teaches() -> None:
    """`softmax(x).log()` would give minus infinity here."""
    logits = torch.tensor([[1e4, 0.0]], requires_grad=True)
    loss = losses.cross_entropy(logits, torch.tensor([1]))
    (found,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 1e4
    assert found.tolist() == [[1.0, -1.0]]


def test_kl_is_a_mean_over_the_batch_and_not_over_the_classes() -> None:
    """`nn.KLDivLoss()`'s default divides by the classes too, so it is ten times too small."""
    student, teacher = pair(6, 10)
    log_q, p = F.log_softmax(student / 4, -1), F.softmax(teacher / 4, -1)
    found = distance("kl", student, teacher, temperature=4.0).item()
    assert found == pytest.approx(4**2 * F.kl_div(log_q, p, reduction="batchmean").item(), rel=1e-12)
    with pytest.warns(UserWarning, match="batchmean"):
        too_small = 4**2 * torch.nn.KLDivLoss()(log_q, p).item()
    assert found == pytest.approx(10 * too_small, rel=1e-12)


@pytest.mark.parametrize("form", TEMPERATURE_FORMS)
def test_the_gradient_keeps_its_size_when_the_temperature_grows(form: str) -> None:
    """Without T^2 it would shrink 10,000 times from T = 10 to T = 1,000."""
    student, teacher = pair(6, 10)
    sizes = [gradient(form, student, teacher, temperature=t).norm().item() for t in (10.0, 1000.0)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.5)


@pytest.mark.parametrize("form", LOSSES)
def test_alpha_weighs_the_labels(form: str) -> None:
    temperature = 4.0 if form in TEMPERATURE_FORMS else None
    assert losses.weights(student_of(form, alpha=1.0, temperature=temperature)) == (1.0, 0.0)
    assert losses.weights(student_of(form, alpha=0.0, temperature=temperature)) == (0.0, 1.0)
    assert losses.weights(student_of(form, alpha=0.3, temperature=temperature)) == (0.3, 0.7)
    additive = student_of(form, alpha=0.3, temperature=temperature, mixing="additive")
    assert losses.weights(additive) == (1.0, 0.3)


@pytest.mark.parametrize("mixing", ["convex", "additive"])
def test_plain_training_is_cross_entropy_alone(mixing: str) -> None:
    assert losses.weights(student_of("ce", alpha=1.0, mixing=mixing)) == (1.0, 0.0)


def test_the_space_knows_which_forms_take_a_temperature() -> None:
    assert set(TEMPERATURE_FORMS) == {name for name, form in LOSSES.items() if "temperature" in form.knobs}


def test_a_form_that_fits_its_knobs_passes_the_check() -> None:
    for form in LOSSES:
        losses.check(student_of(form, temperature=4.0 if form in TEMPERATURE_FORMS else None))
    losses.check(student_of("ce", alpha=1.0))


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (student_of("kll", temperature=4.0), r"unknown form 'kll'; forms are kl, soft_ce, mse, squared_norm, or ce"),
        (student_of("kl"), r"form 'kl' needs a temperature"),
        (student_of("mse", temperature=4.0), r"form 'mse' takes no temperature; only kl, soft_ce do"),
    ],
)
def test_a_form_that_does_not_fit_its_knobs_is_refused_in_one_line(student: StudentSpec, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        losses.check(student)
    assert "\n" not in str(caught.value)
