"""Every loss form and feature form in fused training: the numbers it has alone, own knobs, own learned parts, pulls."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness import cohort, losses, tasks, teacher
from harness.cohort.run import _train_cohort
from harness.forms import FEATURE_KNOBS, KNOBS
from harness.losses import FEATURES, LOSSES
from harness.models import CONV, MLP, init
from harness.models.family import start
from harness.records import Balance
from harness.seeds import generator
from harness.spec import MIXINGS, OPTIMISERS, PLAIN, StudentSpec
from tests.students import assert_alone_as_together, student, train

LR = {"adamw": 1e-2, "adam": 1e-2, "sgd": 1e-3}


def turned(spec: StudentSpec, way: int) -> StudentSpec:
    """The student with its form's and its feature form's knobs at an end of what is sensible to search."""
    tables = {spec.form: KNOBS.get(spec.form, {}), spec.feature: FEATURE_KNOBS.get(spec.feature, {})}
    ends = {f"{form}.{name}": (knob.low, knob.high)[way] for form, own in tables.items() for name, knob in own.items()}
    temperature = ends.pop(f"{spec.form}.temperature", None)
    return dataclasses.replace(spec, temperature=temperature, knobs=tuple(sorted(ends.items())))


def learned(specs: list[StudentSpec], cache: Path) -> list[dict[str, Tensor]]:
    """What each student's losses have learned by the end of training, by name."""
    result = _train_cohort(specs, cache, "cpu").cohort
    found: list[dict[str, Tensor]] = [{} for _ in specs]
    for run in result.learned:
        assert run.learned is not None
        for place, student_at in enumerate(range(run.members.start, run.members.stop)):
            found[student_at] |= {name: view[place].detach() for name, view in run.learned.views.items()}
    return found


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_every_form_under_every_mixing_trains_fused_as_alone(optimiser: str, full_cache: Path) -> None:
    """AdamW's under both, the others', which see of it a gradient like any other, under one in turn."""
    specs = [
        student(
            form, mixing=mixing, optimiser=optimiser, lr=LR[optimiser], seed=1 + i % 3, alpha=0.1 + i / 25, epochs=1
        )
        for i, form in enumerate(LOSSES)
        for mixing in (MIXINGS if optimiser == "adamw" else MIXINGS[i % 2 :][:1])
    ]
    found = assert_alone_as_together([*specs, student(PLAIN, optimiser=optimiser, epochs=1)], full_cache)
    # The gradient of `soft_ce` is that of `kl`, so under one seed, alpha and lr they would be the same student.
    assert len({record.metrics["val_loss"] for record in found}) == len(found)


def test_every_form_trains_fused_as_alone_in_float32_too(full_cache: Path) -> None:
    """Not the narrowest: where it answers an example with all but constant logits, as a network of 4 units may, the
    gradient of a form that does not see their scale magnifies rounding (measured: by 100 at width 4, not at 16)."""
    own: dict[str, Any] = {"width": 16, "dtype": "float32", "epochs": 1, "lr": 3e-3}
    specs = [student(form, seed=1 + i % 3, **own) for i, form in enumerate(LOSSES)]
    assert_alone_as_together(specs, full_cache, tolerance=1e-5)
    common: dict[str, Any] = {"family": "cnn", "batch_size": 32, "dtype": "float32", "epochs": 1, "lr": 1e-3}
    assert_alone_as_together([student(feature=name, **common) for name in FEATURES], full_cache, tolerance=1e-5)


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_every_feature_form_trains_fused_as_alone(optimiser: str, full_cache: Path) -> None:
    common: dict[str, Any] = {"family": "cnn", "batch_size": 32, "epochs": 1, "optimiser": optimiser, "lr": 1e-3}
    specs = [student(feature=name, seed=1 + i % 2, **common) for i, name in enumerate(FEATURES)]
    specs += [student("mse", feature=name, feature_weight=0.5, seed=3, **common) for name in ("hint", "attention")]
    assert_alone_as_together([*specs, student("mse", **common), student(PLAIN, **common)], full_cache)


def test_feature_forms_train_fused_as_alone_on_a_network_without_a_map(full_cache: Path) -> None:
    common: dict[str, Any] = {"batch_size": 32, "epochs": 1}
    specs = [student(form, feature=name, **common) for name in ("hint", "rkd") for form in ("kl", "mse")]
    assert_alone_as_together([*specs, student(**common)], full_cache)


def test_students_whose_teachers_have_features_of_other_sizes_share_a_cohort(full_cache: Path) -> None:
    """The task's teacher, a narrower one of its recipe, a twin and two assistants: maps and embeddings all differ."""
    sources: tuple[dict[str, Any], ...] = (
        {}, {"teacher_width": 4, "teacher_epochs": 1}, {"teacher": "self"},
        {"teacher": "assistant", "assistants": "5"}, {"teacher": "assistant", "assistants": "6"},
    )  # fmt: skip
    common: dict[str, Any] = {"family": "cnn", "batch_size": 256, "epochs": 1}
    specs = [student(feature=name, **source, **common) for name in ("hint", "attention") for source in sources]
    assert_alone_as_together(specs, full_cache)


@pytest.mark.parametrize("form", [form for form, knobs in KNOBS.items() if knobs])
def test_students_of_one_form_have_each_their_own_knobs(form: str, full_cache: Path) -> None:
    """The knobs differ, the numbers too, and each student's are those it has alone."""
    plain = student(form, epochs=1)
    low, high = assert_alone_as_together([turned(plain, 0), turned(plain, 1)], full_cache)
    assert low.curve.train_kd != high.curve.train_kd


@pytest.mark.parametrize(("feature", "family"), [("attention", "cnn"), ("rkd", "mlp")])
def test_students_of_one_feature_form_have_each_their_own_knobs(feature: str, family: str, full_cache: Path) -> None:
    plain = student(feature=feature, family=family, epochs=1, batch_size=32, feature_weight=100.0)
    low, high = assert_alone_as_together([turned(plain, 0), turned(plain, 1)], full_cache)
    assert low.curve.val_loss != high.curve.val_loss
    assert low.balance.feature_ratio != high.balance.feature_ratio


def test_the_weight_of_a_feature_form_is_the_students_own(full_cache: Path) -> None:
    weights = (0.5, 1.0, 2.0)
    found = train([student(feature="hint", epochs=1, feature_weight=weight) for weight in weights], full_cache)
    ratios = [record.balance.feature_ratio[0] for record in found]
    assert ratios[0] == ratios[1] == ratios[2]  # the weight is not in what is measured
    assert len({record.metrics["val_loss"] for record in found}) == 3


def test_the_temperature_that_ctkd_learns_moves_and_is_the_students_own(full_cache: Path) -> None:
    specs = [student("ctkd", seed=1), student("ctkd", seed=2), student("ctkd", seed=2, lr=3e-2)]
    together = [parts["theta"] for parts in learned(specs, full_cache)]
    alone = [learned([spec], full_cache)[0]["theta"] for spec in specs]
    assert torch.allclose(torch.stack(together), torch.stack(alone), rtol=1e-10, atol=0)
    assert all(abs(theta.item() - LOSSES["ctkd"].learned["theta"]) > 1e-3 for theta in together)
    assert len({theta.item() for theta in together}) == 3


def test_the_regressor_that_hint_learns_starts_from_the_students_seed_and_moves(full_cache: Path) -> None:
    specs = [student(feature="hint", seed=1), student("mse", feature="hint", seed=1), student(feature="hint", seed=2)]
    train(specs, full_cache)
    layers = FEATURES["hint"].learned
    assert layers is not None
    starts = [start(layers(4, 64), generator(spec.seed, "hint"))["hint.weight"] for spec in specs]
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])
    for spec, first, after in zip(specs, starts, learned(specs, full_cache), strict=True):
        moved = (after["hint.weight"] - first).abs()
        assert 1e-3 < moved.max() < 0.5  # so many steps of Adam at its lr move no number further: it is that start
        assert after["hint.bias"].abs().max() > 1e-3
        (alone,) = learned([spec], full_cache)
        assert all(torch.allclose(alone[name], value, rtol=1e-9, atol=1e-12) for name, value in after.items())


OWN_FORM = '''
"""A study with a form of its own: Huber's loss of the logits' differences, moved by a number that it learns."""
import torch
from harness.forms import Form, Knob
from harness.space import Choice, Study

def moved_huber(student_logits, teacher_logits, *, delta, labels, shift):
    assert labels.shape == student_logits.shape[:-1]
    gap = student_logits - teacher_logits - shift[..., None, None]
    size = delta[..., None, None]
    huber = torch.where(gap.abs() < size, gap.square() / 2, size * (gap.abs() - size / 2))
    return huber.mean((-1, -2)) + huber.gather(-1, labels[..., None]).mean((-1, -2))

FORMS = {"moved_huber": Form(moved_huber, {"delta": Knob(1.0, 0.1, 10.0)}, takes=("labels",), learned={"shift": 0.0})}
STUDY = Study(task="digits", family="mlp", space={"width": Choice(4)}, fixed={"form": "moved_huber"}, forms=FORMS)
'''


def test_a_form_of_the_users_own_study_trains_like_any_other(tmp_path: Path, full_cache: Path) -> None:
    path = tmp_path / "own_form.py"
    path.write_text(OWN_FORM)

    def own(delta: float, seed: int) -> StudentSpec:
        return student("moved_huber", knobs=(("moved_huber.delta", delta),), form_file=str(path), seed=seed)

    specs = [own(1.0, 1), own(5.0, 1), own(1.0, 2), student(form_file=str(path)), student(PLAIN)]
    found = assert_alone_as_together(specs, full_cache)
    assert len({record.metrics["val_loss"] for record in found}) == len(specs)
    shifts = [parts["shift"].item() for parts in learned(specs[:3], full_cache)]
    assert all(abs(shift) > 1e-3 for shift in shifts)
    assert len(set(shifts)) == 3
    with pytest.raises(ValueError, match=r"^unknown form 'moved_huber'; forms are kl, .*, or ce for plain training$"):
        cohort.check(dataclasses.replace(specs[0], form_file=""))
    with pytest.raises(ValueError, match=r"^knob 'moved_huber.delta' is missing; moved_huber takes moved_huber.delta$"):
        cohort.check(dataclasses.replace(specs[0], knobs=()))


def by_autograd(spec: StudentSpec, cache: Path) -> dict[str, Tensor]:
    """The gradients of one student's CE, distillation and hint loss at its first step, plainly, each as one row."""
    task = tasks.load("digits")
    params = init(MLP, spec.width, (1, 8, 8), 10, generator(spec.seed, "init"))
    params = {name: param.requires_grad_() for name, param in params.items()}
    order = torch.randperm(len(task.train), generator=generator(spec.seed, "order"))[: spec.batch_size]
    inputs, labels = MLP.prepare(task.train.inputs[order].double()), task.train.labels[order]
    logits, targets = MLP.apply(params, inputs), teacher.load_logits(task, cache).train[order].double()
    knobs = {"temperature": torch.tensor(spec.temperature).double()} if spec.temperature else {}
    kept = {
        "ce": torch.nn.functional.cross_entropy(logits, labels),
        "kd": LOSSES[spec.form].function(logits, targets, **knobs),
    }
    if spec.feature == "hint":
        noise = torch.randn(64, spec.width, generator=generator(spec.seed, "hint"), dtype=torch.float64)
        weights = teacher.load_weights(task, cache)
        assert MLP.parts is not None and CONV.parts is not None
        wanted = CONV.parts.embed(weights, task.train.inputs[order])["embedding"].double()
        guess = MLP.parts.embed(params, inputs)["embedding"] @ (noise / spec.width**0.5).T
        kept["feature"] = (guess - wanted).square().mean()
    found = {}
    for name, value in kept.items():
        grads = torch.autograd.grad(value, list(params.values()), retain_graph=True, allow_unused=True)
        filled = [torch.zeros_like(p) if g is None else g for g, p in zip(grads, params.values(), strict=True)]
        found[name] = torch.cat([grad.flatten() for grad in filled])
    return found


@pytest.mark.parametrize("form", ["kl", "mse", "js"])
def test_the_balance_is_that_of_the_gradients_of_the_first_step(form: str, full_cache: Path) -> None:
    spec = student(form, epochs=1, seed=5)
    grads = by_autograd(spec, full_cache)
    record = train([spec, student("dkd", epochs=1), student(PLAIN, epochs=1)], full_cache)[0]
    assert record.balance.kd_ratio[0] == pytest.approx((grads["kd"].norm() / grads["ce"].norm()).item(), rel=1e-10)
    cosine = grads["kd"] @ grads["ce"] / grads["kd"].norm() / grads["ce"].norm()
    assert record.balance.kd_cosine[0] == pytest.approx(cosine.item(), rel=1e-10)
    assert record.balance.feature_ratio == ()


def test_the_balance_of_a_feature_form_is_that_of_its_gradient_at_the_network(full_cache: Path) -> None:
    """The teacher's features are float32, and what it computes in a smaller batch is not theirs to the last bit."""
    spec = student(feature="hint", feature_weight=7.0, epochs=1, seed=5)
    (record,) = train([spec], full_cache)
    grads = by_autograd(spec, full_cache)
    wanted = (grads["feature"].norm() / grads["ce"].norm()).item()
    assert record.balance.feature_ratio[0] == pytest.approx(wanted, rel=1e-5)


def test_forms_of_equal_gradient_have_equal_ratios_and_a_sum_has_classes_times_a_means(full_cache: Path) -> None:
    specs = [student(form, epochs=1) for form in ("kl", "soft_ce", "mse", "squared_norm")]
    kl, soft_ce, mse, squared_norm = (record.balance for record in train(specs, full_cache))
    assert kl.kd_ratio == pytest.approx(soft_ce.kd_ratio, rel=1e-10)
    assert kl.kd_cosine == pytest.approx(soft_ce.kd_cosine, rel=1e-10)
    assert mse.kd_ratio[0] is not None
    assert squared_norm.kd_ratio[0] == pytest.approx(10 * mse.kd_ratio[0], rel=1e-10)
    assert squared_norm.kd_cosine[0] == pytest.approx(mse.kd_cosine[0], rel=1e-10)


def test_a_form_that_is_warmed_up_is_measured_warm(full_cache: Path) -> None:
    """`dkd` weighs nothing at the first step of its warm-up; its gradient is measured all the same."""
    warm = (("dkd.rest", 8.0), ("dkd.target", 1.0), ("dkd.warmup", 0.3))
    cold = (("dkd.rest", 8.0), ("dkd.target", 1.0), ("dkd.warmup", 0.0))
    first, second = train([student("dkd", knobs=knobs, epochs=1) for knobs in (warm, cold)], full_cache)
    assert first.balance.kd_ratio[0] == second.balance.kd_ratio[0]
    assert first.metrics != second.metrics


def test_a_student_has_the_balance_of_what_it_has(full_cache: Path) -> None:
    specs = [student(PLAIN), student(), student(feature="similarity")]
    plain, taught, featured = (record.balance for record in train(specs, full_cache))
    assert plain == Balance()
    assert (len(taught.kd_ratio), len(taught.kd_cosine), taught.feature_ratio) == (3, 3, ())
    assert len(featured.feature_ratio) == 3
    for value in (*taught.kd_ratio, *featured.kd_ratio, *featured.feature_ratio):
        assert value is not None and value > 0
    assert all(value is not None and -1 <= value <= 1 for value in taught.kd_cosine)


@pytest.mark.parametrize("form", ["kl", "mse"])
@pytest.mark.parametrize("mixing", MIXINGS)
def test_a_loss_scale_multiplies_the_objective(form: str, mixing: str, full_cache: Path) -> None:
    """Under SGD twice the objective at half the learning rate is the same student."""
    common: dict[str, Any] = {"optimiser": "sgd", "weight_decay": 0.0, "mixing": mixing}
    specs = [student(form, lr=4e-3, **common), student(form, lr=2e-3, loss_scale=2.0, **common)]
    once, twice = train(specs, full_cache)
    assert twice.curve.train_loss == pytest.approx([2 * value for value in once.curve.train_loss], rel=1e-10)
    for name in ("train_ce", "train_kd", "val_loss"):
        assert getattr(twice.curve, name) == pytest.approx(getattr(once.curve, name), rel=1e-10)
    assert twice.metrics == pytest.approx(dict(once.metrics), rel=1e-10)
    assert twice.balance.kd_ratio == pytest.approx(once.balance.kd_ratio, rel=1e-10)
    assert losses.weights(specs[1]) == tuple(2 * weight for weight in losses.weights(specs[0]))
