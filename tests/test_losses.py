"""The contract of every loss form: what it is by an independent computation, and what holds whatever it computes."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness import losses
from harness.forms import KNOBS
from harness.losses import LOSSES
from harness.space import TEMPERATURE_FORMS
from harness.spec import StudentSpec
from tests import by_numpy
from tests.loss_cases import EXTREMES, Setting, arguments, distance, gradient, labels_for, pair, settings, wanted

TAKES = {
    "dkd": ("labels", "progress"),
    "nkd": ("labels",),
    "wsld": ("labels",),
    "ctkd": ("progress",),
}
NOT_ZERO_AT_THE_TEACHER = ("soft_ce", "nkd", "wsld")  # cross-entropies with the teacher's probabilities: its entropy
PULLS_AWAY_FROM_THE_TEACHER = ("nkd",)  # its target part asks for more of the label than the teacher gives
WEIGHT_IS_CONSTANT = ("wsld",)  # the gradient is not that of the value
every_form = pytest.mark.parametrize("form", LOSSES)
every_setting = pytest.mark.parametrize(
    ("form", "setting"),
    [pytest.param(form, at, id=f"{form}-{i}") for form in LOSSES for i, at in enumerate(settings(LOSSES[form].knobs))],
)


def student_of(
    form: str, *, alpha: float = 0.3, temperature: float | None = None, mixing: str = "convex"
) -> StudentSpec:
    return StudentSpec("digits", "mlp", 4, 1, form, alpha=alpha, temperature=temperature, mixing=mixing)


def test_every_form_has_the_knobs_that_the_studies_know_and_a_computation_to_be_held_to() -> None:
    assert {name: dict(form.knobs) for name, form in LOSSES.items()} == {name: dict(at) for name, at in KNOBS.items()}
    assert set(by_numpy.LOGIT_FORMS) == set(LOSSES)


@every_form
def test_a_form_takes_what_its_formula_needs(form: str) -> None:
    assert set(LOSSES[form].takes) == set(TAKES.get(form, ()))
    assert dict(LOSSES[form].learned) == ({"theta": 1.0} if form == "ctkd" else {})


@every_setting
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_a_form_matches_an_independent_computation(
    form: str, setting: Setting, dtype: torch.dtype, tolerance: float
) -> None:
    for shape in [(7, 10), (12, 4)]:
        student, teacher = pair(*shape, dtype=dtype)
        found = distance(form, student, teacher, **setting)
        assert found.shape == ()
        assert found.dtype == dtype
        assert found.item() == pytest.approx(wanted(form, student, teacher, **setting), rel=tolerance)


@every_setting
def test_a_student_that_equals_its_teacher_has_no_gradient_and_a_divergence_no_value(
    form: str, setting: Setting
) -> None:
    student, _ = pair(6, 10)
    size = setting.get("temperature", 1) ** 2
    if form not in PULLS_AWAY_FROM_THE_TEACHER:
        assert gradient(form, student, student, **setting).abs().max().item() < 1e-13 * size
    if form in NOT_ZERO_AT_THE_TEACHER:
        assert distance(form, student, student, **setting).item() > 0
    else:
        assert distance(form, student, student, **setting).item() == pytest.approx(0, abs=1e-12 * size)


@every_form
@pytest.mark.parametrize("case", EXTREMES)
def test_value_and_gradient_are_right_and_finite_at_the_extremes_in_float32(form: str, case: str) -> None:
    student, teacher = EXTREMES[case]
    for setting, label in itertools.product(settings(LOSSES[form].knobs), (0, 2)):
        labels = torch.full((len(student),), label)
        value = distance(form, student, teacher, labels=labels, **setting).item()
        by_hand = wanted(form, student, teacher, labels=labels, **setting)
        assert value == pytest.approx(by_hand, rel=1e-4, abs=1e-4), setting
        assert torch.isfinite(gradient(form, student, teacher, labels=labels, **setting)).all(), setting


@pytest.mark.parametrize("form", [form for form in LOSSES if form not in WEIGHT_IS_CONSTANT])
def test_the_gradient_is_that_of_the_value(form: str) -> None:
    student, teacher = pair(2, 4, 5, scale=1.5)
    assert torch.autograd.gradcheck(lambda z: distance(form, z, teacher), [student.requires_grad_()])


@every_form
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_stacked_slice_gives_each_student_what_it_gets_alone(form: str, dtype: torch.dtype) -> None:
    student, teacher = pair(5, 16, 10, dtype=dtype)
    at = LOSSES[form]
    spread: Setting = {name: torch.linspace(knob.low, knob.high, 5, dtype=dtype) for name, knob in at.knobs.items()}
    spread |= {name: torch.linspace(-1, 1, 5, dtype=dtype) for name in at.learned}
    labels = torch.arange(5 * 16).view(5, 16) % 10
    together = distance(form, student, teacher, labels=labels, **spread)
    gradients = gradient(form, student, teacher, labels=labels, **spread)
    assert together.shape == (5,)
    for i in range(5):
        one = slice(i, i + 1)
        own = {name: values[one] for name, values in spread.items()}
        alone = distance(form, student[one], teacher[one], labels=labels[one], **own)
        pulled = gradient(form, student[one], teacher[one], labels=labels[one], **own)
        # A processor's vector instructions may round a number in the middle of a row otherwise than at its end.
        torch.testing.assert_close(together[one], alone, rtol=4 * torch.finfo(dtype).eps, atol=0)
        torch.testing.assert_close(gradients[one], pulled, rtol=1e-5, atol=16 * torch.finfo(dtype).eps)


@every_form
def test_students_may_stand_in_any_number_of_leading_axes(form: str) -> None:
    student, teacher = pair(2, 3, 6, 10)
    found = distance(form, student, teacher)
    assert found.shape == (2, 3)
    labels = labels_for(student)
    for i, j in [(0, 0), (0, 2), (1, 1)]:
        alone = distance(form, student[i, j], teacher[i, j], labels=labels[i, j])
        assert found[i, j].item() == pytest.approx(alone.item(), rel=1e-12)


@every_form
def test_students_may_share_one_teacher(form: str) -> None:
    student, teacher = pair(3, 6, 10)
    found = distance(form, student, teacher[1])
    assert torch.equal(found, distance(form, student, teacher[1].expand_as(student)))


@every_form
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(form: str, dtype: torch.dtype) -> None:
    student, teacher = pair(8, 10, dtype=dtype)
    for setting in settings(LOSSES[form].knobs):
        found = distance(form, student, teacher, **setting)
        assert found.dtype == torch.float32
        assert torch.equal(found, distance(form, student.float(), teacher.float(), **setting))
        assert torch.equal(found, distance(form, student, teacher.float(), **setting))
        assert gradient(form, student, teacher, **setting).dtype == dtype


@every_setting
def test_the_order_of_the_batch_does_not_matter(form: str, setting: Setting) -> None:
    student, teacher = pair(8, 5)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    labels = labels_for(student)
    found = distance(form, student[order], teacher[order], labels=labels[order], **setting).item()
    assert found == pytest.approx(distance(form, student, teacher, **setting).item(), rel=1e-12)
    apart = distance(form, student[order], teacher, **setting).item()
    assert apart != pytest.approx(found, rel=1e-3), "the teacher's logits of other examples are other logits"


@every_setting
def test_the_names_of_the_classes_do_not_matter(form: str, setting: Setting) -> None:
    student, teacher = pair(8, 5)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(2))
    labels = order.argsort()[labels_for(student)]
    found = distance(form, student[:, order], teacher[:, order], labels=labels, **setting).item()
    assert found == pytest.approx(distance(form, student, teacher, **setting).item(), rel=1e-12)


@pytest.mark.parametrize("form", ["dkd", "ctkd"])
@pytest.mark.parametrize("progress", [0.0, 0.02, 1.0])
def test_progress_may_be_a_tensor_as_well(form: str, progress: float) -> None:
    """A captured graph cannot be told of a new float."""
    student, teacher = pair(3, 6, 10)
    for many in (torch.tensor(progress), torch.full((3,), progress)):
        found = distance(form, student, teacher, progress=many)
        assert torch.allclose(found, distance(form, student, teacher, progress=progress), rtol=1e-6)


@every_form
def test_what_a_form_takes_changes_its_value(form: str) -> None:
    """A knob that changes nothing is a dead dimension of a study's space; `ctkd`'s ramp changes a gradient."""
    student, teacher = pair(6, 10)
    usual = distance(form, student, teacher).item()
    knobs = LOSSES[form].knobs
    elsewhere: Setting = {name: (knobs[name].default + knobs[name].high) / 2 for name in knobs if name != "ramp"}
    elsewhere |= dict.fromkeys(LOSSES[form].learned, 0.0)
    changed = {name: distance(form, student, teacher, **{name: value}).item() for name, value in elsewhere.items()}
    if "labels" in LOSSES[form].takes:
        changed["labels"] = distance(form, student, teacher, labels=labels_for(student) + 2).item()
    for name, value in changed.items():
        assert value != pytest.approx(usual, rel=1e-6), name


@every_form
def test_a_form_chooses_no_path_by_a_tensors_value(form: str) -> None:
    """Tensors without data have none to look at, so a graph captured once holds for every batch."""
    student, teacher = torch.empty(3, 8, 5, device="meta"), torch.empty(3, 8, 5, device="meta")
    given = arguments(form, torch.empty(3, 8, 5))
    bare = {name: value.to("meta") if isinstance(value, Tensor) else value for name, value in given.items()}
    assert LOSSES[form].function(student, teacher, **bare).shape == (3,)


def test_cross_entropy_worked_by_hand_and_as_the_library_computes_it() -> None:
    logits, _ = pair(3, 6, 10)
    labels = torch.arange(18).view(3, 6) % 10
    found = losses.cross_entropy(logits, labels)
    for i in range(3):
        assert found[i].item() == pytest.approx(F.cross_entropy(logits[i], labels[i]).item(), rel=1e-12)
    quarter = torch.tensor([[0.0, math.log(3)]])
    assert losses.cross_entropy(quarter, torch.tensor([0])).item() == pytest.approx(math.log(4), rel=1e-6)


def test_smoothed_labels_are_as_the_library_has_them_for_each_student_its_own() -> None:
    """And by hand: of 1/4, 3/4 with the label 0 and a tenth spread evenly, .95 of -log(1/4) and .05 of -log(3/4)."""
    logits, _ = pair(3, 6, 10)
    labels = torch.arange(18).view(3, 6) % 10
    smoothing = torch.tensor([0.0, 0.1, 0.5], dtype=torch.float64)
    found = losses.cross_entropy(logits, labels, smoothing)
    for i, share in enumerate(smoothing.tolist()):
        expected = F.cross_entropy(logits[i], labels[i], label_smoothing=share).item()
        assert found[i].item() == pytest.approx(expected, rel=1e-12)
    quarter, tenth = torch.tensor([[0.0, math.log(3)]]), torch.tensor(0.1)
    by_hand = 0.95 * math.log(4) + 0.05 * math.log(4 / 3)
    assert losses.cross_entropy(quarter, torch.tensor([0]), tenth).item() == pytest.approx(by_hand, rel=1e-6)


def test_cross_entropy_of_a_saturated_student_is_finite_and_still_teaches() -> None:
    """`softmax(x).log()` would give minus infinity here."""
    logits = torch.tensor([[1e4, 0.0]], requires_grad=True)
    loss = losses.cross_entropy(logits, torch.tensor([1]))
    (found,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 1e4
    assert found.tolist() == [[1.0, -1.0]]


@pytest.mark.parametrize("form", LOSSES)
def test_alpha_weighs_the_labels(form: str) -> None:
    temperature = 4.0 if form in TEMPERATURE_FORMS else None
    assert losses.weights(student_of(form, alpha=1.0, temperature=temperature)) == (1.0, 0.0)
    assert losses.weights(student_of(form, alpha=0.0, temperature=temperature)) == (0.0, 1.0)
    assert losses.weights(student_of(form, alpha=0.3, temperature=temperature)) == (0.3, 0.7)
    additive = student_of(form, alpha=0.3, temperature=temperature, mixing="additive")
    assert losses.weights(additive) == (1.0, 0.3)
    doubled = losses.weights(dataclasses.replace(additive, loss_scale=2.0))
    assert doubled == (2.0, 0.6)


@pytest.mark.parametrize("mixing", ["convex", "additive"])
@pytest.mark.parametrize("end", [0.0, 1.0])
def test_nothing_jumps_where_alpha_reaches_its_end(mixing: str, end: float) -> None:
    """Some code drops T^2, or the whole loss, at alpha 0 alone."""
    near, at = (losses.weights(student_of("mse", alpha=abs(end - step), mixing=mixing)) for step in (1e-9, 0.0))
    assert near == pytest.approx(at, abs=1e-8)


@pytest.mark.parametrize("mixing", ["convex", "additive"])
def test_plain_training_is_cross_entropy_alone(mixing: str) -> None:
    assert losses.weights(student_of("ce", alpha=1.0, mixing=mixing)) == (1.0, 0.0)


def test_the_space_knows_which_forms_take_a_temperature() -> None:
    assert set(TEMPERATURE_FORMS) == {name for name, form in LOSSES.items() if "temperature" in form.knobs}


def test_a_form_that_fits_its_knobs_passes_the_check() -> None:
    for form, what in LOSSES.items():
        own = tuple((f"{form}.{name}", knob.default) for name, knob in what.knobs.items() if name != "temperature")
        taking = student_of(form, temperature=4.0 if form in TEMPERATURE_FORMS else None)
        losses.check(dataclasses.replace(taking, knobs=own))
    losses.check(student_of("ce", alpha=1.0))


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (student_of("kll", temperature=4.0), r"unknown form 'kll'; forms are kl, soft_ce, .*mlld, or ce for plain"),
        (student_of("kl"), r"form 'kl' needs a temperature"),
        (student_of("mse", temperature=4.0), r"form 'mse' takes no temperature; only kl, soft_ce, .*wsld do"),
    ],
)
def test_a_form_that_does_not_fit_its_knobs_is_refused_in_one_line(student: StudentSpec, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        losses.check(student)
    assert "\n" not in str(caught.value)
