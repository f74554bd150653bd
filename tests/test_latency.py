"""Milliseconds: percentiles of single calls, students in turns, one thread; and energy where the machine counts it."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness import latency
from harness.analysis.latency import FILE, read_latency
from harness.energy import counters, joules
from harness.export import Student, weights_size
from harness.files import write_sealed
from harness.latency import Latency, Timing, measure
from harness.models import MLP
from tests.handed import made_task, trained

TASK = made_task(MLP, (4,))
STUDENTS = {"narrow": trained(TASK, MLP, 2), "wide": trained(TASK, MLP, 9), "third": trained(TASK, MLP, 3)}


class Watched(nn.Module):
    """Writes down who is called, under which conditions."""

    def __init__(self, name: int, calls: list[tuple[int, int]]) -> None:
        super().__init__()
        self._name, self._calls = name, calls

    def forward(self, inputs: Tensor) -> Tensor:
        assert torch.get_num_threads() == 1 and torch.is_inference_mode_enabled() and not gc.isenabled()
        self._calls.append((self._name, len(inputs)))
        return inputs


def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The calls that are made of now on: the student's width, and how many examples it was given."""
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(latency, "network", lambda student: Watched(student.width, calls))
    return calls


def test_students_are_timed_block_by_block_each_round_beginning_with_another(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = watched(monkeypatch)
    monkeypatch.setattr(latency, "ROUNDS", (4, 4))
    found = measure(STUDENTS, batches=(2,))
    warm, timed = calls[: 3 * latency.WARM_UP], calls[3 * latency.WARM_UP :]
    assert [width for width, _ in warm[:: latency.WARM_UP]] == [2, 9, 3]
    assert [width for width, _ in timed[:: latency.BLOCK + 1]] == [2, 9, 3, 9, 3, 2, 3, 2, 9, 2, 9, 3]
    assert len(timed) == 4 * 3 * (latency.BLOCK + 1) and {batch for _, batch in calls} == {2}
    assert {one.of(2).repetitions for one in found.values()} == {4 * latency.BLOCK}


def test_every_batch_size_is_measured_even_one_larger_than_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = watched(monkeypatch)
    found = measure(STUDENTS, seconds=0)
    assert len(TASK.val) < 64 and {batch for _, batch in calls} == {1, 64}
    assert [timing.batch for timing in found["wide"].timings] == [1, 64]
    with pytest.raises(ValueError, match="no latency at batch 8; measured are 1, 64"):
        found["wide"].of(8)


def test_median_and_95th_percentile_are_those_of_the_single_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: of 0, 1, ... 100 million nanoseconds the median is 50 ms, and 95 of a hundred steps lie below 95 ms."""
    monkeypatch.setattr(latency, "BLOCK", 101)
    monkeypatch.setattr(latency, "ROUNDS", (1, 1))
    clock = iter([*[1] * latency.WARM_UP, *(million * 1_000_000 for million in range(100, -1, -1))])
    monkeypatch.setattr(latency, "_timed", lambda _: next(clock))
    found = measure({"narrow": STUDENTS["narrow"]}, batches=(1,))["narrow"].of(1)
    assert (found.p50_ms, found.p95_ms, found.repetitions) == (50.0, 95.0, 101)


def test_threads_and_garbage_collection_are_as_before_also_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Student) -> nn.Module:
        class Failing(nn.Module):
            def forward(self, inputs: Tensor) -> Tensor:
                raise RuntimeError(f"stopped at {len(inputs)}")

        return Failing()

    torch.set_num_threads(2)
    try:
        measure(STUDENTS, batches=(1,), seconds=0)
        assert torch.get_num_threads() == 2 and gc.isenabled()
        monkeypatch.setattr(latency, "network", fail)
        with pytest.raises(RuntimeError, match="stopped at 1"):
            measure(STUDENTS, batches=(1,))
        assert torch.get_num_threads() == 2 and gc.isenabled()
    finally:
        torch.set_num_threads(1)


def test_a_real_measurement_says_where_it_was_made_and_how_large_the_student_is() -> None:
    found = measure(STUDENTS, seconds=0.05)
    for name, one in found.items():
        assert one.size_bytes == weights_size(STUDENTS[name])
        assert one.device == "cpu" and one.torch == torch.__version__ and one.machine
        assert all(0 < timing.p50_ms <= timing.p95_ms for timing in one.timings)


def test_nobody_is_measured_where_nobody_is_given() -> None:
    assert measure({}) == {}


FOUND = Latency("cpu", "a processor", "2.13.0", 1234, (Timing(1, 0.05, 0.07, 100), Timing(64, 0.5, 0.6, 100, 0.25)))


def test_json_both_ways() -> None:
    assert latency.from_json(json.loads(json.dumps(latency.to_json(FOUND)))) == FOUND


@pytest.mark.parametrize(
    "change",
    [
        {"size_bytes": "many"}, {"size_bytes": True}, {"timings": [{"batch": 1}]}, {"timings": 3}, {"more": 1},
        {"device": 4}, {"timings": [{"batch": 1, "p50_ms": float("nan"), "p95_ms": 1.0, "repetitions": 3}]},
        {"timings": [{"batch": 1, "p50_ms": 1.0, "p95_ms": 1.0, "repetitions": 3, "energy_mj": -1.0}]},
    ],
)  # fmt: skip
def test_what_is_no_latency_is_refused(change: Mapping[str, Any]) -> None:
    with pytest.raises(ValueError, match="not a latency"):
        latency.from_json({**latency.to_json(FOUND), **change})
    others: list[Any] = [None, 3, [], {}, "text"]
    for data in others:
        with pytest.raises(ValueError, match="not a latency"):
            latency.from_json(data)


def zone(root: Path, name: str, says: str, microjoules: int, most: int = 1000) -> Path:
    """A zone of Linux's powercap, as a folder."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{says}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")
    return folder / "energy_uj"


def test_energy_is_that_of_all_packages_and_of_nothing_within_them(tmp_path: Path) -> None:
    """By hand: one package goes from 100 to 400 microjoules, one from 900 over 1000 to 49: 300 + 150."""
    files = [zone(tmp_path, f"intel-rapl:{i}", f"package-{i}", start) for i, start in ((0, 100), (1, 900))]
    inner = zone(tmp_path, "intel-rapl:0:0", "core", 5)
    whole = zone(tmp_path, "intel-rapl:2", "psys", 5)

    def work() -> None:
        for file, end in zip((*files, inner, whole), (400, 49, 999, 999), strict=True):
            file.write_text(f"{end}\n")

    assert joules(work, counters(tmp_path)) == pytest.approx(450e-6)


def test_energy_that_cannot_be_read_is_not_guessed(tmp_path: Path) -> None:
    assert counters(tmp_path / "none") == ()
    zone(tmp_path, "intel-rapl:0", "package-0", 100)
    zone(tmp_path, "intel-rapl:1", "package-1", 100).unlink()
    assert counters(tmp_path) == () and joules(lambda: None, ()) is None
    file = zone(tmp_path / "later", "intel-rapl:0", "package-0", 100)
    assert joules(file.unlink, counters(tmp_path / "later")) is None
    assert measure(STUDENTS, batches=(1,), seconds=0, powercap=tmp_path)["wide"].of(1).energy_mj is None


def test_energy_is_told_by_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: 2 joules in the calls of half a second, 1 ms each, 4 examples each: 2000 mJ / (500 x 4)."""
    file = zone(tmp_path, "intel-rapl:0", "package-0", 0, most=10**9)
    monkeypatch.setattr(latency, "_timed", lambda _: 1_000_000)
    monkeypatch.setattr(latency, "ROUNDS", (1, 1))
    calls = watched(monkeypatch)

    class Meter(Watched):
        def forward(self, inputs: Tensor) -> Tensor:
            file.write_text(f"{4000 * (len(calls) + 1)}")
            return super().forward(inputs)

    monkeypatch.setattr(latency, "network", lambda student: Meter(student.width, calls))
    found = measure({"narrow": STUDENTS["narrow"]}, batches=(4,), powercap=tmp_path)
    assert found["narrow"].of(4).energy_mj == pytest.approx(1.0)


def test_a_report_reads_energy_where_it_was_measured_and_no_number_where_not(tmp_path: Path) -> None:
    timings = [{"batch": 1, "p50_ms": 1, "p95_ms": 2, "energy_mj": 0.5}, {"batch": 64, "p50_ms": 3, "p95_ms": 4}]
    write_sealed(tmp_path / FILE, {"widths": {"2": {"size_bytes": 1024, "timings": timings}}})
    row = read_latency(tmp_path).loc[2]
    assert row["energy_mj"] == 0.5 and np.isnan(row["energy_64_mj"]) and row["latency_64_ms"] == 3
