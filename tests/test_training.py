"""The training of one student: clipping, dropout, smoothing, schedules, early stopping; and what is refused before."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness import cohort, losses, tasks, teacher
from harness.cohort.training import lr_scale
from harness.models import MLP, init
from harness.records import Balance, Curve, Record
from harness.seeds import generator
from harness.spec import PLAIN, StudentSpec
from tests.students import assert_alone_as_together, assert_same, but_for_cost, student, train

DIGITS = tasks.load("digits")
COUNT = len(DIGITS.train)


def by_hand(spec: StudentSpec, cache: Path) -> tuple[Curve, dict[str, Tensor]]:
    """One student of the mlp family taught by `kl`, in a plain loop of the library's parts; its curve, its network."""
    params = init(MLP, spec.width, (1, 8, 8), 10, generator(spec.seed, "init"))
    params = {name: param.requires_grad_() for name, param in params.items()}
    optimiser = torch.optim.AdamW(params.values(), lr=spec.lr, weight_decay=spec.weight_decay)
    steps = COUNT // spec.batch_size
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, spec.epochs * steps)
    targets = teacher.load_logits(DIGITS, cache).train.double()
    orders, masks = generator(spec.seed, "order"), generator(spec.seed, "dropout")
    assert MLP.parts is not None
    temperature = spec.temperature
    assert temperature is not None
    columns: list[tuple[float, ...]] = []
    for _ in range(spec.epochs):
        seen = []
        for rows in torch.split(torch.randperm(COUNT, generator=orders)[: steps * spec.batch_size], spec.batch_size):
            embedding = MLP.parts.embed(params, MLP.prepare(DIGITS.train.inputs[rows].double()))["embedding"]
            if spec.dropout:
                kept = torch.rand(spec.batch_size, spec.width, generator=masks).double() >= spec.dropout
                embedding = torch.where(kept, embedding / (1 - spec.dropout), 0)
            logits = MLP.parts.head(params, embedding)
            ce = F.cross_entropy(logits, DIGITS.train.labels[rows], label_smoothing=spec.label_smoothing)
            log_q, log_p = (F.log_softmax(values / temperature, 1) for values in (logits, targets[rows]))
            kd = temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
            loss = spec.alpha * ce + (1 - spec.alpha) * kd
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if spec.clip_norm:
                torch.nn.utils.clip_grad_norm_(params.values(), spec.clip_norm)
            optimiser.step()
            schedule.step()
            seen.append(torch.stack([loss, ce, kd]).detach())
        with torch.no_grad():
            val = MLP.apply(params, MLP.prepare(DIGITS.val.inputs.double()))
        right = (val.argmax(1) == DIGITS.val.labels).double().mean().item()
        columns.append((*torch.stack(seen).mean(0).tolist(), F.cross_entropy(val, DIGITS.val.labels).item(), right))
    return Curve(*zip(*columns, strict=True)), {name: param.detach() for name, param in params.items()}


def assert_as_by_hand(record: Record, cache: Path) -> None:
    """The curve, and the metrics of the network as it is without dropout, are those of the plain loop."""
    wanted, params = by_hand(record.spec, cache)
    for field in dataclasses.fields(Curve):
        found = getattr(record.curve, field.name)
        assert found == pytest.approx(getattr(wanted, field.name), rel=1e-10), field.name
    logits = MLP.apply(params, MLP.prepare(DIGITS.train.inputs.double()))
    assert record.metrics["train_loss"] == pytest.approx(F.cross_entropy(logits, DIGITS.train.labels).item(), rel=1e-10)
    assert record.metrics["val_loss"] == pytest.approx(wanted.val_loss[-1], rel=1e-10)


@pytest.mark.parametrize(
    "changed",
    [
        {"clip_norm": 0.5}, {"clip_norm": 1.5}, {"dropout": 0.3}, {"dropout": 0.95}, {"label_smoothing": 0.2},
        {"clip_norm": 1.0, "dropout": 0.25, "label_smoothing": 0.1},
    ],
    ids=str,
)  # fmt: skip
def test_clipping_dropout_and_smoothing_are_those_of_an_ordinary_loop(
    changed: dict[str, Any], full_cache: Path
) -> None:
    spec, neighbours = student(seed=7, **changed), [student(), student("mse", dropout=0.6, clip_norm=0.1, seed=2)]
    record = train([neighbours[0], spec, neighbours[1]], full_cache)[1]
    assert_as_by_hand(record, full_cache)
    assert record.metrics != train([student(seed=7)], full_cache)[0].metrics


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_what_a_student_does_to_its_own_training_does_not_touch_its_neighbours(
    optimiser: str, full_cache: Path
) -> None:
    common: dict[str, Any] = {"optimiser": optimiser, "lr": 1e-3}
    own: tuple[dict[str, Any], ...] = (
        {"clip_norm": 0.1}, {"dropout": 0.5}, {"label_smoothing": 0.3}, {"warmup": 0.5}, {"schedule": "constant"},
        {"patience": 1}, {"loss_scale": 3.0}, {"clip_norm": 2.0, "dropout": 0.1, "warmup": 0.1},
    )  # fmt: skip
    specs = [student(seed=1 + i % 2, **changed, **common) for i, changed in enumerate(({}, *own))]
    assert_alone_as_together([*specs, student(PLAIN, dropout=0.2, **common), student(PLAIN, **common)], full_cache)


def test_a_student_that_uses_none_of_it_is_the_same_to_the_bit_beside_those_that_do(full_cache: Path) -> None:
    """Whoever drops, clips, smooths or stops early in the cohort: off is off."""
    for family in ("mlp", "cnn"):
        common: dict[str, Any] = {"family": family, "epochs": 1}
        plain = student(**common)
        busy = student(dropout=0.5, clip_norm=0.1, label_smoothing=0.2, patience=1, warmup=0.3, seed=2, **common)
        found, _ = train([plain, busy], full_cache)
        assert but_for_cost(found) == but_for_cost(train([plain], full_cache)[0])


def test_a_huge_bound_clips_nothing(full_cache: Path) -> None:
    off, huge = train([student(), student(clip_norm=1e9)], full_cache)
    assert_same(dataclasses.replace(huge, spec=off.spec), off, 0)


def test_dropout_leaves_the_mean_as_it_is_and_falls_in_training_alone(full_cache: Path) -> None:
    """At an lr of next to nothing the network stays: its val loss is that without dropout, its train loss is not."""
    still: dict[str, Any] = {"lr": 1e-30, "weight_decay": 0.0, "alpha": 1.0, "epochs": 1}
    off, on = train([student(**still), student(dropout=0.5, **still)], full_cache)
    assert on.metrics == off.metrics
    assert on.curve.val_loss == off.curve.val_loss
    assert on.curve.train_loss != off.curve.train_loss
    # The logits are linear in what is dropped, so kept values over 1 - rate leave their mean; the squared error of a
    # mean that is right grows by the variance alone.
    squared = [student("mse", **{**still, "alpha": 0.0}, dropout=rate, batch_size=49) for rate in (0.0, 0.5)]
    less, more = (record.curve.train_kd[0] for record in train(squared, full_cache))
    assert less < more < less + _variance_of_dropout(0.5) * 1.1


def _variance_of_dropout(rate: float) -> float:
    """What dropping adds to the mean squared error of the first logits: `rate / (1 - rate) sum_j (w_cj h_j)^2`."""
    params = init(MLP, 4, (1, 8, 8), 10, generator(1, "init"))
    assert MLP.parts is not None
    hidden = MLP.parts.embed(params, MLP.prepare(DIGITS.train.inputs.double()))["embedding"]
    terms = hidden[:, None, :] * params["logits.weight"][None]
    return float(rate / (1 - rate) * terms.square().sum(-1).mean())


def test_smoothed_labels_are_the_librarys() -> None:
    logits = torch.randn(3, 20, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(20) % 10
    rates = torch.tensor([0.0, 0.1, 0.9], dtype=torch.float64)
    found = losses.cross_entropy(logits, labels.expand(3, 20), rates)
    wanted = [
        torch.nn.CrossEntropyLoss(label_smoothing=rate)(own, labels)
        for own, rate in zip(logits, rates.tolist(), strict=True)
    ]
    torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-13, atol=0)


def test_labels_are_smoothed_in_training_alone(full_cache: Path) -> None:
    still: dict[str, Any] = {"lr": 1e-30, "weight_decay": 0.0, "epochs": 1}
    off, on = train([student(PLAIN, **still), student(PLAIN, label_smoothing=0.3, **still)], full_cache)
    assert on.metrics == off.metrics
    assert on.curve.train_ce != off.curve.train_ce


def rates(schedule: torch.optim.lr_scheduler.LRScheduler, num_steps: int) -> list[float]:
    """What a scheduler of the library makes of a learning rate of 1, step by step."""
    found = []
    for _ in range(num_steps):
        found.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    return [float(value) for value in found]


@pytest.mark.parametrize("warmup", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("kind", ["cosine", "constant"])
def test_a_schedule_is_the_librarys_after_a_linear_rise(kind: str, warmup: float) -> None:
    num_steps, library = 40, torch.optim.lr_scheduler
    rising = round(warmup * num_steps)
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    after: torch.optim.lr_scheduler.LRScheduler
    if kind == "cosine":
        after = library.CosineAnnealingLR(optimiser, num_steps - rising)
    else:
        after = library.LambdaLR(optimiser, lambda _: 1.0)
    falling = rates(after, num_steps - rising)
    up = []
    if rising:  # from 1/rising at the first step to 1 at the last of them
        optimiser = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        up = rates(library.LinearLR(optimiser, 1 / rising, total_iters=rising - 1), rising)
    found = [lr_scale(kind, warmup, step, num_steps) for step in range(num_steps)]
    assert found == pytest.approx(up + falling, rel=1e-12)


@pytest.mark.parametrize("warmup", [0.0, 1e-9, 0.013, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("kind", ["cosine", "constant"])
@pytest.mark.parametrize("num_steps", [1, 2, 37])
def test_a_schedule_begins_above_zero_and_never_passes_one(kind: str, warmup: float, num_steps: int) -> None:
    found = [lr_scale(kind, warmup, step, num_steps) for step in range(num_steps)]
    assert all(0 < value <= 1 for value in found)
    top = found.index(max(found))
    assert found[: top + 1] == sorted(found[: top + 1])
    assert found[top:] == sorted(found[top:], reverse=True)


def test_students_of_one_cohort_have_each_their_own_schedule(full_cache: Path) -> None:
    kinds = [(kind, warmup) for kind in ("cosine", "constant") for warmup in (0.0, 0.3, 0.6)]
    found = assert_alone_as_together([student(schedule=kind, warmup=warmup) for kind, warmup in kinds], full_cache)
    assert len({record.metrics["val_loss"] for record in found}) == len(kinds)


EAGER: Mapping[str, Any] = {"lr": 0.1, "epochs": 8, "batch_size": 256}
"""A training whose val loss does not fall at every epoch."""


def stopped_at(val_loss: tuple[float, ...], patience: int) -> tuple[int, int]:
    """By the rule: how many epochs a student of such a curve trains, and which was its best, counted from 1."""
    for epoch in range(1, len(val_loss) + 1):
        best = val_loss.index(min(val_loss[:epoch])) + 1
        if epoch - best >= patience:
            return epoch, best
    return len(val_loss), val_loss.index(min(val_loss)) + 1


@pytest.mark.parametrize("patience", [1, 2])
def test_a_student_whose_val_loss_has_not_fallen_stops_and_has_its_best_epoch(patience: int, full_cache: Path) -> None:
    eager = [student(seed=seed, **{**EAGER, "lr": lr}) for seed in (1, 2) for lr in (0.05, 0.1, 0.3)]
    patient = [dataclasses.replace(spec, patience=patience) for spec in eager]
    *found, steady = train([*patient, student("mse", **EAGER)], full_cache)
    assert_same(steady, train([student("mse", **EAGER)], full_cache)[0], 0)
    ends = set()
    for spec, record, whole in zip(patient, found, train(eager, full_cache), strict=True):
        num_epochs, best = stopped_at(whole.curve.val_loss, patience)
        ends.add(num_epochs)
        assert record.status == "ok"
        for field in dataclasses.fields(Curve):
            assert getattr(record.curve, field.name) == getattr(whole.curve, field.name)[:num_epochs]
        assert record.metrics["val_loss"] == pytest.approx(whole.curve.val_loss[best - 1], rel=1e-12)
        assert record.metrics["val_accuracy"] == whole.curve.val_accuracy[best - 1]
        assert record.cost.train_flops == whole.cost.train_flops * num_epochs / EAGER["epochs"]
        assert_same(train([spec], full_cache)[0], record, 0)
    assert len(ends) > 1
    assert min(ends) < EAGER["epochs"]


def test_a_stopped_student_has_no_pull_at_steps_that_it_did_not_take(full_cache: Path) -> None:
    """Its neighbours go on, and it must not show: a record is the same whoever shared the cohort."""
    spec = student(patience=1, seed=1, **{**EAGER, "lr": 1.0})
    together, steady = train([spec, student("mse", **EAGER)], full_cache)
    (alone,) = train([spec], full_cache)
    assert len(alone.curve.val_loss) < EAGER["epochs"] // 2
    assert together.balance == alone.balance
    assert together.balance.kd_ratio[0] is not None
    assert together.balance.kd_ratio[1:] == (None, None)
    assert None not in steady.balance.kd_ratio


def test_a_twin_that_stops_early_costs_what_it_was_trained(full_cache: Path) -> None:
    found = train([student(teacher="self", patience=1, seed=seed, **EAGER) for seed in (1, 2, 3)], full_cache)
    macs = MLP.macs(4, (1, 8, 8), 10)
    one_epoch = 6.0 * macs * (COUNT // 256 * 256)
    for record in found:
        of_twin = record.cost.train_flops / one_epoch - len(record.curve.val_loss)
        assert of_twin == int(of_twin)
        assert 2 <= of_twin <= EAGER["epochs"]


@pytest.mark.parametrize("changed", [{}, {"patience": 1}, {"clip_norm": 1.0}, {"dropout": 0.2}], ids=str)
def test_a_student_that_diverges_is_a_status_whatever_else_it_does(changed: dict[str, Any], full_cache: Path) -> None:
    wild = student("mse", optimiser="sgd", lr=1e200, epochs=3, **changed)
    calm = student("mse", optimiser="sgd", lr=1e-3, epochs=3, seed=2)
    diverged, beside = train([wild, calm], full_cache)
    assert diverged.status == "diverged"
    assert diverged.metrics["val_loss"] == math.log(10)
    assert len(diverged.curve.val_loss) < 3
    assert all(value is None or math.isfinite(value) for value in diverged.balance.kd_ratio)
    assert_same(beside, train([calm], full_cache)[0], 0)


OWN_TASK = '''
"""Two clouds of points to tell apart, a teacher and students of a family that declares no parts."""
import dataclasses
import torch
from harness.models import MLP
from harness.space import Choice, Study
from harness.tasks import LockedSplit, Split, Task, TeacherRecipe

WHOLE = dataclasses.replace(MLP, name="whole", parts=None)

def made():
    source = torch.Generator().manual_seed(0)
    points = [torch.randn(count, 3, generator=source) for count in (128, 64, 64)]
    train, val, test = (Split(inputs, (inputs.sum(1) > 0).long()) for inputs in points)
    families = {"mlp": MLP, "whole": WHOLE}
    return Task("clouds", "made up", 2, train, val, LockedSplit(test), families, TeacherRecipe(WHOLE, 8, 2))

STUDY = Study(task=made, family="mlp", space={"width": Choice(4)}, fixed={"form": "mse"})
'''


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a study whose task has two classes, and a family and a teacher without parts."""
    path = tmp_path_factory.mktemp("study") / "clouds.py"
    path.write_text(OWN_TASK)
    return str(path)


REFUSED_TOGETHER: tuple[tuple[dict[str, Any], str], ...] = (
    ({"family": "conv"}, "unknown family 'conv' of digits; families are cnn, mlp"),
    ({"batch_size": 1079}, "batch_size 1079 is more than the 1078 training examples"),
    ({"feature": "attention"}, "feature 'attention' compares the point 'map'; family 'mlp' has embedding"),
    ({"feature": "hints", "feature_weight": 1.0}, "unknown feature 'hints'; features are none, hint, attention, "),
    ({"transform": "flip", "views": 2}, "unknown transform 'flip' of digits; transforms are none, shift, noise"),
    ({"teacher_epochs": 16}, "teacher_epochs 16 is more than the 15 of digits's teacher"),
    ({"form": "dkd", "knobs": (("dkd.rest", 8.0), ("dkd.target", 1.0))}, "knob 'dkd.warmup' is missing; dkd takes "),
    ({"knobs": (("dkd.rest", 8.0),)}, "knob 'dkd.rest' is not its own; kl takes no knobs of its own"),
    ({"form": "smooth_l1", "knobs": (("smooth_l1.beta", 0.0),)}, "smooth_l1.beta 0.0 is out of range; it must be a nu"),
    ({"form": "gjsd", "knobs": (("gjsd.beta", 0.95),)}, "gjsd.beta 0.95 is out of range; it must be a number from 0.1"),
    ({"feature": "rkd", "knobs": (("rkd.angle", 50.0),)}, "knob 'rkd.distance' is missing; kl/rkd takes rkd.distance"),
    ({"form": "kll", "temperature": 4.0}, "unknown form 'kll'; forms are kl, soft_ce, "),
    ({"temperature": None}, "form 'kl' needs a temperature; add one to the study's space or fixed knobs"),
    ({"form": "mse", "temperature": 2.0}, "form 'mse' takes no temperature; only kl, soft_ce, "),
)  # fmt: skip


@pytest.mark.parametrize(("changed", "message"), REFUSED_TOGETHER)
def test_a_student_that_does_not_fit_its_task_is_refused_in_one_line(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        cohort.check(student(**changed))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


REFUSED_ALONE: tuple[tuple[dict[str, Any], str], ...] = (
    ({"feature": "hint", "feature_weight": 0.0}, "feature 'hint' with feature_weight 0: one needs the other"),
    ({"feature_weight": 2.0}, "feature 'none' with feature_weight 2: one needs the other"),
    ({"teacher": "assistant", "assistants": "16>x"}, "assistants '16>x' must be widths parted by '>', as '16>8'"),
    ({"teacher": "assistant", "assistants": "16>0"}, "assistants '16>0' must be widths parted by '>', as '16>8'"),
    ({"teacher": "assistant", "assistants": ""}, "assistants '' must be widths parted by '>', as '16>8', or 'none'"),
    ({"teacher": "assistant"}, "teacher 'assistant' with assistants 'none': 'assistant' needs widths, as '16>8'"),
    ({"assistants": "8"}, "teacher 'offline' with assistants '8': 'assistant' needs widths, as '16>8'"),
    ({"feature": "hint", "teacher": "online"}, "feature 'hint' needs a network trained beforehand, not teacher 'onli"),
    ({"feature": "hint", "teacher": "uniform"}, "feature 'hint' needs a network trained beforehand, not teacher 'uni"),
    ({"teacher": "self", "teacher_width": 4}, "teacher 'self' takes no teacher_width: it is no network of the task's"),
    ({"teacher": "online", "teacher_epochs": 2}, "teacher 'online' takes no teacher_epochs: it is not trained before"),
    ({"views": 2}, "transform 'none' with views 2: a transform needs at least 2 views"),
    ({"transform": "shift"}, "transform 'shift' with views 1: a transform needs at least 2 views"),
    ({"form": PLAIN, "teacher": "self"}, "form 'ce' is plain training: it takes no teacher, no feature form and no"),
    ({"form": PLAIN, "loss_scale": 2.0}, "form 'ce' is plain training: it takes no teacher, no feature form and no"),
    ({"teacher": "oracle"}, "unknown teacher 'oracle'; choices are offline, online, assistant, self, uniform, shuf"),
    ({"dropout": 0.96}, "dropout 0.96 is out of range; it must be a number from 0 to 0.95"),
    ({"label_smoothing": 1.0}, "label_smoothing 1.0 is out of range; it must be a number from 0 to 0.9999"),
    ({"warmup": 1.1}, "warmup 1.1 is out of range; it must be a number from 0 to 1"),
    ({"clip_norm": -1.0}, "clip_norm -1.0 is out of range; it must be a number of at least 0"),
    ({"patience": 0.5}, "patience 0.5 is out of range; it must be a whole number of at least 0"),
)  # fmt: skip


@pytest.mark.parametrize(("changed", "message"), REFUSED_ALONE)
def test_knobs_that_contradict_each_other_are_refused_in_one_line(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        student(**changed)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"form": "dkd"}, "form 'dkd' needs at least 3 classes; clouds has 2"),
        ({"form": "nkd"}, "form 'nkd' needs at least 3 classes; clouds has 2"),
        ({"family": "whole", "dropout": 0.5}, "dropout 0.5: it falls on what the last layer reads; 'whole' declares"),
        ({"family": "whole", "feature": "rkd"}, "feature 'rkd' compares the point 'embedding'; family 'whole' has no"),
        ({"feature": "rkd"}, "feature 'rkd' compares the point 'embedding'; teacher's family 'whole' has no feature"),
        ({"transform": "shift", "views": 2}, "unknown transform 'shift' of clouds; transforms are none"),
        ({"teacher_epochs": 3}, "teacher_epochs 3 is more than the 2 of clouds's teacher"),
    ],
)  # fmt: skip
def test_a_task_of_ones_own_has_its_own_bounds(changed: dict[str, Any], message: str, clouds: str) -> None:
    with pytest.raises(ValueError) as caught:
        cohort.check(student(**{"task": clouds, **changed}))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_what_a_family_without_parts_can_do_it_does(clouds: str, tmp_path: Path) -> None:
    common: dict[str, Any] = {"task": clouds, "batch_size": 32}
    whole = [student(form, family="whole", **common) for form in ("kl", "wsld", "dist", PLAIN)]
    whole.append(student(family="whole", teacher="self", **common))
    assert_alone_as_together(whole, tmp_path)
    # The twin and the assistant are of the student's family, which has parts, though the teacher's has none.
    features = [student(feature="rkd", teacher="self", **common), student(dropout=0.5, **common)]
    found = assert_alone_as_together(features, tmp_path)
    assert found[1].balance != Balance()
