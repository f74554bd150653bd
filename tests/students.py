"""What the tests of training share: students of any form, its knobs filled in, and when two records are the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness import cohort, targets
from harness.forms import FEATURE_KNOBS, KNOBS
from harness.records import Cost, Record
from harness.spec import NONE, OPTIMISERS, PLAIN, StudentSpec

CURVES = ("train_loss", "train_ce", "train_kd", "val_loss", "val_accuracy")
BALANCE = ("kd_ratio", "kd_cosine", "feature_ratio")
NEAR = (("float32", 1e-5), ("float64", 1e-12))
"""Tolerances of those who share a cohort."""


def pairwise(turn: int) -> pytest.MarkDecorator:
    """Every pair of family, optimiser and dtype, in half of all their triples: `turn` 0 and 1 are the two halves."""
    found = [
        (family, optimiser, *NEAR[(i + j + turn) % 2])
        for i, family in enumerate(("mlp", "cnn"))
        for j, optimiser in enumerate(OPTIMISERS)
    ]
    return pytest.mark.parametrize(("family", "optimiser", "dtype", "tolerance"), found)


def student(form: str = "kl", **changed: Any) -> StudentSpec:
    """A float64 student of the digits; temperature and knobs that are not given have the form's defaults."""
    own = KNOBS.get(form, {})
    knobs = {f"{form}.{name}": knob.default for name, knob in own.items() if name != "temperature"}
    feature = changed.get("feature", NONE)
    knobs |= {f"{feature}.{name}": knob.default for name, knob in FEATURE_KNOBS.get(feature, {}).items()}
    common: dict[str, Any] = {"task": "digits", "family": "mlp", "width": 4, "seed": 1, "form": form}
    common |= {"alpha": 1.0 if form == PLAIN else 0.3, "knobs": tuple(sorted(knobs.items()))}
    common |= {"temperature": own["temperature"].default if "temperature" in own else None}
    common |= {"feature_weight": 1.0 if feature != NONE else 0.0, "weight_decay": 1e-2}
    common |= {"epochs": 2, "batch_size": 128, "dtype": "float64"}
    return StudentSpec(**{**common, **changed})


def train(specs: Sequence[StudentSpec], cache: Path) -> list[Record]:
    """The students' records; what they need of teachers is made first."""
    if specs:
        targets.prepare(specs, cache, "cpu", lambda *_: None)
    return cohort.train(specs, cache=cache)


def but_for_cost(record: Record) -> Record:
    """The record as it is on every machine and in every cohort."""
    return dataclasses.replace(record, cost=Cost())


def assert_same(found: Record, wanted: Record, tolerance: float) -> None:
    """Curve, metrics and balance agree to a relative tolerance, counts and status exactly."""
    assert (found.spec, found.status, found.num_params, found.macs) == (
        wanted.spec, wanted.status, wanted.num_params, wanted.macs,
    )  # fmt: skip
    for name in CURVES:
        assert getattr(found.curve, name) == pytest.approx(getattr(wanted.curve, name), rel=tolerance, abs=0), name
    for name in BALANCE:
        pairs = zip(getattr(found.balance, name), getattr(wanted.balance, name), strict=True)
        for one, other in pairs:
            assert (one is None) == (other is None), name
            # A cosine may be near 0 where the gradients are at right angles: its rounding is that of a number near 1.
            near = tolerance if name == "kd_cosine" else 0
            assert one is None or one == pytest.approx(other, rel=tolerance, abs=near), name
    assert found.metrics == pytest.approx(dict(wanted.metrics), rel=tolerance, abs=0)
    assert found.cost.train_flops == wanted.cost.train_flops


def assert_alone_as_together(specs: Sequence[StudentSpec], cache: Path, tolerance: float = 1e-10) -> list[Record]:
    """Train the students together and each alone, compare, and return the records of all together."""
    together = train(specs, cache)
    assert [record.spec for record in together] == list(specs)
    for spec, record in zip(specs, together, strict=True):
        (alone,) = train([spec], cache)
        assert record.status == "ok", spec
        assert_same(record, alone, tolerance)
    return together
