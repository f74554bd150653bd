"""Training examples without a label: in what order they come, what they weigh, and who does not notice them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harness import cohort, losses, tasks, teacher
from harness.batches import epochs, epochs_of, labelled_in_batch
from harness.cohort.run import train_each, train_part
from harness.costs import How
from harness.losses import LOSSES
from harness.models import init
from harness.records import Record
from harness.seeds import generator
from harness.spec import MIXINGS
from harness.tasks import UNLABELLED, LockedSplit, Split, Task
from tests.small_texts import CLASSES, LENGTH, POOLED, few, named, study
from tests.students import assert_alone_as_together, assert_same, but_for_cost, student, train

COMMON: dict[str, Any] = {"family": "bag", "batch_size": 16, "epochs": 3, "lr": 0.03}


def split_with(labelled: int, others: int) -> Split:
    """The labelled ones first."""
    labels = torch.cat([torch.arange(labelled) % 3, torch.full((others,), UNLABELLED)])
    return Split(torch.zeros(labelled + others, 2), labels)


@given(st.integers(1, 40), st.integers(1, 120), st.integers(2, 40), st.integers(1, 3))
def test_every_batch_begins_with_labelled_ones_and_none_comes_again_before_all_have(
    labelled: int, others: int, batch_size: int, num_views: int
) -> None:
    train = split_with(labelled, others)
    if batch_size > len(train):
        return
    first = labelled_in_batch(train, batch_size)
    assert first == max(1, batch_size // 4)
    for rows in epochs_of(train, 3, num_views, batch_size, 2):
        assert len(rows) == len(train) // batch_size * batch_size  # as many as if all had a label
        assert int(rows.min()) >= 0 and int(rows.max()) < num_views * len(train)
        batches = (rows % len(train)).view(-1, batch_size)
        for part, low, count in ((batches[:, :first], 0, labelled), (batches[:, first:], labelled, others)):
            assert ((part >= low) & (part < low + count)).all()
            times = torch.bincount(part.flatten() - low, minlength=count)
            assert times.max() - times.min() <= 1


def test_of_many_without_a_label_each_comes_at_most_once_an_epoch_and_in_another_order_in_the_next() -> None:
    train = split_with(20, 180)
    one, other = (rows.view(-1, 20) for rows in epochs_of(train, 1, 1, 20, 2))
    for rows in (one, other):
        assert len(set(rows[:, 5:].flatten().tolist())) == 150
        assert set(rows[:, :5].flatten().tolist()) == set(range(20))
    assert not torch.equal(one, other)
    assert all(torch.equal(a.flatten(), b) for a, b in zip((one, other), epochs_of(train, 1, 1, 20, 2), strict=True))
    assert not torch.equal(one.flatten(), next(epochs_of(train, 2, 1, 20, 1)))


def test_where_all_have_a_label_the_order_is_what_it_was() -> None:
    train = split_with(50, 0)
    assert train.labelled is None and labelled_in_batch(train, 8) is None
    for own, wanted in zip(epochs_of(train, 5, 2, 8, 3), epochs(5, 50, 2, 8, 3), strict=True):
        assert torch.equal(own, wanted)


def by_hand(record: Record, task: Task, said: Tensor) -> tuple[list[tuple[float, ...]], dict[str, Tensor], float]:
    """The curve `(loss, ce, kd)` of a student of the bag family, in an ordinary loop, its parameters, and how strongly
    the distillation loss pulls at first, beside cross-entropy."""
    spec = record.spec
    inputs, labels = torch.as_tensor(task.train.inputs), task.train.labels
    first = init(POOLED["bag"], spec.width, (LENGTH,), CLASSES, generator(spec.seed, "init"))
    params = {name: value.requires_grad_() for name, value in first.items()}
    optimiser = torch.optim.AdamW(params.values(), lr=spec.lr, weight_decay=spec.weight_decay)
    ones, share, curve, ratios = spec.batch_size // 4, 0.25, [], []

    def kd(logits: Tensor, rows: Tensor) -> Tensor:
        if spec.form == "mse":
            return (logits - said[rows]).square().mean()
        assert spec.temperature is not None
        log_q, p = F.log_softmax(logits / spec.temperature, -1), F.softmax(said[rows] / spec.temperature, -1)
        return F.kl_div(log_q, p, reduction="batchmean") * spec.temperature**2

    for order in epochs_of(task.train, spec.seed, 1, spec.batch_size, spec.epochs):
        seen = []
        for rows in torch.split(order, spec.batch_size):
            logits = POOLED["bag"].apply(params, inputs[rows])
            ce = F.cross_entropy(logits[:ones], labels[rows[:ones]], label_smoothing=spec.label_smoothing)
            labelled, others = kd(logits[:ones], rows[:ones]), kd(logits[ones:], rows[ones:])
            if spec.mixing == "convex":
                loss = share * (spec.alpha * ce + (1 - spec.alpha) * labelled) + (1 - share) * others
            else:
                loss = share * (ce + spec.alpha * labelled) + (1 - share) * spec.alpha * others
            pulls = (
                torch.autograd.grad(part, [*params.values()], retain_graph=True)
                for part in (share * labelled + (1 - share) * others, ce)
            )
            of_kd, of_ce = (torch.cat([grad.flatten() for grad in grads]).norm().item() for grads in pulls)
            ratios.append(of_kd / of_ce)
            loss = spec.loss_scale * loss
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            seen.append(torch.stack([loss, ce, share * labelled + (1 - share) * others]).detach())
        curve.append(tuple(torch.stack(seen).mean(0).tolist()))
    return curve, {name: value.detach() for name, value in params.items()}, ratios[0]


@pytest.mark.parametrize("mixing", MIXINGS)
@pytest.mark.parametrize("form", ["kl", "mse"])
@pytest.mark.parametrize("more", [{}, {"label_smoothing": 0.2, "loss_scale": 0.5}], ids=["plainly", "smoothed"])
def test_a_student_is_that_of_an_ordinary_loop_where_alpha_weighs_the_labelled_alone(
    form: str, mixing: str, more: dict[str, float], tmp_path: Path
) -> None:
    path = study(tmp_path / "few.py", "few()")
    spec = student(form, task=path, mixing=mixing, schedule="constant", **COMMON, **more)
    record, _ = train([spec, dataclasses.replace(spec, seed=2, width=7)], tmp_path / "cache")
    task = tasks.load(path)
    curve, params, ratio = by_hand(record, task, teacher.load_logits(task, tmp_path / "cache").train.double())
    assert record.balance.kd_ratio[0] == pytest.approx(ratio, rel=1e-10)
    for found, wanted in zip(("train_loss", "train_ce", "train_kd"), zip(*curve, strict=True), strict=True):
        # As in the other ordinary loop: float64 whose rounding grows over some twenty steps.
        assert getattr(record.curve, found) == pytest.approx(wanted, rel=1e-10), found
    told = task.train.labelled
    assert told is not None and len(told) == 12
    logits, labels = POOLED["bag"].apply(params, torch.as_tensor(task.train.inputs)[told]), task.train.labels[told]
    assert record.metrics["train_accuracy"] == pytest.approx((logits.argmax(-1) == labels).double().mean().item())
    assert record.metrics["train_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-10)


def test_the_weight_without_a_label_is_that_of_alpha_zero_or_the_same_as_elsewhere() -> None:
    convex, additive = (student("kl", alpha=0.3, loss_scale=2.0, mixing=mixing) for mixing in MIXINGS)
    assert (convex.mixing, additive.mixing) == ("convex", "additive")
    assert [losses.unlabelled_weight(spec) for spec in (convex, additive, student("ce"))] == [2.0, 0.6, 0.0]


@pytest.mark.parametrize("lie", ["inputs", "answers"])
def test_a_plain_student_learns_nothing_from_what_has_no_label_and_a_distilled_one_does(
    lie: str, tmp_path: Path
) -> None:
    found = []
    for name, call in (("true", "few()"), ("false", f"few(lie={lie!r})")):
        path = study(tmp_path / f"{name}.py", call)
        specs = [student(form, task=path, **COMMON, alpha=1.0) for form in ("ce", "kl")]
        specs.append(student("ce", task=path, **COMMON, label_smoothing=0.1))
        records = train(specs, tmp_path / "cache")
        found.append([dataclasses.replace(but_for_cost(record), spec=student("ce")) for record in records])
    (plain, taught, smooth), (other_plain, other_taught, other_smooth) = found
    assert (plain, smooth) == (other_plain, other_smooth)
    assert taught.metrics["val_loss"] != other_taught.metrics["val_loss"]  # though alpha is 1: it weighs labels alone


def test_a_teacher_of_a_recipe_learns_from_the_labelled_alone(tmp_path: Path) -> None:
    paths = [study(tmp_path / f"{n}.py", f"few(lie={lie!r}, given=False)") for n, lie in enumerate(("", "inputs"))]
    one, other = (teacher.ensure(tasks.load(path), tmp_path / "cache") for path in paths)
    numbers = ("val_accuracy", "val_loss", "train_accuracy", "train_flops")
    assert [one[name] for name in numbers] == [other[name] for name in numbers]
    assert one["train_flops"] == 6 * one["macs"] * 2 * 12
    assert (12 * one["train_accuracy"]) == pytest.approx(round(12 * one["train_accuracy"]), abs=1e-5)


def test_a_teachers_batch_of_more_than_the_labelled_is_refused_in_one_line(tmp_path: Path) -> None:
    task = few(labelled=12, given=False)
    large = dataclasses.replace(task, teacher=dataclasses.replace(task.recipe, batch_size=13))
    said = "the teacher of few has batch_size 13, more than the 12 training examples that have a label"
    message = rf"^{said}; write TeacherRecipe\(\.\.\., batch_size=8\)$"
    with pytest.raises(ValueError, match=message):
        teacher.ensure(large, tmp_path)


NEEDY = [form for form, own in LOSSES.items() if "labels" in own.takes]


@pytest.mark.parametrize(
    ("form", "changed", "message"),
    [
        *((form, {}, f"form '{form}' reads the labels, which some examples of few do not have") for form in NEEDY),
        ("kl", {"teacher": "online"}, "teacher 'online' "),
        ("kl", {"teacher": "shuffled_in_class"}, "teacher 'shuffled_in_class' needs every label; some examples of few"),
        ("kl", {"micro_batch": 8}, "micro_batch 8: a batch of few has examples with and without a label"),
        ("ce", {"batch_size": 1}, "batch_size 1 is too small: few needs examples with and without a label"),
    ],
)
def test_what_needs_every_label_is_refused_in_one_line(
    form: str, changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    assert {"dkd", "nkd", "wsld"} <= set(NEEDY)
    path = study(tmp_path / "few.py", "few(given=False)")
    with pytest.raises(ValueError, match=message) as caught:
        cohort.train([student(form, **{**COMMON, "task": path, **changed})], cache=tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("family", "given_teacher"), [("bag", False), ("bag", True), ("gru", False)])
def test_students_of_every_arm_are_trained_side_by_side_as_alone(
    family: str, given_teacher: bool, tmp_path: Path
) -> None:
    common = {**COMMON, "task": study(tmp_path / "few.py", f"few(given={given_teacher})"), "family": family}
    specs = [
        student("ce", **common), student("ce", label_smoothing=0.1, **common), student("dist", seed=2, **common),
        student("kl", teacher="self", **common), student("kl", teacher="shuffled", **common),
        student("kl", teacher="uniform", **common), student("ctkd", **common, width=6),
        student("mse", mixing="additive", clip_norm=0.5, **common), student("kl", dropout=0.3, **common),
        student("kl", teacher="assistant", assistants="6", **common), student("kl", **common, patience=1),
    ]  # fmt: skip
    if not given_teacher:  # feature forms compare inner layers, with and without a layer of their own
        specs += [student("kl", feature=name, **common) for name in ("hint", "rkd")]
    together = assert_alone_as_together(specs, tmp_path / "cache")
    looped = cohort.train(specs, cache=tmp_path / "cache", how=How(looped=True))
    for record, one in zip(together, looped, strict=True):
        assert_same(one, record, 1e-10)
        assert (12 * record.metrics["train_accuracy"]) == pytest.approx(round(12 * record.metrics["train_accuracy"]))
        assert len(record.balance.kd_ratio) == (0 if record.spec.form == "ce" else 3)


def test_a_task_may_lack_labels_in_train_alone_and_not_all_of_them() -> None:
    task = few()
    bad = Split(task.train.inputs, task.train.labels.clamp(max=UNLABELLED))
    with pytest.raises(ValueError, match=r"train labels span -1\.\.-1, classes 3"):
        dataclasses.replace(task, train=bad)
    with pytest.raises(ValueError, match=r"train labels span -2\.\.2, classes 3"):
        labels = task.train.labels.clone()
        labels[0] = -2
        dataclasses.replace(task, train=Split(task.train.inputs, labels))
    val = named(30, 2)
    val.labels[4] = UNLABELLED
    for name in ("val", "test"):
        with pytest.raises(ValueError, match=rf"{name} labels span -1\.\.2, classes 3"):
            dataclasses.replace(task, **{name: val if name == "val" else LockedSplit(val)})  # type: ignore[arg-type]


@pytest.mark.parametrize("given_teacher", [True, False], ids=["given", "trained"])
def test_a_student_goes_on_after_a_stop_as_it_would_have_and_is_confirmed_on_the_test_split(
    given_teacher: bool, tmp_path: Path
) -> None:
    path, cache = study(tmp_path / "few.py", f"few(given={given_teacher})"), tmp_path / "cache"
    specs = [student(form, task=path, seed=seed, **COMMON) for form in ("ce", "kl") for seed in (1, 2)]
    whole = [but_for_cost(record) for record in train(specs, cache)]
    common: dict[str, Any] = {"cache": cache, "device": "cpu"}
    _, left = train_part(specs, until=1, states={}, **common)
    records, _ = train_part(specs, until=None, states=dict(zip(specs, left, strict=True)), **common)
    assert [but_for_cost(record) for record in records] == whole
    parts = train_each(specs, until=None, states={}, stage="confirm", **common)
    found = [pair for part in parts for pair in zip(*part, strict=True)]
    test = tasks.load(path).test.read("confirm")
    for record, state in found:
        said = (state.tensors["predicted"] == test.labels).double().mean().item()
        assert record.metrics["test_accuracy"] == pytest.approx(said)
        assert torch.equal(state.tensors["labels"].long(), test.labels)
        if given_teacher:  # it names the class of each
            assert record.metrics["test_teacher_accuracy"] == 1
            assert record.metrics["test_agreement"] == record.metrics["test_accuracy"]
