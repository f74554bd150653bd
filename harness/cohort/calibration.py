"""What a training step costs here: a short measurement, a few steps of cohorts of several sizes at every width.

No teacher is needed: a step on made-up teacher logits costs the same. What was measured is kept on disk under a key of
everything it depends on that is known here; another machine, library or batch size is measured anew.
"""

from __future__ import annotations

import logging
import os
import platform
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness import __version__, optimisers, tasks
from harness.cohort.batch import Batch
from harness.cohort.data import Data, load_inputs
from harness.cohort.stack import Cohort, alone, stack
from harness.cohort.training import orders, take_step
from harness.costs import Costs, Timing, costs_from_json
from harness.files import put_aside, read_sealed, write_sealed
from harness.losses.gradients import made_of
from harness.machine import cores
from harness.models import num_params
from harness.spec import NONE, StudentSpec
from harness.targets import Targets
from harness.values import digest

SIZES = (1, 8, 64)
"""Cohorts that are timed; on an accelerator also `MANY`."""
MANY = 256
STEPS, SECONDS, LONGEST = 5, 0.15, 0.5
"""Steps that are timed of each, at least, and for how long; and how long one step may be expected to take."""
SHARE = 0.5
"""Of the memory that is free, what all workers together may fill."""
MADE = 4
"""Of what a step is made: another number where it is made otherwise, so that what was measured before is of no use."""

log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]


def calibrate(
    specs: Sequence[StudentSpec], folder: Path, device: str, workers: int, progress: Progress = lambda *_: None
) -> Costs:
    """The costs of students such as these, from `folder` or measured now, by one of so many `workers` of a machine.

    `specs` are of one task and family, any widths; measured is the batch size, dtype and optimiser of the first.
    """
    task = tasks.load(specs[0].task)
    family = task.families[specs[0].family]
    widths = sorted({family.stands_in(spec.width) for spec in specs})
    probes = _probes(specs)
    threads = _threads(device, workers)
    machine, software = [where(device), workers, threads], [__version__, MADE, torch.__version__]
    shape = [task.name, task.input_shape, task.num_classes, len(task.train)]
    sizes = [num_params(family, width, task.input_shape, task.num_classes) for width in widths]  # its code may change
    built = [family.name, family.stacks, family.pads, sizes]
    key = digest([machine, software, shape, widths, SIZES, built, [_kind(probe) for probe in probes]])
    path = folder / f"{task.name}-{family.name}-{key}.json"
    room = _room(device, workers)
    if (known := _known(path, widths)) is not None:
        return replace(known, memory=room)
    data = load_inputs(probes[0], device)
    timings: list[Timing] = []
    bytes_each: dict[int, int] = {}
    for done, width in enumerate(widths):
        own = [replace(probe, width=width) for probe in probes]
        timings += _timings(own, data, device, threads)
        bytes_each[width] = _bytes_each(own, data, device)
        progress(done + 1, len(widths))
    costs = Costs(tuple(timings), bytes_each, family.pads, room, where(device))
    try:
        write_sealed(path, costs.to_json())
    except OSError as error:
        log.warning("what a step costs cannot be kept (%s); the next sweep measures it again", error)
    return costs


def _known(path: Path, widths: Sequence[int]) -> Costs | None:
    """What was measured before at these widths; a damaged file is put aside."""
    try:
        data = read_sealed(path)
        if data is None:
            return None
        found = costs_from_json(data)
        if sorted(found.bytes_each) != list(widths):
            raise ValueError("it is of other widths")
    except ValueError as error:
        put_aside(path, f"{path}: {error}; steps are measured again")
        return None
    return found


def where(device: str) -> str:
    """The processor in words, as far as it is known."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{model}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"


def _probes(specs: Sequence[StudentSpec]) -> list[StudentSpec]:
    """Students that stand for the study's: one of each form, taught offline, that may share a cohort."""
    lead = specs[0]
    plain = {"teacher": "offline", "teacher_width": 0, "teacher_epochs": 0, "assistants": NONE, "dropout": 0.0}
    alike = {name: getattr(lead, name) for name in ("optimiser", "epochs", "batch_size", "dtype")}
    one_view = {"transform": NONE, "views": 1, "feature": NONE, "feature_weight": 0.0}
    by_form: dict[str, StudentSpec] = {}
    for spec in specs:
        knobs = tuple(knob for knob in spec.knobs if knob[0].startswith(f"{spec.form}."))
        by_form.setdefault(spec.form, replace(spec, knobs=knobs, **plain, **alike, **one_view))  # type: ignore[arg-type]
    return list(by_form.values())


def _kind(probe: StudentSpec) -> list[object]:
    """What of a student a step's cost depends on, but its width."""
    used = [probe.label_smoothing > 0, probe.clip_norm > 0, *(name for name, _ in probe.knobs)]
    return [probe.form, probe.form_file, probe.optimiser, probe.batch_size, probe.dtype, probe.mixing, *used]


def _threads(device: str, workers: int) -> tuple[int, ...]:
    """How many threads a worker may try: one, or its share of the cores."""
    share = cores() // workers
    return (1,) if device.startswith("cuda") or share < 2 else (1, share)


def sizes(device: str) -> tuple[int, ...]:
    """Cohorts that are timed on a device."""
    return (*SIZES, MANY) if device.startswith("cuda") else SIZES


def _timings(probes: Sequence[StudentSpec], data: Data, device: str, threads: Sequence[int]) -> Iterator[Timing]:
    """A timing of every size and way; the sizes of a way grow until a step would be long."""
    before = torch.get_num_threads()
    lone = bool(alone(data.family, probes[0].width, data.task))
    loops = (True,) if lone else (False,) if data.family.stacks else (False, True)
    ways = [(looped, count) for looped in loops for count in threads]
    try:
        for looped, count in ways:
            torch.set_num_threads(count)
            each = 0.0
            for size in (1,) if lone else sizes(device):
                if each * size > LONGEST:
                    break
                cohort = cohort_of(probes, size, data, device, looped=looped)
                _, once = timed_steps(cohort, data, device, 2)  # the first step warms up
                seconds = median(timed_steps(cohort, data, device, max(STEPS, int(SECONDS / once))))
                yield Timing(probes[0].width, size, seconds, looped, count)
                each = seconds / size
    finally:
        torch.set_num_threads(before)


def cohort_of(probes: Sequence[StudentSpec], size: int, data: Data, device: str, *, looped: bool) -> Cohort:
    """So many students, the forms in turn, under two seeds where they can stand in pairs."""
    seeds = 2 if size % 2 == 0 else 1
    own = sorted(islice(cycle(probes), size // seeds), key=lambda spec: (made_of(spec), spec.form))
    members = [replace(spec, seed=seed) for seed in range(seeds) for spec in own]
    said = torch.zeros(len(data.views), *data.labels["train"].shape[1:], data.task.num_classes)
    taught = [Targets(said, {})] * len(members)
    return stack(members, data, taught, device, padded=data.family.pads, looped=looped)


def timed_steps(cohort: Cohort, data: Data, device: str, count: int) -> list[float]:
    """So many steps, and the seconds of each."""
    order = next(orders(cohort, data, device))
    rows = torch.split(order, cohort.specs[0].batch_size, dim=1)
    state = optimisers.start(cohort.network.values)
    learned = [optimisers.start(run.learned.values) for run in cohort.learned if run.learned is not None]
    scale = torch.ones_like(cohort.network.values[:, :1])
    found = []
    for index in range(count):
        started = time.perf_counter()
        take_step(cohort, data, Batch(rows[index % len(rows)], 0, 0.0), None, (state, learned), scale)
        wait_for(device)
        found.append(time.perf_counter() - started)
    return found


def wait_for(device: str) -> None:
    """Until an accelerator has done what it was told; a CPU has."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _bytes_each(probes: Sequence[StudentSpec], data: Data, device: str) -> int:
    """Bytes that a student needs in a step, at the worst moment of one, of a cohort of two: its numbers, their moments,
    and whatever else there is then."""
    count = 1 if alone(data.family, probes[0].width, data.task) else 2
    cohort = cohort_of(probes, count, data, device, looped=False)
    timed_steps(cohort, data, device, 1)  # what is made once and kept is not a student's
    peak = _Peak()
    with peak:
        timed_steps(cohort, data, device, 1)
    return max(1, (peak.most + cohort.network.values.nbytes) // count)


class _Peak(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that operations make, while they live; `most` is the most of them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0
        self._now = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage())
        self.most = max(self.most, self._now)
        return found

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._alive:
            self._alive[key] = storage.nbytes()
            self._now += storage.nbytes()
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self._now -= self._alive.pop(key, 0)


def _room(device: str, workers: int) -> int:
    """Bytes that a worker may fill, 0 where that is not known."""
    if device.startswith("cuda"):
        return int(SHARE * torch.cuda.mem_get_info(device)[0] / workers)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError, IndexError):
        return 0
    return int(SHARE * free / workers)
