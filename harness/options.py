"""What `python -m harness.sweep` was asked for."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness import cli
from harness.executors.choice import EXECUTORS
from harness.machine import cores
from harness.space import Study
from harness.tracking import reachable
from harness.urls import DATABASES, SERVERS, check_url, redact, sqlite_file, sqlite_url, storage_of

DEVICES = ("auto", "cpu", "cuda")
MOST = {"trials": 1_000_000, "jobs": 10_000, "searches": 1_000}
A_SECOND, A_YEAR = 1 / 60, 365 * 24 * 60
"""In minutes."""


@dataclass(frozen=True)
class Options:
    """Where and how a study is run; `confirm` is what was asked for instead of the study's own fresh seeds."""

    name: str
    file: Path
    study: Study
    trials: int
    jobs: int
    out: Path
    storage: str | None
    tracking_uri: str | None
    deterministic: bool
    device: str
    timeout: float | None
    quiet: bool
    plan: bool = False
    limit: float = 60.0
    executor: str = "local"
    executor_options: Mapping[str, str] = field(default_factory=dict)
    new: bool = False
    confirm: int | None = None
    searches: int = 1
    first: Options | None = None  # of several searches, whose command goes on with all of them

    @property
    def study_dir(self) -> Path:
        return self.out / self.name

    @property
    def plans_dir(self) -> Path:
        """Where what was measured of this machine is kept."""
        return self.out / "plans"

    @property
    def storage_url(self) -> str:
        return storage_of(self.study_dir, self.storage)

    @property
    def tracking(self) -> str:
        return self.tracking_uri or sqlite_url(self.out / "mlflow.db")

    @property
    def artifacts(self) -> Path | None:
        """The embedded store's artifact folder; a tracking server keeps its own."""
        return None if self.tracking.startswith(("http://", "https://")) else (self.out / "mlartifacts").absolute()

    @property
    def task(self) -> str:
        """How a worker finds the task: its name, or the study's file."""
        return self.study.task if isinstance(self.study.task, str) else str(self.file)

    @property
    def command(self) -> str:
        """The command that goes on with this sweep; stores are named without their passwords."""
        if self.first is not None:
            return self.first.command
        study = self.name if self.file.parent in [place.resolve() for place in cli.STUDIES] else str(self.file)
        said = ["python", "-m", "harness.sweep", study, "--trials", str(self.trials), "--seed", str(self.study.seed)]
        said += [] if self.out == cli.OUT else ["--out", str(self.out)]
        said += stores(self.storage, self.tracking_uri)
        said += ["--deterministic"] if self.deterministic else []
        said += [] if self.confirm is None else ["--confirm", str(self.confirm)]
        said += [] if self.searches == 1 else ["--searches", str(self.searches)]
        said += [] if self.jobs == cores() else ["--jobs", str(self.jobs)]
        said += [] if self.device == "auto" else ["--device", self.device]
        said += [] if self.limit == 60 else ["--limit", f"{self.limit:g}"]
        said += ["--new"] if self.new else []
        said += [] if self.executor == "local" else ["--executor", self.executor]
        for name, value in self.executor_options.items():
            said += ["--option", redact(f"{name}={value}")]
        return shlex.join([*said, "--plan"] if self.plan else said)

    @property
    def begun(self) -> Options:
        """The same, once what there was is kept aside."""
        return replace(self, new=False, first=self.first and self.first.begun)


def searches_of(options: Options) -> list[Options]:
    """Each search of the study, under a seed and in a folder of its own; the study itself last, so that its report has
    all of them."""
    seeds = range(options.study.seed + 1, options.study.seed + options.searches)
    others = [
        replace(options, name=f"{options.name}-seed{seed}", study=replace(options.study, seed=seed), first=options)
        for seed in seeds
    ]
    return [*others, options]


def again(manifest: Mapping[str, Any], study_dir: Path, confirm: int | None = None) -> list[str]:
    """The command that goes on with the study of a `study.json`, but for where it is kept. One of several searches goes
    on with all of them: with as many as were planned, and those that were added since."""
    name = study_dir.name
    file = Path(str(manifest.get("file", name)))
    parts = [manifest.get(part) for part in ("budget", "identity")]
    budget, identity = (part if isinstance(part, Mapping) else {} for part in parts)
    seed = identity.get("seed")
    first = manifest.get("first_seed", seed)
    stem = name if first == seed else name.removesuffix(f"-seed{seed}")
    study = stem if file.parent in [place.resolve() for place in cli.STUDIES] else str(file)
    said = ["python", "-m", "harness.sweep", study]
    said += [] if confirm is None else ["--confirm", str(confirm)]
    said += ["--trials", str(budget["trials"])] if "trials" in budget else []
    said += [] if first is None else ["--seed", str(first)]
    others = study_dir.parent.glob(f"{stem}-seed*/study.json")
    seeds = [path.parent.name.removeprefix(f"{stem}-seed") for path in others] if isinstance(first, int) else []
    most = max([manifest.get("searches") or 1, *(int(own) - first + 1 for own in seeds if own.isdecimal())])
    return said if most == 1 else [*said, "--searches", str(most)]


def stores(storage: str | None, tracking_uri: str | None) -> list[str]:
    """The arguments that name a sweep's stores, without passwords; what the environment names needs none."""
    said = [] if storage in (None, os.environ.get("OPTUNA_STORAGE")) else ["--storage", redact(str(storage))]
    if tracking_uri not in (None, os.environ.get("MLFLOW_TRACKING_URI")):
        said += ["--tracking-uri", redact(str(tracking_uri))]
    return said


def settings(given: Sequence[str]) -> dict[str, str]:
    """The settings of an executor, given as `name=value`. Raises `ValueError` for what is not."""
    found: dict[str, str] = {}
    for setting in given:
        name, equals, value = setting.partition("=")
        if not (name and equals and value):
            raise ValueError(f"--option {setting!r} is no setting; write name=value, as address=auto")
        if name in found:
            raise ValueError(f"--option {name} is given twice: {redact(f'{name}={found[name]}')}, {redact(setting)}")
        found[name] = value
    return found


def check(options: Options) -> None:
    """Raise `ValueError` for options that cannot be; makes nothing."""
    most = {**MOST, "jobs": max(64, 8 * cores())} if options.executor == "local" else MOST
    for name, value in (("trials", options.trials), ("jobs", options.jobs), ("searches", options.searches)):
        if not 1 <= value <= most[name]:
            raise ValueError(f"--{name} {value} is out of range; it must be from 1 to {most[name]:,}")
    if options.timeout is not None and not options.timeout > 0:
        raise ValueError(f"--timeout {options.timeout:g} is out of range; it must be above 0 seconds")
    if not A_SECOND <= options.limit <= A_YEAR:
        raise ValueError(
            f"--limit {options.limit:g} is out of range; it must be from {A_SECOND:g} to {A_YEAR:,} minutes"
        )
    if options.device not in DEVICES:
        raise ValueError(f"unknown device {options.device!r}; devices are {', '.join(DEVICES)}")
    if options.executor not in EXECUTORS:
        raise ValueError(f"unknown executor {options.executor!r}; executors are {', '.join(EXECUTORS)}")
    if options.plan and options.deterministic:
        raise ValueError("--plan has nothing to show with --deterministic: its cohorts follow from a fixed rule")
    check_url("--storage", options.storage, DATABASES)
    check_url("--tracking-uri", options.tracking_uri, (*DATABASES, *SERVERS))
    made = [options.out.absolute(), options.study_dir.absolute()]
    for name, url in (("--storage", options.storage), ("--tracking-uri", options.tracking_uri)):
        file = sqlite_file(url or "")
        if file is not None and not file.parent.is_dir() and file.parent.absolute() not in made:
            raise ValueError(f"{name} {url!r} cannot be: there is no folder {file.parent}")
    cli.check_writable(options.study_dir)
    reachable(options.tracking)
