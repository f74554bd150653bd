"""How long a student takes for a batch: eager torch, one thread, warm; several students in turns, so that what a busy
machine does in between is felt by all alike.

A call takes a task's inputs to logits, the family's `prepare` included: what a user waits for. The inputs are on the
device before the clock runs, and the device is done before it stops.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.cohort.calibration import where
from harness.energy import POWERCAP, Counter, counters, joules
from harness.export.student import Student, network, real_inputs, weights_size
from harness.values import is_number

BATCHES = (1, 64)
WARM_UP = 20
"""Calls of each student before anything is timed; torch chooses its kernels in the first."""
BLOCK = 5
"""Calls of a student that are timed in a row, after one that is not: in between the others had the caches."""
ROUNDS = (20, 200)
"""Fewest and most turns of each student: 100 to 1,000 timed calls."""
ENERGY_SECONDS = 0.5
"""How long a student runs for its energy; the counters move once a millisecond."""
Call = Callable[[], None]


@dataclass(frozen=True)
class Timing:
    """Milliseconds for a batch of so many examples: median and 95th percentile of `repetitions` calls.

    `energy_mj` is what the processor packages used, in millijoules an example, whatever else the machine did included;
    None where it cannot be measured.
    """

    batch: int
    p50_ms: float
    p95_ms: float
    repetitions: int
    energy_mj: float | None = None


@dataclass(frozen=True)
class Latency:
    """A student's timings, its weights' size as a file, and on what it was measured, by one thread."""

    device: str
    machine: str
    torch: str
    size_bytes: int
    timings: tuple[Timing, ...]

    def of(self, batch: int) -> Timing:
        """The timing at a batch size. Raises `ValueError` for one that was not measured."""
        for timing in self.timings:
            if timing.batch == batch:
                return timing
        raise ValueError(f"no latency at batch {batch}; measured are {', '.join(str(t.batch) for t in self.timings)}")


def measure(
    students: Mapping[str, Student],
    device: str = "cpu",
    *,
    batches: Sequence[int] = BATCHES,
    seconds: float = 1.0,
    powercap: Path = POWERCAP,
) -> dict[str, Latency]:
    """The students' latencies by name, measured in turns; about so many `seconds` a student and batch size."""
    modules = {name: network(student).to(device) for name, student in students.items()}
    found: dict[str, list[Timing]] = {name: [] for name in students}
    meters = counters(powercap) if device == "cpu" else ()
    with _quiet(), torch.inference_mode():
        for batch in batches:
            inputs = {name: _inputs(student, batch).to(device) for name, student in students.items()}
            calls = {name: _call(module, inputs[name], device) for name, module in modules.items()}
            for name, timing in _in_turns(calls, batch, seconds, meters).items():
                found[name].append(timing)
    return {
        name: Latency(device, where(device), torch.__version__, weights_size(student), tuple(found[name]))
        for name, student in students.items()
    }


def to_json(latency: Latency) -> dict[str, Any]:
    """A latency as plain JSON data."""
    return {**asdict(latency), "timings": [asdict(timing) for timing in latency.timings]}


def from_json(data: Any) -> Latency:
    """The `Latency` that `to_json` wrote. Raises `ValueError` when the data is not one, whatever it is."""
    try:
        found = Latency(**{**data, "timings": tuple(Timing(**timing) for timing in data["timings"])})
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a latency: {error!r}") from None
    numbers: list[float] = [found.size_bytes]
    for timing in found.timings:
        numbers += [timing.batch, timing.p50_ms, timing.p95_ms, timing.repetitions]
        numbers += [] if timing.energy_mj is None else [timing.energy_mj]
    texts = (found.device, found.machine, found.torch)
    if not all(is_number(number) and number >= 0 for number in numbers) or not all(isinstance(t, str) for t in texts):
        raise ValueError("not a latency: a value is not what it should be")
    return found


def _in_turns(calls: Mapping[str, Call], batch: int, seconds: float, meters: tuple[Counter, ...]) -> dict[str, Timing]:
    """Time every call, block by block, each round beginning with another."""
    warm = {name: [_timed(call) for _ in range(WARM_UP)] for name, call in calls.items()}
    a_round = sum(statistics.median(times[WARM_UP // 2 :]) for times in warm.values()) * (BLOCK + 1) / 1e9
    rounds = max(ROUNDS[0], min(ROUNDS[1], int(seconds * len(calls) / max(a_round, 1e-9))))
    times: dict[str, list[int]] = {name: [] for name in calls}
    names = list(calls)
    for number in range(rounds if calls else 0):
        first = number % len(names)
        for name in (*names[first:], *names[:first]):
            calls[name]()
            times[name] += [_timed(calls[name]) for _ in range(BLOCK)]
    found = {}
    for name, own in times.items():
        steps = statistics.quantiles(own, n=20, method="inclusive")
        energy = _energy(calls[name], statistics.median(own), batch, meters)
        found[name] = Timing(batch, steps[9] / 1e6, steps[18] / 1e6, len(own), energy)
    return found


def _timed(call: Call) -> int:
    """Nanoseconds."""
    start = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - start


def _call(module: torch.nn.Module, inputs: Tensor, device: str) -> Call:
    """One batch's logits, there when the call returns."""
    place = torch.device(device)

    def call() -> None:
        module(inputs)
        if place.type != "cpu":
            torch.accelerator.synchronize(place)

    return call


def _inputs(student: Student, batch: int) -> Tensor:
    """Real inputs `[batch, ...]`, again from the first where there are too few."""
    inputs = real_inputs(student.task, batch)
    return inputs[torch.arange(batch) % len(inputs)].contiguous()


def _energy(call: Call, nanoseconds: float, batch: int, meters: tuple[Counter, ...]) -> float | None:
    """Millijoules an example, of many calls in a row."""
    repetitions = max(1, int(ENERGY_SECONDS * 1e9 / max(nanoseconds, 1)))

    def work() -> None:
        for _ in range(repetitions):
            call()

    used = joules(work, meters)
    return None if used is None else 1e3 * used / (repetitions * batch)


@contextmanager
def _quiet() -> Iterator[None]:
    """One torch thread and no garbage collection; both as before when it ends."""
    threads, collecting = torch.get_num_threads(), gc.isenabled()
    torch.set_num_threads(1)
    gc.disable()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if collecting:
            gc.enable()
