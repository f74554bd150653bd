"""The loop by hand: Optuna over one student at a time, a DataLoader, the teacher on every batch, MLflow every epoch.

It is what the harness is measured against, so it is written to be fast: channels_last, the fused AdamW, one torch
thread. It draws from the same space, and trains controls in the same way. It imports optuna and mlflow itself, as its
author would. What it trains is in `students.py`.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import optuna
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from harness import teacher
from harness.bench.students import (
    CHANNELS_LAST,
    FORMS,
    Metrics,
    distillation,
    make_optimiser,
    network,
    run_teacher,
    validate,
)
from harness.space import STUDENT_KNOBS, Float, Study, Value, active, direction
from harness.spec import PLAIN, StudentSpec
from harness.tasks import Split, Task

OBJECTIVES = ("val_accuracy", "val_loss", "num_params", "macs")
Batches = DataLoader[tuple[Tensor, ...]]


@dataclass
class Clock:
    """Seconds by what they were spent on."""

    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, part: str, started: float) -> float:
        """Count the time since `started` as `part`'s; gives the present moment."""
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - started
        return now


@dataclass(frozen=True)
class PlainTrial:
    """One trial of the loop: `parts` splits its `seconds` into data, teacher, step, validate, track and search."""

    control: bool
    num_params: float
    seconds: float
    student_steps: int
    val_accuracy: float
    parts: Mapping[str, float]


@dataclass(frozen=True)
class Loop:
    """The hand-written study. `cache` holds the task's teacher; `folder` takes the two databases. Batches go to
    `device` one by one; there `PlainTrial.parts` are only when the work was given out."""

    study: Study
    task: Task
    cache: Path
    folder: Path
    device: str = "cpu"

    def run(self, seconds: float, at_least: int) -> list[PlainTrial]:
        """Train trials, a control after every search trial, until `seconds` and `at_least` trials are over.

        What comes before the first trial (imports, databases, the teacher) is not in any trial's time.
        """
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow  # here, not above: it reads its environment and takes seconds

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of each table that it makes
        storage = f"sqlite:///{self.folder / 'optuna.db'}"
        directions = [direction(objective) for objective in self.study.objectives]
        sampler = make_sampler(self.study)
        search = optuna.create_study(storage=storage, study_name="search", directions=directions, sampler=sampler)
        control = optuna.create_study(storage=storage, study_name="control", directions=directions)
        mlflow.set_tracking_uri(f"sqlite:///{self.folder / 'mlflow.db'}")
        experiment = mlflow.create_experiment("plain", artifact_location=(self.folder / "artifacts").as_uri())
        mlflow.set_experiment(experiment_id=experiment)
        with mlflow.start_run(run_name="warm-up"):
            mlflow.log_metrics({"nothing": 0.0}, step=0)
        weights = teacher.load_weights(self.task, self.cache)
        weights = {
            name: (value.contiguous(memory_format=CHANNELS_LAST) if value.ndim == 4 else value).to(self.device)
            for name, value in weights.items()
        }
        has_controls, trials = self.study.num_controls(self.study.trials) > 0, list[PlainTrial]()
        with one_thread():
            while len(trials) < at_least or sum(trial.seconds for trial in trials) < seconds:
                is_control = has_controls and len(trials) % 2 == 1
                width = self.study.widths[len(trials) // 2 % len(self.study.widths)] if is_control else None
                trials.append(self._trial(control if is_control else search, weights, width))
        return trials

    def _trial(self, study: optuna.Study, weights: Mapping[str, Tensor], width: int | None) -> PlainTrial:
        """Ask, train every seed, log, tell; `width` is that of a control."""
        import mlflow

        clock, started = Clock(), time.perf_counter()
        trial = study.ask()
        if width is None:
            params = suggest(trial, self.study, plain=False)
        else:
            params = suggest(trial, self.study, plain=True) | {"width": width}
        specs = self.study.specs(params, plain=width is not None, task=self.task.name)
        now = clock.add("search", started)
        with mlflow.start_run(run_name=f"trial {trial.number}"):
            mlflow.log_params({**self.study.fixed, **params})
            clock.add("track", now)
            results = [self.train(spec, weights, clock) for spec in specs]
            means = {name: sum(result[name] for result in results) / len(results) for name in OBJECTIVES}
            now = time.perf_counter()
            mlflow.log_metrics(means, step=specs[0].epochs)
        now = clock.add("track", now)
        study.tell(trial, [means[objective] for objective in self.study.objectives])
        clock.add("search", now)
        steps = sum(spec.epochs * (len(self.task.train) // spec.batch_size) for spec in specs)
        seconds = time.perf_counter() - started
        return PlainTrial(width is not None, means["num_params"], seconds, steps, means["val_accuracy"], clock.seconds)

    def train(self, spec: StudentSpec, weights: Mapping[str, Tensor], clock: Clock, *, log: bool = True) -> Metrics:
        """Train one student, log its curves to the active MLflow run unless `log` is false, and give its values."""
        import mlflow

        now = time.perf_counter()
        torch.manual_seed(spec.seed)
        net = network(spec.family, spec.width, self.task.input_shape, self.task.num_classes).to(self.device)
        val = Split(self.task.val.inputs.to(self.device), self.task.val.labels.to(self.device))
        data = TensorDataset(self.task.train.inputs, self.task.train.labels)
        batches = DataLoader(data, batch_size=spec.batch_size, shuffle=True, drop_last=True)
        optimiser = make_optimiser(spec, net)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, spec.epochs * len(batches))
        metrics: Metrics = {}
        for epoch in range(1, spec.epochs + 1):
            losses = self.epoch(spec, net, weights, batches, optimiser, schedule, clock)
            now = time.perf_counter()
            metrics = validate(net, val)
            now = clock.add("validate", now)
            if log:
                curves = {"train_loss": losses} | metrics
                mlflow.log_metrics({f"{name}_{spec.seed}": value for name, value in curves.items()}, step=epoch)
                clock.add("track", now)
        if not math.isfinite(metrics["val_loss"]):
            metrics = {"val_accuracy": 1 / self.task.num_classes, "val_loss": math.log(self.task.num_classes)}
        shape = (spec.width, self.task.input_shape, self.task.num_classes)
        macs = self.task.families[spec.family].macs(*shape)
        return metrics | {"num_params": sum(param.numel() for param in net.parameters()), "macs": macs}

    def epoch(
        self,
        spec: StudentSpec,
        net: nn.Module,
        weights: Mapping[str, Tensor],
        batches: Batches,
        optimiser: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        clock: Clock,
    ) -> float:
        """One pass over the training split; gives the mean loss."""
        family, total = self.task.recipe.family, torch.zeros((), device=self.device)
        now = time.perf_counter()
        for batch in batches:
            inputs, labels = (part.to(self.device, non_blocking=True) for part in batch)
            now = clock.add("data", now)
            if spec.form == PLAIN:
                loss = F.cross_entropy(net(inputs), labels)
            else:
                targets = run_teacher(family, weights, inputs)
                now = clock.add("teacher", now)
                logits = net(inputs)
                hard, soft = F.cross_entropy(logits, labels), distillation(spec, logits, targets)
                convex = spec.mixing == "convex"
                loss = spec.alpha * hard + (1 - spec.alpha) * soft if convex else hard + spec.alpha * soft
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if spec.schedule == "cosine":
                schedule.step()
            total += loss.detach()
            now = clock.add("step", now)
        return total.item() / len(batches)


LOOP_KNOBS = (
    "width", "form", "alpha", "temperature", "mixing", "optimiser", "lr", "weight_decay", "momentum", "schedule",
    "epochs", "batch_size",
)  # fmt: skip
"""What the loop does as the harness does; of the rest a study may only have the defaults."""


def check(study: Study, task: Task) -> None:
    """Raise `ValueError` in one line for a study that the loop cannot do."""
    network(study.family, study.widths[0], task.input_shape, task.num_classes)
    for objective in study.objectives:
        if objective not in OBJECTIVES:
            raise ValueError(f"the plain loop does not measure {objective!r}; it has {', '.join(OBJECTIVES)}")
    for form in study.options("form"):
        if form not in (*FORMS, PLAIN):
            raise ValueError(f"the plain loop has no form {form!r}; it has {', '.join(FORMS)}")
    defaults = {f.name: f.default for f in dataclasses.fields(StudentSpec)}
    for knob in STUDENT_KNOBS:
        values = study.options(knob)
        if knob not in LOOP_KNOBS and any(value != defaults[knob] for value in values):
            raise ValueError(f"the plain loop has no {knob}; a study with {knob} {values[0]!r} cannot be compared")
    if study.pruning is not None:
        raise ValueError("the plain loop prunes nothing; a study with pruning cannot be compared")
    if study.sampler not in ("tpe", "random"):
        raise ValueError(f"the plain loop has no sampler {study.sampler!r}; it has tpe, random")


def suggest(trial: optuna.Trial, study: Study, *, plain: bool) -> dict[str, Value]:
    """A trial's parameters, drawn from the study's space."""
    params: dict[str, Value] = {}
    for name, dimension in (study.plain_space() if plain else study.space).items():
        if not active(dimension, {**study.fixed, **params}):
            continue
        if isinstance(dimension, Float):
            params[name] = trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log)
        else:
            params[name] = cast(Value, trial.suggest_categorical(name, list(dimension.options)))
    return params


def make_sampler(study: Study) -> optuna.samplers.BaseSampler:
    """The study's sampler."""
    if study.sampler == "random":
        return optuna.samplers.RandomSampler(seed=study.seed)
    return optuna.samplers.TPESampler(seed=study.seed)


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread, as the harness's workers have."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
