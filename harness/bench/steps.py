"""What a training step costs a student: of the harness in cohorts of several sizes, and of the plain loop, in turns.

Both train the same students: the loop's four forms, AdamW, batches of 64, validation on neither side. The harness's are
given a teacher that says nothing and the loop runs one that has learnt nothing: neither costs less than a good one.
Everything is one process and one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

from harness import tasks
from harness.bench import floor
from harness.bench.measure import spread
from harness.bench.plain import Clock, Loop, one_thread
from harness.bench.students import FORMS, make_optimiser, network
from harness.cohort import calibrate
from harness.cohort.calibration import cohort_of, sizes, timed_steps
from harness.cohort.data import Data, load_inputs
from harness.cohort.stack import Cohort
from harness.machine import cores
from harness.models import init
from harness.packing import Work, pack
from harness.seeds import generator
from harness.space import Choice, Study
from harness.spec import StudentSpec
from harness.tasks import Task

WIDTHS: Mapping[tuple[str, str], Mapping[str, tuple[int, ...]]] = {
    ("digits", "mlp"): {"narrow": (8,), "wide": (64,), "mixed": (8, 16, 32, 64)},
    ("mnist5k", "cnn"): {"narrow": (2,), "wide": (8,), "mixed": (2, 3, 4, 6, 8)},
    ("mnist1d", "cnn1d"): {"narrow": (2,), "wide": (8,), "mixed": (2, 4, 8)},
}
AUTO = 64
"""Students that the harness may train together as it sees fit, in the row `auto`."""
SECONDS = 0.5
"""How long each side of a row is timed in a repeat, about; the loop trains at least an epoch of each width."""
REPLAYS = 5


@dataclass(frozen=True)
class Row:
    """One row: students of `widths`, `cohort` of them together. Microseconds a student-step, one value a repeat.

    `floor` is what the products of such a step take by themselves; None for `auto`, which may be several cohorts.
    """

    task: str
    family: str
    widths: str
    cohort: str
    harness: Sequence[float]
    plain: Sequence[float]
    floor: Sequence[float] | None

    def as_json(self) -> dict[str, Any]:
        """The row with medians and spreads."""
        ratios = [theirs / ours for ours, theirs in zip(self.harness, self.plain, strict=True)]
        found = {**asdict(self), "harness": spread(self.harness), "plain": spread(self.plain), "ratio": spread(ratios)}
        if self.floor is None:
            return found | {"times_floor": None}
        over = [ours / least for ours, least in zip(self.harness, self.floor, strict=True)]
        return found | {"floor": spread(self.floor), "times_floor": spread(over)}


def measure(
    repeats: int,
    folder: Path,
    tell: Callable[[str], None],
    kinds: Sequence[tuple[str, str]] = tuple(WIDTHS),
    device: str = "cpu",
) -> list[Row]:
    """Every row of these tasks and families, both sides on `device`; `folder` takes what the harness measures to plan
    the row `auto`."""
    rows = []
    with one_thread():
        for task, family in kinds:
            for name, widths in WIDTHS[task, family].items():
                tell(f"steps of {task}, {family}, {name}")
                rows += _rows(task, family, name, widths, repeats, folder, device)
    return rows


def _rows(
    task: str, family: str, name: str, widths: tuple[int, ...], repeats: int, folder: Path, device: str
) -> list[Row]:
    specs = students(task, family, widths)
    data = load_inputs(specs[0], device)
    ways: dict[str, list[Cohort]] = {}
    for size in sizes(device):
        middle = [spec for spec in specs if spec.width == sorted(widths)[len(widths) // 2]]
        ways[str(size)] = [cohort_of(middle if size == 1 else specs, size, data, device, looped=False)]
    ways["auto"] = auto(specs, data, folder, device)
    products = {way: floor.record(lambda own=own: timed_steps(own[0], data, device, 1)) for way, own in ways.items()}  # type: ignore[misc]
    ours: dict[str, list[float]] = {way: [] for way in ways}
    least: dict[str, list[float]] = {way: [] for way in ways}
    theirs: dict[str, list[float]] = {"1": [], "all": []}
    for own in ways.values():
        _micro(own, data, device)  # warms up
    for _ in range(repeats):
        by_width = {width: plain_step(width, task, family, device) for width in widths}
        theirs["all"].append(fmean(by_width.values()))
        theirs["1"].append(by_width[ways["1"][0].specs[0].width])
        for way, own in ways.items():
            ours[way].append(_micro(own, data, device))
            students_there = len(own[0].specs)
            least[way].append(1e6 * min(floor.replay(products[way], device) for _ in range(REPLAYS)) / students_there)
    return [
        Row(task, family, name, way, ours[way], theirs.get(way, theirs["all"]), least[way] if way != "auto" else None)
        for way in ways
    ]


def students(task: str, family: str, widths: Sequence[int]) -> list[StudentSpec]:
    """One student of each form at each width; the first few have all widths, and forms in turn."""
    common: dict[str, Any] = {"task": task, "family": family, "seed": 0, "alpha": 0.3, "epochs": 12, "batch_size": 64}
    heat = {"kl": 4.0, "soft_ce": 4.0}
    found = []
    for turn in range(len(FORMS)):
        for place, width in enumerate(widths):
            form = FORMS[(turn + place) % len(FORMS)]
            found.append(StudentSpec(form=form, width=width, temperature=heat.get(form), **common))
    return found


def auto(specs: Sequence[StudentSpec], data: Data, folder: Path, device: str) -> list[Cohort]:
    """The cohorts in which one of the harness's workers, one a core or accelerator, trains `AUTO` such students."""
    costs = calibrate(specs, folder, device, workers=cores() if device == "cpu" else 1)
    widths = list(dict.fromkeys(spec.width for spec in specs))
    work = [Work(number, widths[number % len(widths)], 1, "") for number in range(AUTO)]
    found = []
    for job in pack(work, costs, workers=1):
        own = [spec for number in job.numbers for spec in specs if spec.width == work[number].width]
        whole, rest = divmod(len(job.numbers), job.how.students)
        sizes = [job.how.students] * whole + ([rest] if rest else [])
        found += [cohort_of(own, size, data, device, looped=job.how.looped) for size in sizes]
    return found


def _micro(cohorts: Sequence[Cohort], data: Data, device: str) -> float:
    """Microseconds a student-step of these cohorts, one after the other."""
    total, count = 0.0, 0
    for cohort in cohorts:
        once = timed_steps(cohort, data, device, 2)[1]
        spent = timed_steps(cohort, data, device, max(3, int(SECONDS / len(cohorts) / once)))
        total += fmean(spent)
        count += len(cohort.specs)
    return 1e6 * total / count


def plain_step(width: int, task_name: str, family: str, device: str = "cpu") -> float:
    """Microseconds of a step of the plain loop: data, teacher and student."""
    task = tasks.load(task_name)
    loop = Loop(_any_study(task_name, family), task, Path(), Path(), device)
    weights = {name: value.to(device) for name, value in _teacher(task).items()}
    batches = DataLoader(
        TensorDataset(task.train.inputs, task.train.labels), batch_size=64, shuffle=True, drop_last=True
    )
    spent, steps = 0.0, 0
    for spec in students(task_name, family, [width]):  # every form, as in a study
        net = network(family, width, task.input_shape, task.num_classes).to(device)
        optimiser = make_optimiser(spec, net)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 1000)
        next(iter(batches))
        started = time.perf_counter()
        loop.epoch(spec, net, weights, batches, optimiser, schedule, Clock())
        spent += time.perf_counter() - started
        steps += len(batches)
    return 1e6 * spent / steps


def _teacher(task: Task) -> Mapping[str, torch.Tensor]:
    """The task's teacher as it is before its training."""
    recipe = task.recipe
    drawn = init(recipe.family, recipe.width, task.input_shape, task.num_classes, generator(0, "init"))
    return {
        name: value.float().contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value.float()
        for name, value in drawn.items()
    }


def _any_study(task: str, family: str) -> Study:
    """A study for the loop to belong to; its epochs do not look at it."""
    return Study(task=task, family=family, space={"width": Choice(8)}, fixed={"form": "mse"})
