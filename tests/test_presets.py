"""Presets against the published objectives, each written out here a second time, in torch and in its authors' terms."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.forms import FEATURE_KNOBS, KNOBS
from harness.losses import LOSSES
from harness.presets import PRESETS, preset
from harness.space import Choice, Study
from harness.spec import MIXINGS, NONE, RANGES, check_range

ROOT = Path(__file__).parents[1]
CLASSES = 7
PROGRESS = 5 / 240
"""A share of training at which DKD's warm-up (20 of 240 epochs) has risen to a quarter."""
Objective = Callable[[Tensor, Tensor, Tensor], Tensor]


def number(fixed: dict[str, str | float], key: str) -> float:
    value = fixed[key]
    assert isinstance(value, float)
    return value


def soft(logits: Tensor, temperature: float = 1.0) -> Tensor:
    return torch.softmax(logits / temperature, dim=1)


def summed_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(p || q) summed over batch and classes, without T^2."""
    return F.kl_div(F.log_softmax(student / temperature, dim=1), soft(teacher, temperature), reduction="sum")


def hinton(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return temperature**2 * summed_kl(student, teacher, temperature) / len(student)


def article(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(student, labels) + 0.5 * F.mse_loss(student, teacher)


def repdistiller_kd(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    r, a, kd_temperature = 0.1, 0.9, 4
    return r * F.cross_entropy(student, labels) + a * hinton(student, teacher, kd_temperature)


def kd_lib(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    weight, temperature = 0.5, 20
    apart = F.mse_loss(soft(teacher, temperature), soft(student, temperature))
    return (1 - weight) * F.cross_entropy(student, labels) + weight * temperature**2 * apart


def dkd(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    alpha, beta, temperature, epoch, warmup = 1, 8, 4, 5, 20
    others = 1 - F.one_hot(labels, student.shape[1])
    q, p = soft(student, temperature), soft(teacher, temperature)
    q_two, p_two = (torch.stack([1 - (x * others).sum(1), (x * others).sum(1)], dim=1) for x in (q, p))
    tckd = (p_two * (p_two / q_two).log()).sum() / len(labels)
    q_rest, p_rest = ((x * others) / (x * others).sum(1, keepdim=True) for x in (q, p))
    nckd = (p_rest * ((p_rest + 1 - others) / (q_rest + 1 - others)).log()).sum() / len(labels)
    risen = min(epoch / warmup, 1.0)
    return F.cross_entropy(student, labels) + risen * temperature**2 * (alpha * tckd + beta * nckd)


def torchdistill_kd(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    alpha, temperature = 0.5, 1.0
    return alpha * F.cross_entropy(student, labels) + (1 - alpha) * hinton(student, teacher, temperature)


def haitongli_kd(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    alpha, temperature = 0.9, 20
    averaged = summed_kl(student, teacher, temperature) / student.numel()  # what nn.KLDivLoss() does
    return averaged * (alpha * temperature * temperature) + F.cross_entropy(student, labels) * (1 - alpha)


def pytorch_tutorial(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    temperature = 2
    crossed = -torch.sum(soft(teacher, temperature) * F.log_softmax(student / temperature, dim=-1))
    return 0.25 * crossed / len(student) * temperature**2 + 0.75 * F.cross_entropy(student, labels)


def keras_example(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    alpha, temperature = 0.1, 10
    return alpha * F.cross_entropy(student, labels) + (1 - alpha) * hinton(student, teacher, temperature)


def logit_standard(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    z_s, z_t = ((x - x.mean(-1, keepdim=True)) / (1e-7 + x.std(-1, keepdim=True)) for x in (student, teacher))
    return 0.1 * F.cross_entropy(student, labels) + 9 * hinton(z_s, z_t, 2)


def dist(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    def unlike(a: Tensor, b: Tensor) -> Tensor:
        centred = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
        return 1 - F.cosine_similarity(*centred, dim=1).mean()

    q, p = soft(student), soft(teacher)
    return F.cross_entropy(student, labels) + unlike(q, p) + unlike(q.T, p.T)


def nkd_at(temperature: float, gamma: float) -> Objective:
    def nkd(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        index = labels[:, None]
        target = -(soft(teacher).gather(1, index) * F.log_softmax(student, dim=1).gather(1, index)).mean()
        others = torch.ones_like(student).scatter_(1, index, 0).bool()
        z_s, z_t = (x[others].reshape(len(x), -1) / temperature for x in (student, teacher))
        rest = -(soft(z_t) * F.log_softmax(z_s, dim=1)).sum(dim=1).mean()
        return F.cross_entropy(student, labels) + target + gamma * temperature**2 * rest

    return nkd


def wsld(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    alpha, temperature = 2.5, 2
    hard_s, hard_t = (F.cross_entropy(x.detach(), labels, reduction="none") for x in (student, teacher))
    crossed = -(soft(teacher, temperature) * F.log_softmax(student / temperature, dim=1)).sum(1)
    weighted = (1 - torch.exp(-hard_s / hard_t)) * crossed
    return F.cross_entropy(student, labels) + alpha * temperature**2 * weighted.mean()


def ctkd(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    theta = 1.0  # where it starts
    temperature = 1 + 20 / (1 + math.exp(-theta))
    return 0.1 * F.cross_entropy(student, labels) + 0.9 * hinton(student, teacher, temperature)


PUBLISHED: dict[str, Objective] = {
    "article": article,
    "repdistiller_kd": repdistiller_kd,
    "mdistiller_kd": repdistiller_kd,
    "dkd": dkd,
    "kd_lib": kd_lib,
    "torchdistill_kd": torchdistill_kd,
    "haitongli_kd": haitongli_kd,
    "pytorch_tutorial": pytorch_tutorial,
    "keras_example": keras_example,
    "logit_standard": logit_standard,
    "dist": dist,
    "nkd": nkd_at(temperature=1, gamma=1.5),
    "nkd_cifar": nkd_at(temperature=3, gamma=3.5),
    "wsld": wsld,
    "ctkd": ctkd,
    "kim_mse": lambda student, teacher, _: F.mse_loss(student, teacher),
    "kim_smooth_l1": lambda student, teacher, _: F.smooth_l1_loss(student, teacher),
}


def ours(name: str, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """The objective that a study with this preset trains on, but for its feature form."""
    fixed = preset(name, student.shape[1])
    form = LOSSES[str(fixed["form"])]
    values = {knob: number(fixed, "temperature" if knob == "temperature" else f"{fixed['form']}.{knob}")
              for knob in form.knobs}  # fmt: skip
    given = {knob: torch.tensor(value, dtype=student.dtype) for knob, value in (values | dict(form.learned)).items()}
    taken = {key: value for key, value in {"labels": labels, "progress": PROGRESS}.items() if key in form.takes}
    kd = form.function(student, teacher, **given, **taken)
    ce, alpha, scale = F.cross_entropy(student, labels), number(fixed, "alpha"), number(fixed, "loss_scale")
    mixed = ce + alpha * kd if fixed["mixing"] == "additive" else alpha * ce + (1 - alpha) * kd
    assert isinstance(mixed, Tensor)
    return scale * mixed


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_is_the_published_objective(name: str) -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, CLASSES, generator=draw, dtype=torch.float64) * 3
    labels = torch.randint(0, CLASSES, (6,), generator=draw)
    student.requires_grad_()
    mine, theirs = ours(name, student, teacher, labels), PUBLISHED[name](student, teacher, labels)
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)
    (my_gradient,) = torch.autograd.grad(mine, student)
    (their_gradient,) = torch.autograd.grad(theirs, student)
    torch.testing.assert_close(my_gradient, their_gradient, rtol=1e-6, atol=1e-9)


def test_every_preset_is_held_to_its_publication_but_those_whose_logit_loss_weighs_nothing() -> None:
    assert set(PUBLISHED) == {name for name, made in PRESETS.items() if made.kd_weight > 0}


def test_kd_lib_by_hand() -> None:
    """Two classes: softmax([0, 20 ln 3] / 20) is [1/4, 3/4], softmax([0, 0] / 20) is [1/2, 1/2], label 0.

    nn.MSELoss() is (1/16 + 1/16) / 2 = 1/16, T^2 times that 25; cross-entropy is 20 ln 3 + ln(1 + 3^-20).
    """
    student = torch.tensor([[0.0, 20 * math.log(3)]], dtype=torch.float64)
    teacher = torch.zeros(1, 2, dtype=torch.float64)
    wanted = 0.5 * (20 * math.log(3) + math.log1p(3.0**-20)) + 0.5 * 25
    assert ours("kd_lib", student, teacher, torch.tensor([0])).item() == pytest.approx(wanted, rel=1e-12)


def test_kd_libs_mean_over_classes_becomes_a_smaller_weight() -> None:
    fixed = preset("kd_lib", 10)
    assert fixed["alpha"] == pytest.approx(10 / 11) and fixed["loss_scale"] == pytest.approx(0.55)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_alpha_and_loss_scale_are_the_published_weights(name: str, classes: int) -> None:
    made, fixed = PRESETS[name], preset(name, classes)
    alpha, scale = number(fixed, "alpha"), number(fixed, "loss_scale")
    kd_weight = made.kd_weight / classes if made.per_class else made.kd_weight
    ce, kd = (1.0, alpha) if fixed["mixing"] == "additive" else (alpha, 1 - alpha)
    assert scale * ce == pytest.approx(made.ce_weight, abs=1e-12)
    assert scale * kd == pytest.approx(kd_weight, abs=1e-12)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_names_every_knob_of_its_forms_and_nothing_else(name: str) -> None:
    made = PRESETS[name]
    for given, known in ((made.knobs, KNOBS[made.form]), (made.feature_knobs, FEATURE_KNOBS.get(made.feature, {}))):
        assert set(given) == set(known)
        assert all(known[knob].allowed.admits(value) for knob, value in given.items())
    assert made.feature == NONE or made.feature in FEATURE_KNOBS
    assert (made.feature != NONE) == (made.feature_weight > 0)
    assert made.mixing in MIXINGS and made.source


@pytest.mark.parametrize("name", PRESETS)
def test_a_study_takes_a_preset_as_it_is(name: str) -> None:
    fixed = preset(name, 10)
    for knob in set(fixed) & set(RANGES):
        check_range(knob, fixed[knob])
    study = Study(task="digits", family="mlp", space={"width": Choice(4, 8)}, fixed=fixed)
    spec = study.specs({"width": 4}, plain=False, task="digits")[0]
    assert (spec.form, spec.alpha, spec.loss_scale) == (fixed["form"], fixed["alpha"], fixed["loss_scale"])
    assert set(spec.knobs) == {(knob, value) for knob, value in fixed.items() if "." in knob}


def test_an_unknown_preset_is_one_clear_line() -> None:
    with pytest.raises(ValueError, match=r"^unknown preset 'kd'; presets are article, repdistiller_kd, .*[^\n]$"):
        preset("kd", 10)


@pytest.mark.parametrize("classes", [1, 0, True, 2.5])
def test_a_preset_needs_a_number_of_classes(classes: int) -> None:
    with pytest.raises(ValueError, match=r"num_classes .* must be a whole number of at least 2"):
        preset("kd_lib", classes)


def test_presets_need_no_torch() -> None:
    code = "import sys, harness.presets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_page_on_losses_has_every_form_and_preset() -> None:
    page = (ROOT / "docs" / "losses.md").read_text()
    for name in (*KNOBS, *FEATURE_KNOBS, *PRESETS):
        assert re.search(rf"^\| `{name}` \|", page, flags=re.MULTILINE), name


def test_the_study_on_the_page_is_one() -> None:
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "losses.md").read_text(), flags=re.DOTALL)
    found: dict[str, object] = {}
    exec(code, found)
    assert isinstance(found["STUDY"], Study)
