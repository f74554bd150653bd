"""Students of several widths in one cohort, padded, and students who see the same batches: each is itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.spec import OPTIMISERS, spec_from_json
from tests.students import assert_same, student, train


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-12)])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("family", ["mlp", "cnn"])
def test_a_student_among_wider_ones_is_the_student_alone(
    family: str, optimiser: str, dtype: str, tolerance: float, digits_cache: Path
) -> None:
    common = {"family": family, "optimiser": optimiser, "dtype": dtype}
    specs = [
        student(form, width=width, seed=seed, **common, **own)
        for form, width, own in (
            ("kl", 2, {"clip_norm": 0.5}), ("mse", 3, {"mixing": "additive"}), ("dist", 6, {}),
            ("kl", 9, {"teacher": "self"}), ("ctkd", 4, {"teacher": "assistant", "assistants": "7"}), ("ce", 12, {}),
        )
        for seed in (1, 2)
    ]  # fmt: skip
    together = train(specs, digits_cache)
    for spec, record in zip(specs, together, strict=True):
        assert record.cost.cohort_size == len(specs)
        (alone,) = train([spec], digits_cache)
        assert_same(record, alone, tolerance)


def test_students_who_do_not_stand_seed_by_seed_are_trained_the_same(digits_cache: Path) -> None:
    whole = [student(form, seed=seed, width=width) for form in ("kl", "mse") for width in (3, 4) for seed in (1, 2, 3)]
    by_spec = {record.spec: record for record in train(whole, digits_cache)}
    for specs in (whole[:-1], whole[1:8], [whole[0], whole[4], whole[11]]):
        for record in train(specs, digits_cache):
            assert_same(record, by_spec[record.spec], 1e-12)


def test_numbers_are_those_of_the_tree_before_widths_were_fused(digits_cache: Path) -> None:
    """`data/records.json`: 60 students of two families, three optimisers, float64, written by commit 3c554b3."""
    known = json.loads((Path(__file__).parent / "data" / "records.json").read_text(encoding="utf-8"))
    records = train([spec_from_json(one["spec"]) for one in known], digits_cache)
    for one, record in zip(known, records, strict=True):
        found = {"train_loss": record.curve.train_loss, "val_loss": record.curve.val_loss}
        for name, curve in found.items():
            assert curve == pytest.approx(one[name], rel=1e-9, abs=0), record.spec
        assert record.metrics["val_accuracy"] == one["val_accuracy"]
