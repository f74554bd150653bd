"""The measurement of what driving a trial costs: every count, parts that add up, on real stores."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from harness.bench import driving
from harness.records import record_from_json
from harness.spec import StudentSpec
from harness.values import to_json


def test_every_count_is_measured_in_one_growing_study(tmp_path: Path) -> None:
    seen: list[int] = []
    small, large = driving.measure("mnist5k", tmp_path, [20, 10], seen.append)
    assert (small.trials, small.window, large.trials, large.window) == (10, 10, 20, 20)
    for found in (small, large):
        assert min(found.ask, found.persist, found.track, found.tell) > 0
        assert found.seconds == pytest.approx(found.ask + found.persist + found.track + found.tell)
        assert found.seconds < 5
    assert math.isnan(small.peak_mib) or 50 < small.peak_mib <= large.peak_mib
    assert seen == [10, 20]
    assert (tmp_path / "study.db").exists() and (tmp_path / "mlflow.db").exists()


def test_a_study_that_cannot_be_driven_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("STUDY = 1")
    with pytest.raises(ValueError, match="left with code"):
        driving.measure(str(tmp_path / "broken.py"), tmp_path, [10], lambda _: None)


def test_counts_that_are_no_whole_rounds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="7 trials is no multiple of 10"):
        driving.measure("mnist5k", tmp_path, [7], lambda _: None)


def test_a_fake_record_is_as_long_as_a_real_one_and_depends_on_its_spec_alone() -> None:
    spec = StudentSpec("mnist5k", "cnn", 4, 1, "kl", alpha=0.3, temperature=4.0, epochs=12)
    record = driving.fake_record(spec)
    assert record == driving.fake_record(spec)
    columns = {name: len(column) for name, column in to_json(record.curve).items()}
    assert columns.pop("test_accuracy") == 0 and set(columns.values()) == {12}
    assert record.curve.val_accuracy[-1] == record.metrics["val_accuracy"]
    assert record_from_json(json.loads(json.dumps(to_json(record)))) == record
