"""Mixed precision, a step that waits for nothing, and a CPU beside a GPU where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness import cohort, optimisers, targets
from harness.bench import steps
from harness.cohort import calibrate
from harness.cohort.batch import Batch, draw_noise, noise_shape
from harness.cohort.company import cohorts
from harness.cohort.data import load_data
from harness.cohort.evaluate import evaluate
from harness.cohort.forward import apply, embed, head
from harness.cohort.objective import pull
from harness.cohort.stack import Cohort, stack
from harness.cohort.training import orders, take_step
from harness.costs import How
from harness.forms import FEATURE_KNOBS, KNOBS
from harness.records import Record
from harness.seeds import generator
from harness.spec import OPTIMISERS, PLAIN, StudentSpec
from tests.students import assert_same, student, train

FAMILIES = ("mlp", "cnn")
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


def mixed(**changed: Any) -> list[StudentSpec]:
    common = {"dtype": "bfloat16", "epochs": 12, "batch_size": 64, "lr": 2e-2, **changed}
    return [
        student(form, width=width, seed=seed, **common)
        for form in ("kl", "mse", "ce")
        for width, seed in ((8, 1), (12, 2))
    ]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("family", FAMILIES)
def test_networks_of_mixed_precision_learn_as_well(family: str, dropout: float, digits_cache: Path) -> None:
    low = train(mixed(family=family, dropout=dropout), digits_cache)
    high = train(mixed(family=family, dropout=dropout, dtype="float32"), digits_cache)
    for one, other in zip(low, high, strict=True):
        assert one.status == "ok"
        assert abs(one.metrics["val_accuracy"] - other.metrics["val_accuracy"]) < 0.04
        assert one.metrics["val_loss"] != other.metrics["val_loss"]


@pytest.mark.parametrize("family", FAMILIES)
def test_students_of_mixed_precision_are_themselves_in_company(family: str, digits_cache: Path) -> None:
    specs = mixed(family=family, epochs=1)
    for spec, record in zip(specs, train(specs, digits_cache), strict=True):
        (alone,) = train([spec], digits_cache)
        assert alone.metrics["val_loss"] == pytest.approx(record.metrics["val_loss"], rel=2e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_network_is_of_low_precision(family: str, digits_cache: Path) -> None:
    specs = mixed(family=family, dropout=0.2)[:1]
    data = load_data(specs[0], digits_cache, "cpu")
    group = stack(specs, data, [targets.load(specs[0], data.task, digits_cache)], "cpu", padded=False)
    assert (group.network.values.dtype, data.views.dtype, data.teacher["val"].dtype) == (
        torch.float32, torch.bfloat16, torch.float32,
    )  # fmt: skip
    logits = apply(group, data, data.views[None, :64])
    points = embed(group, data, data.views[None, :64])
    assert {logits.dtype, points["embedding"].dtype, head(group, data, points["embedding"]).dtype} == {torch.float32}
    assert torch.equal(logits, logits.bfloat16().float())  # it came out of bfloat16
    grads = torch.autograd.grad(logits.square().sum(), list(group.network.views.values()))
    assert {grad.dtype for grad in grads} == {torch.float32}


def step(specs: Sequence[StudentSpec], cache: Path) -> list[Tensor]:
    """Whatever a first step, its balance and a validation of each cohort give on torch's device `meta`.

    Its tensors have shapes and no numbers: to read one is an error, as is an operation that waits for numbers, and one
    with a tensor that was left on the CPU. What passes there asks nothing of an accelerator before an epoch is over.
    """
    targets.prepare(specs, cache, "cpu", lambda *_: None)
    found = []
    for members in cohorts(specs):
        lead, data = members[0], load_data(members[0], cache, "meta")
        taught = [None if spec.form == PLAIN else targets.load(spec, data.task, cache) for spec in members]
        group = stack(members, data, taught, "meta", padded=lead.may_be_padded)
        sources = {spec.seed: generator(spec.seed, "dropout") for spec in members}
        noise = draw_noise(group, sources, noise_shape(group, data, lead.batch_size))
        batch = Batch(next(orders(group, data, "meta"))[:, : lead.batch_size], 0, 0.5)
        scale = torch.ones_like(group.network.values[:, :1])
        found += [take_step(group, data, batch, noise, started(group), scale), pull(group, data, batch, noise)]
        found += evaluate(group, data, "val")
    return found


def started(group: Cohort) -> tuple[optimisers.State, list[optimisers.State]]:
    learned = [run.learned for run in group.learned if run.learned is not None]
    return optimisers.start(group.network.values), [optimisers.start(flat.values) for flat in learned]


def everything() -> list[dict[str, Any]]:
    """Students that differ in what a step does."""
    plain = {"family": "mlp", "dtype": "float32"}
    regularised = {"dropout": 0.2, "clip_norm": 1.0, "label_smoothing": 0.1, "micro_batch": 32}
    found: list[dict[str, Any]] = [
        {"form": form, **own}
        for form in (PLAIN, *KNOBS)
        for own in (plain, {"family": "cnn", "dtype": "bfloat16", **regularised})
    ]
    found += [{"form": "kl", "optimiser": optimiser} for optimiser in OPTIMISERS]
    return found + [{"form": "kl", "family": "cnn", "feature": feature} for feature in FEATURE_KNOBS]


def test_a_step_waits_for_nothing_and_leaves_nothing_on_another_device(full_cache: Path) -> None:
    specs = [student(seed=seed, **own) for own in everything() for seed in (1, 2)]
    found = step(specs, full_cache)
    assert len(found) == 4 * len(cohorts(specs))
    assert {values.device.type for values in found} == {"meta"}


def on(device: str, specs: Sequence[StudentSpec], cache: Path, how: How) -> list[Record]:
    targets.prepare(specs, cache, device, lambda *_: None)
    return cohort.train(specs, cache=cache, device=device, how=how)


@gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-2)])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_gpu_gives_the_records_of_a_cpu(family: str, dtype: str, tolerance: float, digits_cache: Path) -> None:
    own = {"family": family, "dtype": dtype}
    specs = [student(form, width=width, **own) for form in ("kl", "mse", "dist", "ce") for width in (4, 8)]
    for one, other in zip(*(on(device, specs, digits_cache, How()) for device in ("cpu", "cuda")), strict=True):
        assert_same(other, one, tolerance)


@gpu
def test_both_sides_of_the_benchmark_run_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "SECONDS", 0.05)
    rows = [row.as_json() for row in steps.measure(1, tmp_path, lambda _: None, [("digits", "mlp")], "cuda")]
    assert {"1", "8", "64", "256", "auto"} == {row["cohort"] for row in rows}
    assert all(row["ratio"]["median"] > 0 for row in rows)


@gpu
def test_a_gpu_is_calibrated(tmp_path: Path) -> None:
    costs = calibrate([student(width=width) for width in (4, 8)], tmp_path, "cuda", workers=1)
    assert costs.memory > 0
    assert max(timing.students for timing in costs.timings) > 64
