"""Students of several widths in one cohort, padded, and students who see the same batches: each is itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.cohort import run
from harness.cohort.data import Data
from harness.cohort.stack import Cohort
from harness.cohort.training import Trained
from harness.cohort.training import fit as whole
from harness.spec import spec_from_json
from tests.students import assert_same, pairwise, student, train


@pairwise(1)
def test_a_student_among_wider_ones_is_the_student_alone(
    family: str, optimiser: str, dtype: str, tolerance: float, digits_cache: Path
) -> None:
    common = {"family": family, "optimiser": optimiser, "dtype": dtype}
    specs = [
        student(form, width=width, seed=seed, **common, **own)
        for form, width, own in (
            ("kl", 2, {"clip_norm": 0.5}), ("mse", 3, {"mixing": "additive"}), ("ce", 6, {}),
            ("kl", 9, {"teacher": "self"}), ("ctkd", 4, {"teacher": "assistant", "assistants": "7"}), ("dist", 12, {}),
        )
        for seed in (1, 2)
    ]  # fmt: skip
    together = train(specs, digits_cache)
    for spec, record in zip(specs, together, strict=True):
        assert record.cost.cohort_size == len(specs)
        (alone,) = train([spec], digits_cache)
        assert_same(record, alone, tolerance)


@pytest.mark.skipif("AVX512" not in torch.backends.cpu.get_cpu_capability(), reason="how products round is a CPU's own")
@pytest.mark.parametrize(("family", "widths"), [("mlp", (3, 4, 8, 12, 20, 64)), ("cnn", (2, 3, 4, 8, 12, 16))])
def test_a_students_bits_do_not_depend_on_the_widths_beside_it(
    family: str, widths: tuple[int, ...], digits_cache: Path
) -> None:
    """As a trial that was lost is trained again in other company: what differs by a bit is amplified by training."""
    common: dict[str, Any] = {"family": family, "dtype": "float32", "epochs": 8, "batch_size": 64, "optimiser": "adamw"}
    specs = [student(form, width=width, **common) for form in ("ce", "kl", "mse") for width in widths]
    for spec, record in zip(specs, train(specs, digits_cache), strict=True):
        assert record.cost.cohort_size == len(specs)
        (alone,) = train([spec], digits_cache)
        assert (record.curve, record.metrics) == (alone.curve, alone.metrics)


def test_a_residual_student_among_wider_ones_is_the_student_alone(digits_cache: Path) -> None:
    """A family that pads and is mapped over students."""
    common: dict[str, Any] = {"family": "resnet8", "dtype": "float64", "epochs": 2, "batch_size": 256}
    specs = [student(form, width=width, **common) for form, width in (("kl", 2), ("mse", 3), ("ce", 6))]
    together = train(specs, digits_cache)
    for spec, record in zip(specs, together, strict=True):
        assert record.cost.cohort_size == 3
        (alone,) = train([spec], digits_cache)
        assert_same(record, alone, 1e-9)


def test_students_who_do_not_stand_seed_by_seed_are_trained_the_same(digits_cache: Path) -> None:
    whole = [student(form, seed=seed, width=width) for form in ("kl", "mse") for width in (3, 4) for seed in (1, 2, 3)]
    by_spec = {record.spec: record for record in train(whole, digits_cache)}
    for specs in (whole[:-1], whole[1:8], [whole[0], whole[4], whole[11]]):
        for record in train(specs, digits_cache):
            assert_same(record, by_spec[record.spec], 1e-12)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ],
)
def test_a_cohort_that_does_not_fit_into_memory_is_halved(
    error: Exception, digits_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = [student(seed=seed, alpha=alpha) for seed in (1, 2) for alpha in (0.1, 0.5, 0.9)]
    wanted = train(specs, digits_cache)
    sizes: list[int] = []

    def fit(cohort: Cohort, data: Data, device: str, *part: Any) -> Trained:
        sizes.append(len(cohort.specs))
        if len(cohort.specs) > 2:
            raise error
        return whole(cohort, data, device, *part)

    monkeypatch.setattr(run, "fit", fit)
    for record, one in zip(train(specs, digits_cache), wanted, strict=True):
        assert_same(record, one, 1e-12)
        assert record.cost.cohort_size in (1, 2)
    assert sizes == [6, 3, 1, 2, 3, 1, 2]


def test_an_error_that_is_not_for_want_of_memory_is_raised_at_once(
    digits_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(cohort: Cohort, data: Data, device: str, *_: Any) -> Trained:
        raise RuntimeError(f"{len(cohort.specs)} students, {device}, {data.task.name}: another fault")

    monkeypatch.setattr(run, "fit", fit)
    with pytest.raises(RuntimeError, match="2 students, cpu, digits: another fault"):
        train([student(), student(seed=2)], digits_cache)


def test_numbers_are_those_of_the_tree_before_widths_were_fused(digits_cache: Path) -> None:
    """`data/records.json`: 60 students of two families, three optimisers, float64, written by commit 3c554b3."""
    known = json.loads((Path(__file__).parent / "data" / "records.json").read_text(encoding="utf-8"))
    records = train([spec_from_json(one["spec"]) for one in known], digits_cache)
    for one, record in zip(known, records, strict=True):
        found = {"train_loss": record.curve.train_loss, "val_loss": record.curve.val_loss}
        for name, curve in found.items():
            assert curve == pytest.approx(one[name], rel=1e-9, abs=0), record.spec
        assert record.metrics["val_accuracy"] == one["val_accuracy"]
