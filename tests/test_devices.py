"""Mixed precision, and the same students on a CPU and on a GPU where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import cohort, targets
from harness.cohort import calibrate
from harness.cohort.data import load_data
from harness.cohort.forward import apply, embed, head
from harness.cohort.stack import stack
from harness.costs import How
from harness.spec import Record, StudentSpec
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
def test_a_gpu_is_calibrated(tmp_path: Path) -> None:
    costs = calibrate([student(width=width) for width in (4, 8)], tmp_path, "cuda", workers=1)
    assert costs.memory > 0
    assert max(timing.students for timing in costs.timings) > 64
