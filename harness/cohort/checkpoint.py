"""A student between two parts of its training: all that the rest depends on, and the file that keeps it.

    network, first, second       parameters and their moments, `[numbers]`, at the student's own width
    best, patience               of a patient student: parameters of its best epoch; see `Patience.numbers`
    form, form.first, ...        what its loss form has learned, and the moments; likewise feature
    curve, pulls                 `[epochs, 5 or 6]` and `[3, 3]` (moment, kind), not finite where there is none

What follows from seed and epoch is not kept but drawn again: batch orders, dropped units, the schedule. So a student
may go on beside others, in tensors of another width: the same to the bit but for what that company rounds otherwise.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from harness import optimisers
from harness.cohort.data import Data
from harness.cohort.patience import Patience
from harness.cohort.stack import Cohort
from harness.files import put_aside, write_bytes
from harness.keyed import checksum
from harness.losses import FeatureForm
from harness.models.family import pad
from harness.values import Range, digest


@dataclass(frozen=True)
class State:
    """One student after `epoch` epochs of its cohort. `seconds`, and FLOPs of teachers made for it alone, so far."""

    epoch: int
    tensors: Mapping[str, Tensor]
    seconds: float = 0.0
    teacher_flops: float = 0.0


@dataclass(frozen=True)
class Live:
    """What the loop carries from step to step beside the networks: `curves` has one `[5, students]` an epoch, `pulls`
    one `[3, students]` for each of the steps `looked_at` that is past."""

    optimiser: optimisers.State
    learned: Sequence[optimisers.State]
    patience: Patience
    looked_at: Sequence[int]
    pulls: dict[int, Tensor]
    curves: list[Tensor]


def start(cohort: Cohort, looked_at: Sequence[int]) -> Live:
    """Before the first step."""
    learned = [optimisers.start(run.learned.values) for run in cohort.learned if run.learned is not None]
    return Live(optimisers.start(cohort.network.values), learned, Patience(cohort), looked_at, {}, [])


def keep(cohort: Cohort, data: Data, live: Live, epoch: int) -> list[State]:
    """Every student's state, on the CPU. Call it before patient students are given their best epoch back."""
    rows = torch.stack(live.curves).permute(2, 0, 1).double().cpu()
    missing = rows.new_full((len(rows), epoch - rows.shape[1], rows.shape[2]), math.nan)  # where all had stopped before
    curves = torch.cat([rows, missing], dim=1)
    nothing = torch.full((3, len(rows)), math.nan, dtype=torch.float64)
    pulls = [live.pulls[at].double().cpu() if at in live.pulls else nothing for at in live.looked_at or (0, 0, 0)]
    found: list[dict[str, Tensor]] = [
        {"curve": curves[student], "pulls": torch.stack([moment[:, student] for moment in pulls])}
        for student in range(len(rows))
    ]
    for name, student, values, place, own in _rows(cohort, data, live):
        found[student][name] = values[place, own].cpu()
    for student, spec in enumerate(cohort.specs):
        if spec.patience:
            found[student]["patience"] = torch.tensor(live.patience.numbers(student), dtype=torch.float64)
    return [State(epoch, {name: tensor.contiguous() for name, tensor in tensors.items()}) for tensors in found]


def resume(cohort: Cohort, data: Data, live: Live, states: Sequence[State], steps_an_epoch: int) -> int:
    """Put the students where their states were, in place; gives the epoch, which is that of all of them."""
    epoch = states[0].epoch
    device = cohort.network.values.device
    with torch.no_grad():
        for name, student, values, place, own in _rows(cohort, data, live):
            values[place, own] = states[student].tensors[name].to(values)
    for student, spec in enumerate(cohort.specs):
        if spec.patience:
            live.patience.resume(student, states[student].tensors["patience"].tolist())
    for state in (live.optimiser, *live.learned):
        state.count = epoch * steps_an_epoch
    pulls = torch.stack([state.tensors["pulls"] for state in states], dim=-1).to(cohort.network.values)
    live.pulls.update({at: own for at, own in zip(live.looked_at, pulls, strict=False) if at < live.optimiser.count})
    live.curves.extend(torch.stack([state.tensors["curve"] for state in states], dim=-1).to(device))
    return epoch


def numbers_by_width(cohort: Cohort, data: Data) -> dict[int, Tensor]:
    """For each width of the cohort, which of a row's numbers are a student's own: a mask `[numbers]`."""
    shape = data.task.input_shape, data.task.num_classes
    wide = data.family.layers(cohort.width, *shape)
    own: dict[int, Tensor] = {}
    for width in {spec.width for spec in cohort.specs}:
        layers = data.family.layers(width, *shape)
        ones = {name: torch.ones(layer.shape) for name, layer in layers.items()}
        placed = pad(ones, layers, wide) if width < cohort.width else ones
        flat = torch.cat([tensor.flatten() for tensor in placed.values()]) > 0
        own[width] = flat.to(cohort.network.values.device)
    return own


def _rows(cohort: Cohort, data: Data, live: Live) -> list[tuple[str, int, Tensor, int, Tensor]]:
    """Where each student's numbers stand: name, student, a tensor `[rows, numbers]`, its row, and which of the row.

    A narrower network's numbers stand among zeros, in their own order.
    """
    own = numbers_by_width(cohort, data)
    network = {"network": cohort.network.values, "first": live.optimiser.first, "second": live.optimiser.second}
    found = []
    for student, spec in enumerate(cohort.specs):
        kinds = network | ({"best": live.patience.best} if spec.patience and live.patience.best is not None else {})
        found += [(name, student, values, student, own[spec.width]) for name, values in kinds.items()]
    for run, state in zip(cohort.learned, live.learned, strict=True):
        assert run.learned is not None
        kind = "feature" if isinstance(run.form, FeatureForm) else "form"
        parts = {kind: run.learned.values, f"{kind}.first": state.first, f"{kind}.second": state.second}
        every = torch.ones_like(run.learned.values[0], dtype=torch.bool)
        for row, student in enumerate(run.places.tolist()):
            found += [(name, student, values, row, every) for name, values in parts.items()]
    return found


def save(path: Path, key: str, states: Sequence[State]) -> None:
    """Keep a trial's states in one file, whole or not at all; `key` stands for what the trial is."""
    tensors = {
        f"{place}/{name}": tensor for place, state in enumerate(states) for name, tensor in state.tensors.items()
    }
    numbers = {
        f"{place}/{name}": repr(getattr(state, name))
        for place, state in enumerate(states)
        for name in ("epoch", "seconds", "teacher_flops")
    }
    said = {"key": key, "students": str(len(states)), **numbers}
    write_bytes(path, to_bytes(tensors, {**said, "sum": digest([checksum(tensors), said])}))


def load(path: Path, key: str) -> list[State] | None:
    """The states of a file, or None where it is missing. One that is damaged, or of another key, is put aside."""
    if not os.path.lexists(path):
        return None
    try:
        return _read(path, key)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        put_aside(path, f"{path} is no checkpoint of these students ({error})")
        return None


def _read(path: Path, key: str) -> list[State]:
    with safe_open(path, framework="pt") as file:
        said = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    if said.pop("sum", "") != digest([checksum(tensors), said]) or said.get("key") != key:
        raise ValueError("it is another's, or not as it was written")
    found = []
    for place in map(str, range(int(said["students"]))):
        own = {name.partition("/")[2]: tensor for name, tensor in tensors.items() if name.partition("/")[0] == place}
        seconds, flops = float(said[f"{place}/seconds"]), float(said[f"{place}/teacher_flops"])
        found.append(State(int(said[f"{place}/epoch"]), own, seconds, flops))
        if not (found[-1].epoch >= 1 and Range(0).admits(seconds) and Range(0).admits(flops)):
            raise ValueError("its epoch or cost is none")
    return found
