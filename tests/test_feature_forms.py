"""The forms on features: what each is by an independent computation, by hand, and what it does not see."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.forms import FEATURE_KNOBS
from harness.losses import FEATURES
from tests import by_numpy
from tests.loss_cases import Setting, settings

RELATIONS = ("similarity", "rkd", "pkt")  # they see a batch's geometry, not its coordinates
every_feature_form = pytest.mark.parametrize("form", FEATURES)


def features(form: str, *lead: int, examples: int = 6, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Student's and teacher's features at the form's point, of different widths, the same in every run."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 8), (5, 8)) if FEATURES[form].point == "map" else ((4,), (7,))
    student, teacher = (
        torch.randn(*lead, examples, *shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes
    )
    return student, teacher


every_setting = pytest.mark.parametrize(
    ("form", "setting"),
    [
        pytest.param(form, at, id=f"{form}-{i}")
        for form in FEATURES
        for i, at in enumerate(settings(FEATURES[form].knobs))
    ],
)


def lead_of(form: str, student: Tensor) -> torch.Size:
    return student.shape[: -3 if FEATURES[form].point == "map" else -2]


def arguments(form: str, student: Tensor, teacher: Tensor, **changed: float | Tensor) -> dict[str, Tensor]:
    """The knobs at their defaults, and for `hint` a regressor, the same in every run."""
    wide = student.dtype if student.dtype == torch.float64 else torch.float32
    lead = lead_of(form, student)
    values = {**{name: knob.default for name, knob in FEATURES[form].knobs.items()}, **changed}
    given = {
        name: value if isinstance(value, Tensor) else torch.full(lead, value, dtype=wide)
        for name, value in values.items()
    }
    if form == "hint" and "weight" not in given:
        drawn = torch.randn(teacher.shape[-1], student.shape[-1] + 1, generator=torch.Generator().manual_seed(3))
        scale = torch.arange(1, 1 + math.prod(lead)).view(*lead, 1, 1)  # each student has its own
        given |= {"weight": (drawn[:, 1:] * scale).to(wide), "bias": (drawn[:, 0] * scale[..., 0]).to(wide)}
    return given


def distance(form: str, student: Tensor, teacher: Tensor, **changed: float | Tensor) -> Tensor:
    found = FEATURES[form].function(student, teacher, **arguments(form, student, teacher, **changed))
    assert isinstance(found, Tensor)
    return found


def gradient(form: str, student: Tensor, teacher: Tensor, **changed: float | Tensor) -> Tensor:
    leaf = student.clone().requires_grad_()
    (found,) = torch.autograd.grad(distance(form, leaf, teacher, **changed).sum(), leaf)
    return found


def wanted(form: str, student: Tensor, teacher: Tensor, **changed: float | Tensor) -> float:
    """The value by numpy in float64, of one student's features."""
    given = arguments(form, student.double(), teacher.double(), **changed)
    plain = {name: value.numpy() if value.ndim else value.item() for name, value in given.items()}
    return by_numpy.FEATURE_FORMS[form](student.double().numpy(), teacher.double().numpy(), **plain)


def same(form: str) -> Mapping[str, Tensor]:
    """For `hint`, the regressor that changes nothing."""
    eye = torch.eye(4, dtype=torch.float64)
    return {"weight": eye, "bias": torch.zeros(4, dtype=torch.float64)} if form == "hint" else {}


def rotation(size: int) -> Tensor:
    drawn = torch.randn(size, size, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    turned: Tensor = torch.linalg.qr(drawn)[0]
    return turned


def test_every_feature_form_has_the_knobs_that_the_studies_know_and_a_computation_to_be_held_to() -> None:
    known = {name: dict(knobs) for name, knobs in FEATURE_KNOBS.items()}
    assert {name: dict(form.knobs) for name, form in FEATURES.items()} == known
    assert set(by_numpy.FEATURE_FORMS) == set(FEATURES)


@every_setting
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_a_feature_form_matches_an_independent_computation(
    form: str, setting: Setting, dtype: torch.dtype, tolerance: float
) -> None:
    student, teacher = features(form, examples=7, dtype=dtype)
    found = distance(form, student, teacher, **setting)
    assert found.shape == ()
    assert found.dtype == dtype
    assert found.item() == pytest.approx(wanted(form, student, teacher, **setting), rel=tolerance)


@every_setting
def test_a_student_with_its_teachers_features_loses_nothing(form: str, setting: Setting) -> None:
    student, _ = features(form)
    assert distance(form, student, student, **setting, **same(form)).item() == pytest.approx(0, abs=1e-12)
    assert gradient(form, student, student, **setting, **same(form)).abs().max().item() < 1e-12


@every_setting
def test_the_gradient_of_a_feature_form_is_that_of_its_value(form: str, setting: Setting) -> None:
    student, teacher = features(form, examples=4)
    value = lambda x: distance(form, x, teacher, **setting)  # noqa: E731
    assert torch.autograd.gradcheck(value, [student.requires_grad_()])


def test_the_regressor_of_hint_learns() -> None:
    student, teacher = features("hint", 2)
    given = arguments("hint", student, teacher)
    value = lambda weight, bias: distance("hint", student, teacher, weight=weight, bias=bias)  # noqa: E731
    assert torch.autograd.gradcheck(value, [given[name].requires_grad_() for name in ("weight", "bias")])


@every_feature_form
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_stacked_student_gets_exactly_what_it_gets_alone(form: str, dtype: torch.dtype) -> None:
    student, teacher = features(form, 3, dtype=dtype)
    given = arguments(form, student, teacher)
    given |= {name: torch.linspace(knob.low, knob.high, 3, dtype=dtype) for name, knob in FEATURES[form].knobs.items()}
    together, gradients = distance(form, student, teacher, **given), gradient(form, student, teacher, **given)
    assert together.shape == (3,)
    for i in range(3):
        one = slice(i, i + 1)
        own = {name: value[one] for name, value in given.items()}
        assert torch.equal(together[one], distance(form, student[one], teacher[one], **own))
        assert torch.equal(gradients[one], gradient(form, student[one], teacher[one], **own))


@every_feature_form
def test_stacked_students_may_share_one_teacher(form: str) -> None:
    student, teacher = features(form, 3)
    found = distance(form, student, teacher[1])
    assert torch.equal(found, distance(form, student, teacher[1].expand_as(teacher)))
    assert torch.equal(found, distance(form, student, teacher[1:2]))


@every_feature_form
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_computed_in_float32(form: str, dtype: torch.dtype) -> None:
    student, teacher = features(form, dtype=dtype)
    found = distance(form, student, teacher)
    assert found.dtype == torch.float32
    assert torch.equal(found, distance(form, student.float(), teacher.float()))
    assert torch.equal(found, distance(form, student, teacher.float()))
    assert gradient(form, student, teacher).dtype == dtype


@every_setting
def test_the_order_of_the_examples_does_not_matter(form: str, setting: Setting) -> None:
    student, teacher = features(form)
    order = torch.tensor([3, 1, 0, 5, 2, 4])
    found = distance(form, student[order], teacher[order], **setting).item()
    assert found == pytest.approx(distance(form, student, teacher, **setting).item(), rel=1e-10)
    assert distance(form, student[order], teacher, **setting).item() != pytest.approx(found, rel=1e-4)


@every_feature_form
def test_a_feature_form_chooses_no_path_by_a_tensors_value(form: str) -> None:
    student, teacher = features(form, 3)
    given = {name: value.to("meta") for name, value in arguments(form, student, teacher).items()}
    assert FEATURES[form].function(student.to("meta"), teacher.to("meta"), **given).shape == (3,)


def broken(student: Tensor) -> dict[str, Tensor]:
    """Student's features that divide by nothing, or overflow."""
    dead, alike, opposite = student.clone(), student.clone(), student.clone()
    dead[0], alike[1], opposite[1] = 0, alike[0], -opposite[0]
    return {
        "huge": student * 1e4,
        "far_away": student + 1e4,
        "tiny": student * 1e-4,
        "all_zero": torch.zeros_like(student),
        "all_the_same": student[:1].expand_as(student),
        "one_dead": dead,
        "two_alike": alike,
        "two_opposite": opposite,
        "only_one_example": student[:1],
    }


@every_feature_form
@pytest.mark.parametrize("as_teacher", [False, True])
@pytest.mark.parametrize("case", broken(torch.ones(2, 1)))
def test_value_and_gradient_of_a_feature_form_are_right_and_finite_at_the_extremes_in_float32(
    form: str, case: str, as_teacher: bool
) -> None:
    student, teacher = features(form, dtype=torch.float32)
    if as_teacher:
        teacher = broken(teacher)[case]
    else:
        student = broken(student)[case]
    examples = min(len(student), len(teacher))
    student, teacher = student[:examples], teacher[:examples]
    for setting in settings(FEATURES[form].knobs):
        expected = wanted(form, student, teacher, **setting)
        assert distance(form, student, teacher, **setting).item() == pytest.approx(expected, rel=1e-3, abs=1e-6)
        assert torch.isfinite(gradient(form, student, teacher, **setting)).all()


def test_attention_at_the_highest_power_it_admits_is_finite() -> None:
    student, teacher = features("attention", dtype=torch.float32)
    high = FEATURES["attention"].knobs["power"].allowed.high
    for scale in (1e4, 1e-4):
        expected = distance("attention", student, teacher, power=high).item()
        assert distance("attention", student * scale, teacher, power=high).item() == pytest.approx(expected, rel=1e-4)
        assert torch.isfinite(gradient("attention", student * scale, teacher, power=high)).all()


def test_rkd_of_features_far_from_the_origin_is_right_in_float32() -> None:
    """`|a|^2 + |b|^2 - 2ab` loses every digit there, as `torch.cdist` does beyond 25 examples."""
    student, teacher = features("rkd", examples=26, dtype=torch.float32)
    far = student + 1e4
    assert distance("rkd", far, teacher).item() == pytest.approx(wanted("rkd", far, teacher), rel=1e-3)


@pytest.mark.parametrize("form", RELATIONS)
def test_a_relation_does_not_see_a_rotation_of_the_features(form: str) -> None:
    student, teacher = features(form)
    before = distance(form, student, teacher).item()
    flat = student.flatten(1)
    turned = (flat @ rotation(flat.shape[-1])).view_as(student)
    assert distance(form, turned, teacher).item() == pytest.approx(before, rel=1e-9)


@pytest.mark.parametrize("form", [*RELATIONS, "attention"])
@pytest.mark.parametrize("scale", [1e-16, 0.01, 100.0, 1e20])
def test_a_feature_form_does_not_see_the_size_of_the_features_even_in_float32(form: str, scale: float) -> None:
    student, teacher = features(form, dtype=torch.float32)
    before = distance(form, student, teacher).item()
    assert distance(form, student * scale, teacher).item() == pytest.approx(before, rel=1e-4)
    assert distance(form, student, teacher * scale).item() == pytest.approx(before, rel=1e-4)


@pytest.mark.parametrize("shift", [-10.0, 0.3])
def test_rkd_does_not_see_where_the_features_are(shift: float) -> None:
    student, teacher = features("rkd")
    before = distance("rkd", student, teacher).item()
    assert distance("rkd", student + shift, teacher).item() == pytest.approx(before, rel=1e-9)


@pytest.mark.parametrize("form", ["pkt", "attention"])
def test_a_form_of_directions_does_not_see_the_size_of_one_example(form: str) -> None:
    student, teacher = features(form)
    bigger = student.clone()
    bigger[2] *= 5
    assert distance(form, bigger, teacher).item() == pytest.approx(distance(form, student, teacher).item(), rel=1e-9)


def test_attention_sees_neither_the_order_nor_the_signs_nor_the_number_of_channels() -> None:
    student, teacher = features("attention")
    before = distance("attention", student, teacher).item()
    for other in (student.flip(-2), -student, torch.cat([student, student], -2)):
        assert distance("attention", other, teacher).item() == pytest.approx(before, rel=1e-12)


def test_rkd_is_its_two_parts_by_their_weights() -> None:
    student, teacher = features("rkd")
    parts = [distance("rkd", student, teacher, distance=a, angle=1 - a).item() for a in (1.0, 0.0)]
    found = distance("rkd", student, teacher, distance=3.0, angle=5.0).item()
    assert found == pytest.approx(3 * parts[0] + 5 * parts[1], rel=1e-12)
    assert min(parts) > 0


def given_rows(*values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_hint_worked_by_hand() -> None:
    """(1, 2) is regressed to (1 + 2 + 1, 2 - 1) = (4, 1); the teacher's (6, 0) is (2, -1) away: 5 over two features."""
    weight, bias = given_rows([1, 1], [0, 1]), torch.tensor([1.0, -1.0], dtype=torch.float64)
    assert distance("hint", given_rows([1, 2]), given_rows([6, 0]), weight=weight, bias=bias).item() == 5 / 2


def test_attention_worked_by_hand() -> None:
    """Channels (1, 2) and (sqrt 2, 0) have mean squares (1.5, 2): (.6, .8). From (1, 0): .16 + .64, over two places."""
    student = given_rows([1, 2], [math.sqrt(2), 0])[None]
    assert distance("attention", student, given_rows([7, 0])[None], power=2.0).item() == pytest.approx(0.4, rel=1e-12)


def test_similarity_worked_by_hand() -> None:
    """Unlike each other, the Gram matrix is 1; alike, it is 1 / sqrt 2 everywhere: 2 - sqrt 2 a row, over 2^2."""
    shape = (2, 2, 1) if FEATURES["similarity"].point == "map" else (2, 2)
    student, teacher = given_rows([1, 0], [0, 1]).view(shape), given_rows([3, 0], [3, 0]).view(shape)
    assert distance("similarity", student, teacher).item() == pytest.approx((2 - math.sqrt(2)) / 2, rel=1e-12)


def test_rkd_worked_by_hand() -> None:
    """The student's three stand in a line at distances 1, 1, 2, in units of their mean 3/4, 3/4, 3/2; the teacher's
    in a triangle of sides 1. Angles: cosines 1 at the ends, -1 in the middle; 1/2 in the triangle."""
    student, teacher = given_rows([0], [1], [2]), given_rows([0, 0], [1, 0], [0.5, math.sqrt(3) / 2])
    apart = 2 * (2 * 0.25**2 / 2 + 0.5**2 / 2) / 9
    turned = 2 * (2 * 0.5**2 / 2 + (1.5 - 0.5)) / 27
    assert distance("rkd", student, teacher, distance=1.0, angle=0.0).item() == pytest.approx(apart, rel=1e-9)
    assert distance("rkd", student, teacher, distance=0.0, angle=1.0).item() == pytest.approx(turned, rel=1e-9)


def test_pkt_worked_by_hand() -> None:
    """At a right angle 1 and 1/2 are alike: 2/3, 1/3; in the same direction 1 and 1: 1/2, 1/2. Over all 2 x 2 pairs."""
    student, teacher = given_rows([1, 0], [0, 2]), given_rows([1, 1], [3, 3])
    row = 0.5 * math.log(0.5 * 3 / 2) + 0.5 * math.log(0.5 * 3)
    assert distance("pkt", student, teacher).item() == pytest.approx(2 * row / 4, rel=1e-6)
    assert np.isclose(2 * row / 4, by_numpy.pkt(student.numpy(), teacher.numpy()), rtol=1e-12)
