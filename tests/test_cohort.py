"""Fused training: a student's record is its own, and is what an ordinary training loop gives."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from harness import cohort, losses, tasks, teacher
from harness.cohort import run
from harness.losses import LOSSES
from harness.models import MLP, init
from harness.records import Cost, Record
from harness.seeds import generator
from harness.spec import MIXINGS, PLAIN, StudentSpec
from harness.tasks import LockedSplit
from harness.values import to_json
from tests.students import pairwise

BASIC = ("kl", "soft_ce", "mse", "squared_norm")
"""The forms of the source article; `test_cohort_forms` has them all."""
LRS = {"adamw": (3e-3, 3e-2), "adam": (3e-3, 3e-2), "sgd": (1e-2, 1e-1)}
LOSS_COLUMNS = ("train_loss", "train_ce", "train_kd", "val_loss")


def student(**changed: Any) -> StudentSpec:
    spec = StudentSpec("digits", "mlp", 4, 1, "kl", temperature=4.0, epochs=2, lr=1e-2, weight_decay=1e-2)
    if changed.get("form", "kl") not in ("kl", "soft_ce"):
        changed.setdefault("temperature", None)
    if changed.get("form") == PLAIN:
        changed.setdefault("alpha", 1.0)
    return dataclasses.replace(spec, **changed)


def mixed(**common: Any) -> list[StudentSpec]:
    """Every basic form under every mixing, no two alike in alpha, temperature, lr, weight decay, and of three seeds."""
    low, high = LRS[common.get("optimiser", "adamw")]
    found = []
    for i, (form, mixing) in enumerate((form, mixing) for form in BASIC for mixing in MIXINGS):
        scale = 0.1 if form == "squared_norm" else 1.0
        changed: dict[str, Any] = {"form": form, "mixing": mixing, "seed": 1 + i % 3, "alpha": i / 9}
        changed |= {"lr": scale * low * (high / low) ** (i / 8), "weight_decay": 1e-2 * i, "momentum": 0.8 + 0.02 * i}
        if "temperature" in LOSSES[form].knobs:
            changed["temperature"] = 1.0 + 3 * i
        found.append(student(**changed, **common))
    return [*found, student(form=PLAIN, seed=3, lr=low, **common), student(form="kl", alpha=1.0, seed=2, **common)]


def train(specs: Sequence[StudentSpec], cache: Path) -> list[Record]:
    return cohort.train(specs, cache=cache)


def but_for_cost(records: Sequence[Record]) -> list[Record]:
    return [dataclasses.replace(record, cost=Cost()) for record in records]


def assert_same(found: Record, wanted: Record, tolerance: float) -> None:
    assert (found.spec, found.status, found.num_params, found.macs) == (
        wanted.spec, wanted.status, wanted.num_params, wanted.macs,
    )  # fmt: skip
    for name in LOSS_COLUMNS:
        assert getattr(found.curve, name) == pytest.approx(getattr(wanted.curve, name), rel=tolerance)
    assert found.curve.val_accuracy == wanted.curve.val_accuracy
    assert set(found.metrics) == set(wanted.metrics)
    for name, value in wanted.metrics.items():
        close = 0 if name.endswith(("accuracy", "agreement")) else tolerance
        assert found.metrics[name] == pytest.approx(value, rel=close, abs=0), name


@pairwise(0)
def test_a_record_does_not_depend_on_who_shares_the_cohort(
    family: str, optimiser: str, dtype: str, tolerance: float, digits_cache: Path
) -> None:
    specs = mixed(family=family, optimiser=optimiser, dtype=dtype)
    together = train(specs, digits_cache)
    assert [record.spec for record in together] == specs
    assert all(record.cost.cohort_size == len(specs) for record in together)
    assert len({record.metrics["val_loss"] for record in together}) == len(specs)
    for spec, record in zip(specs, together, strict=True):
        (alone,) = train([spec], digits_cache)
        assert record.status == "ok"
        assert alone.cost.cohort_size == 1
        assert_same(record, alone, tolerance)


def test_the_order_of_the_specs_does_not_matter(digits_cache: Path) -> None:
    specs = mixed()
    shuffled = random.Random(0).sample(specs, len(specs))
    by_spec = {record.spec: record for record in but_for_cost(train(specs, digits_cache))}
    assert but_for_cost(train(shuffled, digits_cache)) == [by_spec[spec] for spec in shuffled]


def test_a_spec_given_twice_gets_its_record_twice(digits_cache: Path) -> None:
    first, second = student(), student(seed=2)
    records = but_for_cost(train([first, second, first], digits_cache))
    assert [record.spec for record in records] == [first, second, first]
    assert records[0] == records[2] != records[1]


def test_students_that_cannot_be_fused_come_back_in_the_order_asked_for(digits_cache: Path) -> None:
    half = {"dropout": 0.5}
    specs = [student(width=5, **half), student(**half), student(width=5, seed=2, **half), student(epochs=1)]
    records = train(specs, digits_cache)
    assert [record.spec for record in records] == specs
    assert [record.cost.cohort_size for record in records] == [2, 1, 2, 1]
    assert len(records[3].curve.val_loss) == 1


def test_no_students_give_no_records(digits_cache: Path) -> None:
    assert train([], digits_cache) == []


@pytest.mark.parametrize("spoiler", [{"lr": 1e6}, {"lr": 1e30}])
def test_a_diverged_student_is_a_status_and_does_not_touch_its_neighbours(
    spoiler: dict[str, float], digits_cache: Path
) -> None:
    healthy = [student(form="mse", optimiser="sgd", seed=seed) for seed in (1, 2)]
    spoilt = student(form="mse", optimiser="sgd", seed=3, **spoiler)
    before = but_for_cost(train(healthy, digits_cache))
    first, diverged, second = but_for_cost(train([healthy[0], spoilt, healthy[1]], digits_cache))
    assert [first, second] == before
    assert [record.status for record in before] == ["ok", "ok"]
    assert diverged.status == "diverged"
    assert diverged.metrics == {
        "val_accuracy": 0.1, "val_agreement": 0.1, "train_accuracy": 0.1,
        "val_loss": math.log(10), "val_kl": math.log(10), "train_loss": math.log(10),
        "val_brier": pytest.approx(0.9), "val_ece": 0.0,
    }  # fmt: skip
    assert len(diverged.curve.val_loss) < spoilt.epochs
    json.dumps(to_json(diverged), allow_nan=False)


def test_curves_have_one_value_an_epoch_and_add_up(digits_cache: Path) -> None:
    for record in train(mixed(epochs=3), digits_cache):
        curve, (of_labels, of_teacher) = record.curve, losses.weights(record.spec)
        for name in ("train_loss", "train_ce", "val_loss", "val_accuracy"):
            assert len(getattr(curve, name)) == 3
        assert len(curve.train_kd) == (0 if record.spec.form == PLAIN else 3)
        kd = curve.train_kd or (0.0,) * 3
        sums = [of_labels * c + of_teacher * k for c, k in zip(curve.train_ce, kd, strict=True)]
        assert curve.train_loss == pytest.approx(sums, rel=1e-5)
        assert curve.val_loss[-1] == pytest.approx(record.metrics["val_loss"], rel=1e-6)
        assert curve.val_accuracy[-1] == pytest.approx(record.metrics["val_accuracy"], rel=1e-6)


@pytest.mark.parametrize("mixing", MIXINGS)
def test_alpha_weighs_the_labels_so_that_one_is_plain_training(mixing: str, digits_cache: Path) -> None:
    """Under additive mixing it is alpha 0 that leaves the labels alone."""
    alpha = 1.0 if mixing == "convex" else 0.0
    plain = student(form=PLAIN, dtype="float64")
    specs = [student(form=form, alpha=alpha, mixing=mixing, dtype="float64") for form in BASIC]
    wanted, *found = train([plain, *specs], digits_cache)
    for record in found:
        assert record.metrics == pytest.approx(wanted.metrics, rel=1e-12)
        assert record.curve.train_loss == pytest.approx(wanted.curve.train_loss, rel=1e-12)
        assert len(record.curve.train_kd) == 2


def test_alpha_zero_is_distillation_that_never_sees_the_labels(tmp_path: Path) -> None:
    """The same inputs, every training label false, and a teacher that stays at its start, so that it is the same."""
    true, false = (own_task(tmp_path / f"lie_{lie}.py", lie=lie, teacher_lr=1e-20) for lie in (False, True))
    for path in (true, false):
        teacher.ensure(tasks.load(path), tmp_path / "cache")
    assert not (tasks.load(true).train.labels == tasks.load(false).train.labels).any()
    assert torch.equal(*(teacher.load_logits(tasks.load(path), tmp_path / "cache").train for path in (true, false)))
    for form, same in (("mse", True), (PLAIN, False)):
        specs = [student(task=path, family="tokens", form=form, alpha=float(not same)) for path in (true, false)]
        first, second = train(specs, tmp_path / "cache")
        assert (first.metrics["val_loss"] == second.metrics["val_loss"]) is same


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_fused_training_equals_an_ordinary_loop(schedule: str, alpha: float, digits_cache: Path) -> None:
    """One student, the library's layers, losses, optimiser and scheduler, float64."""
    spec = student(alpha=alpha, schedule=schedule, dtype="float64", epochs=3, seed=7)
    record = train([spec, student(seed=1, dtype="float64", epochs=3, schedule=schedule)], digits_cache)[0]
    task = tasks.load("digits")
    targets = teacher.load_logits(task, digits_cache).train.double()
    inputs, labels = task.train.inputs.double().flatten(1), task.train.labels

    start = init(MLP, spec.width, (1, 8, 8), 10, generator(spec.seed, "init"))
    net = torch.nn.Sequential(
        torch.nn.Linear(64, 4), torch.nn.ReLU(), torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 10)
    ).double()
    with torch.no_grad():
        for param, value in zip(net.parameters(), start.values(), strict=True):
            param.copy_(value.view_as(param))
    optimiser = torch.optim.AdamW(net.parameters(), lr=spec.lr, weight_decay=spec.weight_decay)
    num_steps = 3 * (len(inputs) // 64)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: 0.5 * (1 + math.cos(math.pi * step / num_steps)) if schedule == "cosine" else 1.0
    )
    temperature, source = 4.0, generator(spec.seed, "order")
    curve: list[tuple[float, ...]] = []
    for _ in range(3):
        seen = []
        order = torch.randperm(len(inputs), generator=source)
        for batch in torch.split(order[: len(inputs) // 64 * 64], 64):
            logits = net(inputs[batch])
            ce = F.cross_entropy(logits, labels[batch])
            log_q, p = F.log_softmax(logits / temperature, -1), F.softmax(targets[batch] / temperature, -1)
            kd = F.kl_div(log_q, p, reduction="batchmean") * temperature * temperature
            loss = alpha * ce + (1 - alpha) * kd
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            scheduler.step()
            seen.append((loss.item(), ce.item(), kd.item()))
        with torch.no_grad():
            logits = net(task.val.inputs.double().flatten(1))
        val = F.cross_entropy(logits, task.val.labels).item(), (logits.argmax(-1) == task.val.labels).double().mean()
        curve.append((*np.mean(seen, axis=0), val[0], float(val[1])))

    columns = zip(*curve, strict=True)
    for wanted, field in zip(columns, dataclasses.fields(record.curve)[:5], strict=True):  # the sixth is test's
        assert getattr(record.curve, field.name) == pytest.approx(wanted, rel=1e-10), field.name


def test_training_leaves_the_global_random_state_alone_and_does_not_depend_on_it(digits_cache: Path) -> None:
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the global state is what must not matter
        before = torch.get_rng_state(), random.getstate(), str(np.random.get_state())  # noqa: NPY002
        found.append(but_for_cost(train(mixed(), digits_cache)))
        after = torch.get_rng_state(), random.getstate(), str(np.random.get_state())  # noqa: NPY002
        assert torch.equal(before[0], after[0])
        assert before[1:] == after[1:]
    assert found[0] == found[1]


def test_training_reads_neither_the_test_split_nor_its_labels(
    digits_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LockedSplit, "read", lambda *_: pytest.fail("the test split was read"))
    assert train([student(epochs=1)], digits_cache)[0].status == "ok"


def test_what_a_record_counts_is_what_was_trained(digits_cache: Path) -> None:
    (record,) = train([student(width=4, epochs=2, batch_size=100)], digits_cache)
    assert record.num_params == 64 * 4 + 4 + 4 * 4 + 4 + 4 * 10 + 10
    assert record.macs == 64 * 4 + 4 * 4 + 4 * 10
    assert record.cost.train_flops == 6 * record.macs * 2 * 1000
    assert record.cost.seconds > 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"batch_size": 1079}, "batch_size 1079 is more than the 1078 training examples"),
        ({"family": "conv"}, "unknown family 'conv' of digits; families are cnn, mlp"),
        ({"task": "mnist"}, "unknown task 'mnist'; tasks are mnist5k, "),
        ({"form": "kll"}, "unknown form 'kll'"),
        ({"temperature": None}, "form 'kl' needs a temperature"),
        ({"form": "mse", "temperature": 2.0}, "form 'mse' takes no temperature"),
    ],
)
def test_a_student_that_cannot_be_trained_is_refused_before_any_is(
    changed: dict[str, Any], message: str, digits_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_train_cohort", lambda *_: pytest.fail("a cohort was trained"))
    with pytest.raises(ValueError, match=message) as caught:
        train([student(), student(**changed)], digits_cache)
    assert "\n" not in str(caught.value)


def test_the_largest_batch_is_the_whole_split(digits_cache: Path) -> None:
    assert train([student(batch_size=1078)], digits_cache)[0].status == "ok"


def test_students_without_their_teacher_in_the_cache_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot read the teacher's logits"):
        train([student()], tmp_path)


POSITIONS = '''
"""Name the class of each of five tokens: inputs [examples, 5] of integers, logits [examples, 5, 3]."""
import torch
from harness.models import Family
from harness.models.family import Layer
from harness.space import Choice, Study
from harness.tasks import LockedSplit, Split, Task, TeacherRecipe

def layers(width, input_shape, num_classes):
    return {"embed": Layer((12, width), 1), "logits": Layer((width, num_classes), width)}

def apply(params, inputs):
    return params["embed"][inputs] @ params["logits"]

TOKENS = Family("tokens", layers, lambda inputs: inputs, apply, lambda width, shape, classes: 5 * width * classes)

def made():
    source = torch.Generator().manual_seed(0)
    inputs = [torch.randint(12, (count, 5), generator=source) for count in (256, 64, 64)]
    train, val, test = (Split(tokens, tokens % 3) for tokens in inputs)
    if LIE:
        train = Split(train.inputs, (train.labels + 1) % 3)
    return Task("tokens", "made up", 3, train, val, LockedSplit(test), {"tokens": TOKENS}, RECIPE)

RECIPE = TeacherRecipe(TOKENS, width=8, epochs=20, lr=LR)
STUDY = Study(task=made, family="tokens", space={"width": Choice(4)}, fixed={"form": "mse"})
'''


def own_task(path: Path, *, lie: bool = False, teacher_lr: float = 3e-2) -> str:
    path.write_text(f"LIE, LR = {lie}, {teacher_lr}\n{POSITIONS}")
    return str(path)


def test_a_task_of_labels_at_every_position_trains_like_any_other(tmp_path: Path) -> None:
    path = own_task(tmp_path / "positions.py")
    assert teacher.ensure(tasks.load(path), tmp_path)["val_accuracy"] == 1.0
    assert teacher.load_logits(tasks.load(path), tmp_path).val.shape == (64, 5, 3)
    specs = mixed(task=path, family="tokens", dtype="float64")
    for spec, record in zip(specs, train(specs, tmp_path), strict=True):
        assert_same(record, train([spec], tmp_path)[0], 1e-12)
    long = [student(task=path, family="tokens", form=f, alpha=0.0, lr=0.1, epochs=10, batch_size=16) for f in BASIC]
    for record in train(long, tmp_path):
        assert record.status == "ok"
        assert record.metrics["val_accuracy"] > 0.9
        assert record.metrics["val_agreement"] == record.metrics["val_accuracy"]
