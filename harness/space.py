"""What a study may say: the dimensions of its space, and `Study` itself.

A study file is Python and defines `STUDY = Study(...)`. A new kind of dimension is a frozen dataclass here with a
`problem()` and a branch in `harness.sampler.suggest`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.spec import PLAIN, RANGES, VAL_METRICS, Range, StudentSpec, check_range, digest, to_json

Value = str | int | float
SAMPLERS = ("tpe", "gp", "nsga2", "random")
SIZES = ("num_params", "macs")
TEMPERATURE_FORMS = ("kl", "soft_ce")
"""The forms that take a temperature, for `when={"form": TEMPERATURE_FORMS}`; a test holds it to `LOSSES`."""
TEACHER_KNOBS = ("form", "alpha", "temperature", "mixing")
"""The knobs that plain training does not have."""
STUDENT_KNOBS = tuple(f.name for f in dataclasses.fields(StudentSpec) if f.name not in ("task", "seed"))


@dataclass(frozen=True)
class Float:
    """A number between `low` and `high`, both included, sampled on a log scale when `log`.

    `when` makes the dimension conditional: `when={"form": ("kl",)}` samples it only for trials whose form is `kl`.
    """

    low: float
    high: float
    log: bool = False
    when: Mapping[str, Sequence[Value]] = field(default_factory=dict)

    def problem(self, name: str) -> str | None:
        """What is wrong with the dimension, in one line, or None."""
        if not all(isinstance(bound, int | float) and math.isfinite(bound) for bound in (self.low, self.high)):
            return f"{name}: bounds {self.low!r} and {self.high!r} must be finite numbers"
        if self.low > self.high:
            return f"{name}: low {self.low!r} is above high {self.high!r}"
        if self.log and self.low <= 0:
            return f"{name}: low {self.low!r} must be above 0 on a log scale"
        return _range_problem(name, (self.low, self.high))


@dataclass(frozen=True)
class Choice:
    """One of the given options; `when` as for `Float`. Numbers keep their order in tables and figures."""

    options: tuple[Value, ...]
    when: Mapping[str, Sequence[Value]]

    def __init__(self, *options: Value, when: Mapping[str, Sequence[Value]] | None = None) -> None:
        object.__setattr__(self, "options", tuple(options))
        object.__setattr__(self, "when", dict(when or {}))

    def problem(self, name: str) -> str | None:
        """What is wrong with the dimension, in one line, or None."""
        if not self.options:
            return f"{name}: a Choice needs at least one option"
        if len(set(self.options)) < len(self.options):
            return f"{name}: an option of {self.options!r} is given twice"
        return _range_problem(name, self.options)


Dimension = Float | Choice


@dataclass(frozen=True)
class Study:
    """One question: a task, a space, a budget and seeds.

    `task` names a built-in task, or is a function of the study's own file that returns a `Task`. `space` maps knobs of
    `StudentSpec` to dimensions and `fixed` sets knobs that are not searched; the rest keep their defaults. `trials` is
    the number of search trials to reach, each trained under the same `seeds` seeds. `controls` is the number of
    plain-training trials at each width; None gives each width its share of the search trials, so that the control is
    tuned as much as what it is compared with. `objectives` are `val_*` metrics or sizes, all known to be better up
    (accuracy, agreement) or down (the rest). `batch` is how many search trials are asked for at a time.
    Raises `ValueError` naming what is wrong.
    """

    task: str | Callable[[], Any]
    family: str
    space: Mapping[str, Dimension]
    fixed: Mapping[str, Value] = field(default_factory=dict)
    trials: int = 64
    seeds: int = 2
    controls: int | None = None
    objectives: tuple[str, ...] = ("val_accuracy", "num_params")
    sampler: str = "tpe"
    batch: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise ValueError(problem)

    def _problems(self) -> Iterator[str]:
        for name, dimension in self.space.items():
            if not isinstance(dimension, Float | Choice):
                yield f"{name}: {dimension!r} is not a dimension; use Float(low, high) or Choice(a, b)"
            elif problem := dimension.problem(name):
                yield problem
            yield from self._condition_problems(name, dimension)
        for name in (*self.space, *self.fixed):
            if name not in STUDENT_KNOBS or name == "family":
                yield f"unknown knob {name!r}; knobs are {', '.join(k for k in STUDENT_KNOBS if k != 'family')}"
        if both := set(self.space) & set(self.fixed):
            yield f"{sorted(both)[0]!r} is both in the space and fixed; keep one"
        for knob in ("width", "form"):
            if knob not in self.space and knob not in self.fixed:
                yield f"the study sets no {knob}; put it into space or fixed"
        for name, dimension in self.space.items():
            if name in RANGES and RANGES[name].whole and isinstance(dimension, Float):
                yield f"{name}: it takes a whole number; use Choice(2, 4, 8)"
        for name, value in self.fixed.items():
            if problem := _range_problem(name, (value,)):
                yield problem
        for name, low in (("trials", 1), ("seeds", 1), ("batch", 1), ("controls", 0), ("seed", 0)):
            value, allowed = getattr(self, name), Range(low, whole=True)
            if not allowed.admits(value) and (name, value) != ("controls", None):
                yield f"{name} {value!r} is out of range; it must be {allowed}"
        if self.sampler not in SAMPLERS:
            yield f"unknown sampler {self.sampler!r}; samplers are {', '.join(SAMPLERS)}"
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            yield f"objectives {self.objectives!r} must be one or more different names"
        for objective in self.objectives:
            if objective not in (*VAL_METRICS, *SIZES):
                choices = ", ".join((*VAL_METRICS, *SIZES))
                yield f"objective {objective!r} is not allowed; a study selects on {choices}"

    def _condition_problems(self, name: str, dimension: Dimension) -> Iterator[str]:
        before = list(self.space)[: list(self.space).index(name)]
        for parent, options in dimension.when.items():
            if isinstance(options, str):
                yield f"{name}: its condition on {parent!r} is {options!r}; write a tuple, ({options!r},)"
            if parent not in before and parent not in self.fixed:
                yield f"{name}: its condition names {parent!r}, which must stand before it in the space"

    @property
    def widths(self) -> tuple[int, ...]:
        """Every width of the study, narrow to wide."""
        return tuple(sorted(int(width) for width in self.options("width")))

    def options(self, knob: str) -> tuple[Value, ...]:
        """The values that a knob takes in this study: a Choice's options, a Float's bounds, or the fixed value."""
        dimension = self.space.get(knob)
        if isinstance(dimension, Choice):
            return dimension.options
        if isinstance(dimension, Float):
            return (dimension.low, dimension.high)
        default = {f.name: f.default for f in dataclasses.fields(StudentSpec)}.get(knob)
        value = self.fixed.get(knob, default)
        return () if value is None or value is dataclasses.MISSING else (value,)

    def num_controls(self, trials: int) -> int:
        """Plain-training trials at each width beside `trials` search trials."""
        return math.ceil(trials / len(self.widths)) if self.controls is None else self.controls

    def plain_space(self) -> dict[str, Dimension]:
        """The part of the space that plain training at a given width has."""
        return {name: dim for name, dim in self.space.items() if name not in (*TEACHER_KNOBS, "width")}

    def specs(self, params: Mapping[str, Value], *, plain: bool, task: str) -> list[StudentSpec]:
        """The students of a trial with these parameters: one a seed, the same seeds for every trial."""
        knobs: dict[str, Any] = {**self.fixed, **params}
        if plain:
            knobs = {name: value for name, value in knobs.items() if name not in TEACHER_KNOBS}
            knobs |= {"form": PLAIN, "alpha": 1.0}
        elif knobs.get("form") == PLAIN:
            knobs |= {"alpha": 1.0}
        return [StudentSpec(task=task, family=self.family, seed=seed, **knobs) for seed in self.student_seeds()]

    def student_seeds(self) -> tuple[int, ...]:
        """The seeds of a trial's students. Every trial has the same, so that differences are paired."""
        return tuple(1000 * self.seed + index + 1 for index in range(self.seeds))

    def probes(self, task: str) -> list[StudentSpec]:
        """A student for every combination of the study's choices, to be checked before anything is written."""
        names = [name for name, dim in self.space.items() if isinstance(dim, Choice)]
        found: dict[str, StudentSpec] = {}
        for picks in itertools.product(*(self.options(name) for name in names)):
            params: dict[str, Value] = dict(zip(names, picks, strict=True))
            for name, dim in self.space.items():
                if isinstance(dim, Float):
                    params[name] = dim.low
                if not active(dim, {**self.fixed, **params}):
                    params.pop(name, None)
            spec = self.specs(params, plain=False, task=task)[0]
            found[digest(to_json(spec))] = spec
        return list(found.values())

    def identity(self) -> dict[str, Any]:
        """What makes this study the study it is, as JSON data: everything but its budget."""
        data = dataclasses.asdict(dataclasses.replace(self, task="")) | {
            "task": self.task if isinstance(self.task, str) else f"function {self.task.__name__}",
            "space": {name: {"kind": type(d).__name__, **dataclasses.asdict(d)} for name, d in self.space.items()},
        }
        return {name: value for name, value in data.items() if name not in ("trials", "controls", "batch")}


def dimension_from_json(data: Mapping[str, Any]) -> Dimension:
    """The dimension that `Study.identity` wrote."""
    if data["kind"] == "Choice":
        return Choice(*data["options"], when=data["when"])
    return Float(data["low"], data["high"], log=data["log"], when=data["when"])


def active(dimension: Dimension, params: Mapping[str, Value]) -> bool:
    """Whether a conditional dimension applies, given the parameters chosen before it."""
    return all(params.get(parent) in tuple(options) for parent, options in dimension.when.items())


def direction(objective: str) -> Literal["maximize", "minimize"]:
    """`maximize` or `minimize`."""
    return "maximize" if objective.endswith(("accuracy", "agreement")) else "minimize"


def load_study(name_or_path: str, folders: Sequence[Path]) -> tuple[str, Path, Study]:
    """The study's name, its file and its `STUDY`, given a name in one of `folders` or a path to a `.py` file.

    Raises `ValueError` in one line for a study that is not there, does not load, or defines no `STUDY`.
    """
    path = Path(name_or_path)
    if path.suffix != ".py":
        path = next((p for f in folders if (p := f / f"{name_or_path}.py").is_file()), path)
    if path.suffix != ".py" or not path.is_file():
        known = sorted({p.stem for folder in folders for p in folder.glob("*.py")})
        raise ValueError(
            f"unknown study {name_or_path!r}; studies are {', '.join(known)}, or give a path to a .py file"
        )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", path.stem):
        raise ValueError(f"study name {path.stem!r} may hold letters, digits, '-' and '_' only")
    study = getattr(load_module(path), "STUDY", None)
    if not isinstance(study, Study):
        raise ValueError(f"{path} defines no STUDY; write STUDY = Study(...)")
    return path.stem, path.resolve(), study


def load_module(path: Path) -> Any:
    """Run a study file and return it as a module; `ValueError` in one line, with the place, when it does not run."""
    spec = importlib.util.spec_from_file_location(f"study_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and typing look a class's module up by its name
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise ValueError(f"{path}, line {error.lineno}: {error.msg}") from None
    except (Exception, SystemExit) as error:  # whatever the user's own code raises is the user's to see, in one line
        raise ValueError(f"{path} does not load: {type(error).__name__}: {' '.join(str(error).split())}") from None
    return module


def _range_problem(name: str, values: Sequence[Value]) -> str | None:
    try:
        for value in values if name in RANGES else ():
            check_range(name, value)
    except ValueError as error:
        return str(error)
    return None
