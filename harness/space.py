"""What a study may say: `Study`. Its file is Python and defines `STUDY = Study(...)` (see `harness.study_files`)."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.dimensions import (
    TEMPERATURE_FORMS,
    Choice,
    Dimension,
    Float,
    Value,
    active,
    dimension_from_json,
    feature_space,
    form_space,
    range_problem,
    with_condition,
)
from harness.forms import FEATURE_KNOBS, KNOBS, Form, Knob
from harness.problems import did_you_mean, form_problems, kind_problems, one_line
from harness.records import VAL_METRICS
from harness.rungs import Halving
from harness.spec import CHOICES, NONE, PLAIN, RANGES, WORDS, StudentSpec
from harness.values import Range, digest, to_json

__all__ = [
    "STUDENT_KNOBS",
    "TEMPERATURE_FORMS",
    "Choice",
    "Dimension",
    "Float",
    "Form",
    "Halving",
    "Knob",
    "Study",
    "Value",
    "active",
    "dimension_from_json",
    "direction",
    "feature_space",
    "form_space",
]

SAMPLERS = ("tpe", "gp", "nsga2", "random")
SIZES = ("num_params", "macs")
CONTROLS = ("smoothing", "self", "shuffled")
"""Controls beside plain training: label smoothing, a self-teacher, a shuffled teacher (see `harness.arms`)."""
TEACHER_KNOBS = (
    "form", "alpha", "temperature", "mixing", "loss_scale", "feature", "feature_weight",
    "teacher", "teacher_width", "teacher_epochs", "assistants",
)  # fmt: skip
"""The knobs that plain training does not have, beside the forms' own (`"dkd.rest"`)."""
CONDITIONS: Mapping[str, Mapping[str, tuple[Value, ...]]] = {
    "feature_weight": {"feature": tuple(FEATURE_KNOBS)},
    "assistants": {"teacher": ("assistant",)},
    "teacher_width": {"teacher": ("offline", "online", "assistant", "shuffled", "shuffled_in_class")},
    "teacher_epochs": {"teacher": ("offline", "assistant", "shuffled", "shuffled_in_class")},
}
"""Which options of which other knob a knob of the teacher or of a feature form needs to mean anything."""
STUDENT_KNOBS = tuple(
    f.name for f in dataclasses.fields(StudentSpec) if f.name not in ("task", "family", "seed", "knobs", "form_file")
)
BUILT_IN = (*KNOBS, *FEATURE_KNOBS, PLAIN)
ELSEWHERE = {
    "learning_rate": "lr", "tau": "temperature", "T": "temperature", "wd": "weight_decay", "early_stopping": "patience"
}  # fmt: skip
"""What other programs call some knobs."""
NEAR = 0.75
"""How like a knob's name is to the one that was meant."""
MOST_PROBES = 1000
BUDGETS: Mapping[str, Range] = {
    "trials": Range(1, whole=True),
    "seeds": Range(1, 1000, whole=True),  # the next study's seeds begin there
    "batch": Range(1, whole=True),
    "controls": Range(0, whole=True),
    "confirm": Range(0, 1000, whole=True),
    "seed": Range(0, 10**15, whole=True),  # its students' are 1000 times it and more, in 63 bits
}
"""What each of a study's own counts may be."""
SIZE_BUDGET = Range(1, 2**53, whole=True)
BUDGET = ("trials", "controls", "other_controls", "confirm", "batch", "size_budgets")
"""The fields of a study that say how much is to be done, or told; in all others it is another study."""


@dataclass(frozen=True)
class Study:
    """One question: a task, a space, a budget and seeds.

    `task` names a built-in task, or is a function of the study's own file that returns a `Task`. `space` maps knobs of
    `StudentSpec` to dimensions and `fixed` sets knobs that are not searched; the rest keep their defaults. `trials` is
    the number of search trials to reach, each trained under the same `seeds` seeds. `controls` is the number of
    plain-training trials at each width; None gives each width its share of the search trials, so that the control is
    tuned as much as what it is compared with; `other_controls` have as many, each kind at each width. `confirm` is the
    number of fresh seeds under which the front and the best of every control are trained again in the end, when the
    test split is read; 0 leaves that out. `objectives` are `val_*` metrics or sizes, all known to be better up
    (accuracy, agreement) or down (the rest). `batch` is how many search trials are asked for at a time. `size_budgets`
    are limits on a student's parameters, as `(1_000, 2_000)`: the report says what to take within each.

    A knob of a form is called by both names, `"dkd.rest"`; what is neither searched nor fixed has the form's default
    (see `harness.forms`). `forms` are loss forms of the study's own, by name. `equal` names a Choice whose options
    share the search trials equally, each with a sampler of its own: for questions such as 'which form is best?'.

    `pruning=Halving(rungs=(4, 12))` stops the worse half of the trials after 4 epochs, and of those left after 12: by
    the first `val_*` objective, among the trials of one width, one arm and one `batch`, so give it large ones. Controls
    are halved among themselves.
    Raises `ValueError` naming what is wrong.
    """

    task: str | Callable[[], Any]
    family: str
    space: Mapping[str, Dimension]
    fixed: Mapping[str, Value] = field(default_factory=dict)
    trials: int = 64
    seeds: int = 2
    controls: int | None = None
    other_controls: tuple[str, ...] = CONTROLS
    confirm: int = 10
    objectives: tuple[str, ...] = ("val_accuracy", "num_params")
    sampler: str = "tpe"
    batch: int = 16
    size_budgets: tuple[int, ...] = ()
    seed: int = 0
    equal: str = ""
    forms: Mapping[str, Form] = field(default_factory=dict)
    pruning: Halving | None = None
    file: str = ""  # set by `load_study`: where a worker finds the study's own forms

    def __post_init__(self) -> None:
        for problem in itertools.chain(form_problems(self.forms, BUILT_IN), kind_problems(self)):
            raise ValueError(one_line(problem))
        object.__setattr__(self, "space", {name: self._conditional(name, dim) for name, dim in self.space.items()})
        for problem in self._problems():
            raise ValueError(one_line(problem))

    @property
    def form_knobs(self) -> dict[str, Mapping[str, Knob]]:
        """Every logit form's knobs, the study's own forms included."""
        return {**KNOBS, **{name: form.knobs for name, form in self.forms.items()}}

    def own_knobs(self) -> dict[str, tuple[str, str, Knob]]:
        """Each knob that belongs to one form, by its full name: what chooses it (`form`, `feature`), the form, it."""
        tables = {"form": self.form_knobs, "feature": FEATURE_KNOBS}
        return {
            f"{form}.{knob}": (parent, form, what)
            for parent, table in tables.items()
            for form, knobs in table.items()
            for knob, what in knobs.items()
            if knob != "temperature"
        }

    def condition(self, name: str) -> dict[str, tuple[Value, ...]]:
        """When a knob means anything: which options of which other knob it needs; empty for always."""
        if name == "temperature":
            return {"form": tuple(form for form, knobs in self.form_knobs.items() if "temperature" in knobs)}
        if name in self.own_knobs():
            parent, form, _ = self.own_knobs()[name]
            return {parent: (form,)}
        return dict(CONDITIONS.get(name, {}))

    def _conditional(self, name: str, dimension: Any) -> Any:
        """The dimension with the condition that is known of its knob, unless the study says more of the same."""
        if not isinstance(dimension, Float | Choice):
            return dimension
        known = {
            parent: options
            for parent, options in self.condition(name).items()
            if any(option not in options for option in self.options(parent))
        }
        return with_condition(dimension, {**known, **dimension.when})

    def _problems(self) -> Iterator[str]:
        for name, dimension in self.space.items():
            if not isinstance(dimension, Float | Choice):
                yield f"{name}: {dimension!r} is not a dimension; use Float(low, high) or Choice(a, b)"
            elif problem := dimension.problem(name):
                yield problem
            yield from self._condition_problems(name, dimension)
        for name in (*self.space, *self.fixed):
            if name not in (*STUDENT_KNOBS, *self.own_knobs()):
                yield self._unknown_knob(name)
        for name in (*self.space, *self.fixed):
            for parent, options in self.condition(name).items():
                if not set(options) & set(self.options(parent)):
                    yield f"{name}: no {parent} of this study takes it"
        if both := set(self.space) & set(self.fixed):
            yield f"{sorted(both)[0]!r} is both in the space and fixed; keep one"
        for knob in ("width", "form"):
            if knob not in self.space and knob not in self.fixed:
                yield f"the study sets no {knob}; put it into space or fixed"
        for name, dimension in self.space.items():
            if name in RANGES and RANGES[name].whole and isinstance(dimension, Float):
                yield f"{name}: it takes a whole number; use Choice(2, 4, 8)"
        for name, value in self.fixed.items():
            if problem := range_problem(name, (value,)):
                yield problem
        for name in (*self.space, *self.fixed):
            yield from self._value_problems(name)
        if self.equal and not isinstance(self.space.get(self.equal), Choice):
            yield f"equal {self.equal!r} must name a Choice of the space"
        if self.equal == "width":
            yield "equal 'width' is not possible: width is an objective's size; give each width a study, or search it"
        for name, allowed in BUDGETS.items():
            value = getattr(self, name)
            if not allowed.admits(value) and (name, value) != ("controls", None):
                yield f"{name} {value!r} is out of range; it must be {allowed}"
        for limit in self.size_budgets:
            if not SIZE_BUDGET.admits(limit):
                yield f"size budget {limit!r} is out of range; it must be {SIZE_BUDGET}, a number of parameters"
        for kind in self.other_controls:
            if kind not in CONTROLS:
                yield f"unknown control {kind!r} in other_controls; they are {', '.join(CONTROLS)}"
        yield from self._pruning_problems()
        if self.sampler not in SAMPLERS:
            yield f"unknown sampler {self.sampler!r}; samplers are {', '.join(SAMPLERS)}"
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            yield f"objectives {self.objectives!r} must be one or more different names"
        for objective in self.objectives:
            if objective not in (*VAL_METRICS, *SIZES):
                choices = ", ".join((*VAL_METRICS, *SIZES))
                yield f"objective {objective!r} is not allowed; a study selects on {choices}"

    def _pruning_problems(self) -> Iterator[str]:
        if self.pruning is None:
            return
        if not isinstance(self.pruning, Halving):
            yield f"pruning {self.pruning!r} must be None or Halving(rungs=(4, 12))"
            return
        epochs, last = min(int(value) for value in self.options("epochs")), self.pruning.rungs[-1]
        if last >= epochs:
            yield f"pruning: rung {last} must be below the {epochs} epochs that a student is trained"

    @property
    def pruned_by(self) -> str:
        """What trials are ranked by at a rung: the first `val_*` objective, accuracy where there is none."""
        return next((name for name in self.objectives if name in VAL_METRICS), VAL_METRICS[0])

    def _unknown_knob(self, name: str) -> str:
        form, dot, _ = name.partition(".")
        if dot and (own := [knob for knob in self.own_knobs() if knob.startswith(f"{form}.")]):
            return f"unknown knob {name!r}; knobs of {form} are {', '.join(own)}"
        meant = did_you_mean(ELSEWHERE.get(name, name), STUDENT_KNOBS, NEAR)
        knobs = f"knobs are {', '.join(STUDENT_KNOBS)}, and forms' own as 'dkd.rest'"
        return f"unknown knob {name!r}; {meant} {knobs}" if meant else f"unknown knob {name!r}; {knobs}"

    def _value_problems(self, name: str) -> Iterator[str]:
        """What is wrong with the words or numbers that a knob is to take."""
        values = self.options(name)
        choices = {**CHOICES, "form": (*self.form_knobs, PLAIN), "feature": (*FEATURE_KNOBS, NONE)}.get(name)
        for value in values:
            if choices is not None and value not in choices:
                extra = f", or {PLAIN} for plain training" if name == "form" else ""
                yield f"unknown {name} {value!r}; {name}s are {', '.join(c for c in choices if c != PLAIN)}{extra}"
            if name in WORDS and not isinstance(value, str):
                yield f"{name} {value!r} must be text"
            if name in self.own_knobs() and not self.own_knobs()[name][2].allowed.admits(value):
                yield f"{name} {value!r} is out of range; it must be {self.own_knobs()[name][2].allowed}"

    def _condition_problems(self, name: str, dimension: Dimension) -> Iterator[str]:
        before = list(self.space)[: list(self.space).index(name)]
        for parent in dimension.when:
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
        default: Any = {f.name: f.default for f in dataclasses.fields(StudentSpec)}.get(knob)
        value = self.fixed.get(knob, default)
        return () if value is None or value is dataclasses.MISSING else (value,)

    def num_controls(self, trials: int) -> int:
        """Plain-training trials at each width beside `trials` search trials."""
        compared = trials / (len(self.options(self.equal)) if self.equal else 1)
        return math.ceil(compared / len(self.widths)) if self.controls is None else self.controls

    def plain_space(self) -> dict[str, Dimension]:
        """The part of the space that plain training at a given width has."""
        dropped = (*TEACHER_KNOBS, *self.own_knobs(), "width")
        return {name: dim for name, dim in self.space.items() if name not in dropped}

    def specs(self, params: Mapping[str, Value], *, plain: bool, task: str) -> list[StudentSpec]:
        """The students of a trial with these parameters: one a seed, the same seeds for every trial.

        A fixed knob that means nothing to this trial is left out; a form's knob that is not given has its default.
        """
        given: dict[str, Any] = {**self.fixed, **params}
        if plain or given.get("form") == PLAIN:
            dropped = (*TEACHER_KNOBS, *self.own_knobs())
            given = {name: value for name, value in given.items() if name not in dropped}
            given |= {"form": PLAIN, "alpha": 1.0}
        else:
            known = {f.name: f.default for f in dataclasses.fields(StudentSpec)} | given
            given = {
                name: value
                for name, value in given.items()
                if name in params or all(known[p] in options for p, options in self.condition(name).items())
            }
            given |= self._form_parts(given)
        return [StudentSpec(task=task, family=self.family, seed=seed, **given) for seed in self.student_seeds()]

    def _form_parts(self, given: dict[str, Any]) -> dict[str, Any]:
        """Take the forms' own knobs out of `given`, and give them as fields of a `StudentSpec`, defaults filled in."""
        form, feature = given["form"], given.get("feature", NONE)
        found: dict[str, Any] = {}
        if "temperature" not in given and "temperature" in self.form_knobs.get(form, {}):
            found["temperature"] = self.form_knobs[form]["temperature"].default
        knobs = {
            name: given.pop(name, knob.default)
            for name, (_, owner, knob) in self.own_knobs().items()
            if owner in (form, feature) or name in given
        }
        found["knobs"] = tuple(sorted((name, float(value)) for name, value in knobs.items()))
        if form in self.forms:
            found["form_file"] = self.file
        return found

    def student_seeds(self) -> tuple[int, ...]:
        """The seeds of a trial's students. Every trial has the same, so that differences are paired."""
        return tuple(1000 * self.seed + index + 1 for index in range(self.seeds))

    def probes(self, task: str) -> list[StudentSpec]:
        """A student for every combination of the study's choices, to be checked before anything is written.

        Where these are too many: for every pair of options of any two choices, beside the others' first options.
        """
        names = [name for name, dim in self.space.items() if isinstance(dim, Choice)]
        found: dict[str, StudentSpec] = {}
        for picks in self._combinations(names):
            params: dict[str, Value] = dict(zip(names, picks, strict=True))
            for name, dim in self.space.items():
                if isinstance(dim, Float):
                    params[name] = dim.low
                if not active(dim, {**self.fixed, **params}):
                    params.pop(name, None)
            spec = self.specs(params, plain=False, task=task)[0]
            found[digest(to_json(spec))] = spec
        return list(found.values())

    def _combinations(self, names: Sequence[str]) -> Iterator[tuple[Value, ...]]:
        options = [self.options(name) for name in names]
        if math.prod(map(len, options)) <= MOST_PROBES:
            yield from itertools.product(*options)
            return
        for first, second in itertools.combinations(range(len(names)), 2):
            for pair in itertools.product(options[first], options[second]):
                picks = [values[0] for values in options]
                picks[first], picks[second] = pair
                yield tuple(picks)

    def identity(self) -> dict[str, Any]:
        """What makes this study the study it is, as JSON data: everything but its budget and its place."""
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)} | {
            "task": self.task if isinstance(self.task, str) else f"function {self.task.__name__}",
            "space": {name: {"kind": type(d).__name__, **dataclasses.asdict(d)} for name, d in self.space.items()},
            "fixed": dict(self.fixed),
            "objectives": list(self.objectives),
            "forms": {name: _form_identity(form) for name, form in self.forms.items()},
            "code": _code(self.file) if (self.forms or callable(self.task)) and self.file else "",
            "pruning": dataclasses.asdict(self.pruning) if self.pruning else None,
        }
        unset = [name for name in ("forms", "equal", "code", "pruning") if not data[name]]
        return {name: value for name, value in data.items() if name not in (*BUDGET, "file", *unset)}


def _form_identity(form: Form) -> dict[str, Any]:
    """A study's own form as JSON data, but for its function, which `_code` stands for."""
    data = {f.name: getattr(form, f.name) for f in dataclasses.fields(form) if f.name != "function"}
    return {**data, "knobs": {name: dataclasses.asdict(knob) for name, knob in form.knobs.items()}}


def _code(file: str) -> str:
    """Stands for the code of a study's file: all of it but comments, and what STUDY says beside its forms."""
    parts = []
    for node in ast.parse(Path(file).read_text(encoding="utf-8")).body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Call)
            and ast.unparse(node.targets[0]) == "STUDY"
        ):
            parts += [ast.dump(keyword) for keyword in node.value.keywords if keyword.arg == "forms"]
        else:
            parts.append(ast.dump(node))
    return digest(parts)


def direction(objective: str) -> Literal["maximize", "minimize"]:
    """`maximize` or `minimize`."""
    return "maximize" if objective.endswith(("accuracy", "agreement")) else "minimize"
