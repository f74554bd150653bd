"""Specs and records: what they refuse, and JSON both ways."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.records import VAL_METRICS, Balance, Cost, Curve, Record, record_from_json
from harness.spec import DTYPES, MIXINGS, OPTIMISERS, PLAIN, SCHEDULES, StudentSpec, check_range, spec_from_json
from harness.values import digest, to_json

positive = st.floats(1e-9, 1e9)
finite = st.floats(allow_nan=False, allow_infinity=False)
costs = st.floats(0, allow_infinity=False)
columns = st.lists(finite, max_size=4).map(tuple)


@st.composite
def specs(draw: st.DrawFn) -> StudentSpec:
    form = draw(st.sampled_from(["kl", "mse", PLAIN]))
    return StudentSpec(
        task=draw(st.text(max_size=8)),
        family=draw(st.sampled_from(["mlp", "cnn"])),
        width=draw(st.integers(1, 512)),
        seed=draw(st.integers(0, 2**63 - 1)),
        form=form,
        alpha=1.0 if form == PLAIN else draw(st.floats(0, 1)),
        temperature=None if form == PLAIN else draw(st.none() | positive),
        mixing=draw(st.sampled_from(MIXINGS)),
        optimiser=draw(st.sampled_from(OPTIMISERS)),
        lr=draw(positive),
        weight_decay=draw(st.floats(0, 1e9)),
        momentum=draw(st.floats(0, 0.9999)),
        schedule=draw(st.sampled_from(SCHEDULES)),
        epochs=draw(st.integers(1, 1000)),
        batch_size=draw(st.integers(1, 1000)),
        dtype=draw(st.sampled_from(DTYPES)),
    )


records = st.builds(
    Record,
    spec=specs(),
    status=st.sampled_from(["ok", "diverged"]),
    curve=st.builds(Curve, columns, columns, columns, columns, columns),
    metrics=st.fixed_dictionaries(dict.fromkeys(VAL_METRICS, finite), optional={"train_loss": finite}),
    num_params=st.integers(1, 2**53),
    macs=st.integers(1, 2**53),
    cost=st.builds(Cost, costs, costs, st.integers(1, 99), st.sampled_from(["cpu", "cuda"])),
)


def spec(**changed: Any) -> StudentSpec:
    return dataclasses.replace(StudentSpec("digits", "mlp", 4, 1, "kl", temperature=4.0), **changed)


def record() -> Record:
    return Record(spec(), "ok", Curve((1.0,)), dict.fromkeys(VAL_METRICS, 0.5), 10, 20)


def through_text(value: Any) -> Any:
    return json.loads(json.dumps(to_json(value), allow_nan=False))


@given(specs())
def test_a_spec_comes_back_from_json_as_it_was(student: StudentSpec) -> None:
    back = spec_from_json(through_text(student))
    assert back == student
    assert hash(back) == hash(student)
    assert digest(to_json(back)) == digest(to_json(student))


@given(records)
def test_a_record_comes_back_from_json_as_it_was(found: Record) -> None:
    assert record_from_json(through_text(found)) == found


def test_a_spec_written_before_a_knob_existed_gets_its_default() -> None:
    data = to_json(spec())
    del data["momentum"]
    assert spec_from_json(data) == spec()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {**to_json(spec()), "lr_decay": 1},
            "unknown field 'lr_decay' of a student; fields are alpha, assistants, batch_size",
        ),
        ({"task": "digits"}, "not a student spec: .*missing"),
        ({**to_json(spec()), "width": 0}, "width 0 is out of range"),
    ],
)
def test_data_that_is_not_a_spec_is_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec_from_json(data)


@pytest.mark.parametrize("missing", [f.name for f in dataclasses.fields(Record) if f.name != "balance"])
def test_data_that_lacks_a_part_of_a_record_is_refused(missing: str) -> None:
    data = through_text(record())
    del data[missing]
    with pytest.raises(ValueError, match=f"not a record: KeyError\\('{missing}'\\)"):
        record_from_json(data)


def test_a_record_written_before_balance_was_measured_has_none() -> None:
    measured = dataclasses.replace(record(), balance=Balance((1.0, None, 2.0), (0.5, None, -0.5)))
    data = through_text(measured)
    assert record_from_json(data) == measured
    del data["balance"]
    assert record_from_json(data) == dataclasses.replace(measured, balance=Balance())


@pytest.mark.parametrize("part", ["spec", "curve", "metrics", "cost", "num_params"])
def test_data_with_nothing_for_a_part_of_a_record_is_refused(part: str) -> None:
    with pytest.raises(ValueError, match="not a "):
        record_from_json({**through_text(record()), part: None})


@pytest.mark.parametrize("data", [None, [], 3, "text", {}])
def test_data_of_another_kind_is_not_a_record(data: Any) -> None:
    with pytest.raises(ValueError, match="not a record"):
        record_from_json(data)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("width", 0, "width 0 is out of range; it must be a whole number of at least 1"),
        ("width", 2.0, "width 2.0 is out of range"),
        ("width", True, "width True is out of range"),
        ("alpha", -0.1, "alpha -0.1 is out of range; it must be a number from 0 to 1"),
        ("alpha", 1.1, "alpha 1.1 is out of range"),
        ("alpha", math.nan, "alpha nan is out of range"),
        ("alpha", "0.5", "alpha '0.5' is out of range"),
        ("temperature", 0.0, "temperature 0.0 is out of range; it must be a number above 0"),
        ("temperature", -1.0, "temperature -1.0 is out of range"),
        ("temperature", math.inf, "temperature inf is out of range"),
        ("lr", 0.0, "lr 0.0 is out of range"),
        ("weight_decay", -1e-9, "weight_decay -1e-09 is out of range"),
        ("momentum", 1.0, "momentum 1.0 is out of range"),
        ("epochs", 0, "epochs 0 is out of range"),
        ("batch_size", 0, "batch_size 0 is out of range"),
        ("seed", -1, "seed -1 is out of range"),
        ("seed", 2**63, "seed 9223372036854775808 is out of range"),
        ("mixing", "sum", "unknown mixing 'sum'; choices are convex, additive"),
        ("optimiser", "lion", "unknown optimiser 'lion'; choices are adamw, adam, sgd"),
        ("schedule", "step", "unknown schedule 'step'; choices are cosine, constant"),
        ("dtype", "float16", "unknown dtype 'float16'; choices are float32, float64"),
    ],
)
def test_a_value_out_of_its_range_is_refused_with_the_choices(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("alpha", 0), ("alpha", 1), ("width", 1), ("seed", 2**63 - 1), ("temperature", None), ("temperature", 1e-9)],
)
def test_the_ends_of_a_range_are_in_it(name: str, value: Any) -> None:
    check_range(name, value)
    assert getattr(spec(**{name: value}), name) == value


@pytest.mark.parametrize("changed", [{"alpha": 0.5}, {"alpha": 1.0, "temperature": 4.0}])
def test_plain_training_takes_neither_an_alpha_nor_a_temperature(changed: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="form 'ce' is plain training: alpha is 1, and there is no temperature"):
        spec(**{"form": PLAIN, "temperature": None, **changed})


def test_students_that_differ_only_in_what_is_fused_share_a_cohort() -> None:
    together = spec(seed=9, form="mse", alpha=0.9, temperature=None, mixing="additive", lr=1.0, weight_decay=1.0)
    assert together.cohort_key == spec().cohort_key
    own: tuple[dict[str, Any], ...] = (
        {"momentum": 0.5}, {"schedule": "constant"}, {"warmup": 0.2}, {"clip_norm": 1.0}, {"width": 5},
        {"label_smoothing": 0.1}, {"patience": 2}, {"loss_scale": 3.0},
        {"teacher": "self"}, {"teacher": "assistant", "assistants": "8"}, {"teacher_width": 8}, {"teacher_epochs": 3},
    )  # fmt: skip
    for changed in own:
        assert dataclasses.replace(together, **changed).cohort_key == spec().cohort_key


@pytest.mark.parametrize(
    "changed",
    [
        {"task": "mnist5k"}, {"family": "cnn"}, {"dropout": 0.5}, {"dtype": "float64"},
        {"feature": "hint", "feature_weight": 1.0},
        {"optimiser": "sgd"}, {"epochs": 3}, {"batch_size": 32}, {"transform": "shift", "views": 2},
        {"form": "own", "temperature": None, "form_file": "study.py"},
    ],
    ids=str,
)  # fmt: skip
def test_students_that_differ_in_shape_or_batches_do_not_share_a_cohort(changed: dict[str, Any]) -> None:
    assert spec(**changed).cohort_key != spec().cohort_key


@pytest.mark.parametrize("own", [{"dropout": 0.5}, {"feature": "hint", "feature_weight": 1.0}], ids=str)
def test_students_whose_features_are_compared_or_dropped_share_a_cohort_at_one_width_only(own: dict[str, Any]) -> None:
    assert spec(**own).cohort_key == spec(**own, seed=7, alpha=0.9).cohort_key
    assert spec(**own).cohort_key != spec(**own, width=5).cohort_key


def test_a_record_gives_its_measurements_by_name() -> None:
    assert [record().value(name) for name in ("val_accuracy", "num_params", "macs")] == [0.5, 10.0, 20.0]
    with pytest.raises(ValueError, match="unknown metric 'test_accuracy'; the record has num_params, macs, val_acc"):
        record().value("test_accuracy")


def test_a_digest_does_not_depend_on_the_order_of_keys_or_on_the_process() -> None:
    data = {"b": [1, 2.5, None], "a": {"y": "é", "x": True}}
    assert digest(data) == digest({"a": {"x": True, "y": "é"}, "b": [1, 2.5, None]})
    assert digest(data) != digest({**data, "b": [1, 2.5]})
    program = f"from harness.values import digest; print(digest({data!r}))"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == digest(data)
