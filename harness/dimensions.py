"""The dimensions of a space: a range or a choice for one knob, and the usual ones of the loss forms.

A new kind of dimension is a frozen dataclass here with a `problem()` and a branch in `harness.sampler`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.forms import FEATURE_KNOBS, FEATURE_WEIGHTS, KNOBS, Knob
from harness.spec import NONE, RANGES, check_range
from harness.values import is_number

Value = str | int | float
TEMPERATURE_FORMS = tuple(form for form, knobs in KNOBS.items() if "temperature" in knobs)
"""The built-in forms that take a temperature."""


@dataclass(frozen=True)
class Float:
    """A number between `low` and `high`, both included, sampled on a log scale when `log`.

    `when` makes the dimension conditional: `when={"form": ("kl",)}` samples it only for trials whose form is `kl`.
    Knobs that belong to a form, a feature form or a kind of teacher need none: their condition is known.
    """

    low: float
    high: float
    log: bool = False
    when: Mapping[str, Sequence[Value]] = field(default_factory=dict)

    def problem(self, name: str) -> str | None:
        """What is wrong with the dimension, in one line, or None."""
        if not is_number(self.low) or not is_number(self.high):
            return f"{name}: bounds {self.low!r} and {self.high!r} must be finite numbers"
        if not isinstance(self.log, bool):
            return f"{name}: log {self.log!r} must be True or False"
        if self.low > self.high:
            return f"{name}: low {self.low!r} is above high {self.high!r}"
        if self.log and self.low <= 0:
            return f"{name}: low {self.low!r} must be above 0 on a log scale"
        return range_problem(name, (self.low, self.high))


@dataclass(frozen=True)
class Choice:
    """One of the given options; `when` as for `Float`. Numbers keep their order in tables and figures."""

    options: tuple[Value, ...]
    when: Mapping[str, Sequence[Value]]

    def __init__(self, *options: Value, when: Mapping[str, Sequence[Value]] | None = None) -> None:
        object.__setattr__(self, "options", tuple(options))
        object.__setattr__(self, "when", dict(when) if isinstance(when, Mapping) else {} if when is None else when)

    def problem(self, name: str) -> str | None:
        """What is wrong with the dimension, in one line, or None."""
        if not self.options:
            return f"{name}: a Choice needs at least one option"
        if odd := [option for option in self.options if not isinstance(option, str | int | float)]:
            return f"{name}: option {odd[0]!r} must be text or a number; write Choice(2, 4), not Choice([2, 4])"
        if len(set(self.options)) < len(self.options):
            return f"{name}: an option of {self.options!r} is given twice"
        return range_problem(name, self.options)


Dimension = Float | Choice


def form_space(*forms: str) -> dict[str, Dimension]:
    """The dimensions of a choice among built-in loss forms: the choice, the temperature, and every knob of theirs.

    Each has the range that is sensible to search, and only trials of a form that takes it have it; all forms when none
    is named. Raises `ValueError` for an unknown form.
    """
    chosen = forms or tuple(KNOBS)
    if unknown := [form for form in chosen if form not in KNOBS]:
        raise ValueError(f"unknown form {unknown[0]!r}; forms are {', '.join(KNOBS)}")
    found: dict[str, Dimension] = {"form": Choice(*chosen)}
    taking = [KNOBS[form]["temperature"] for form in chosen if "temperature" in KNOBS[form]]
    if taking:
        found["temperature"] = _searched(taking[0])
    return found | _own_dimensions({form: KNOBS[form] for form in chosen})


def feature_space(*features: str) -> dict[str, Dimension]:
    """The dimensions of a choice among feature forms: the choice, their weight, and every knob of theirs.

    `"none"` is an option as any other. All of them, and `"none"`, where no name is given. Raises `ValueError` for an
    unknown one.
    """
    chosen = features or (NONE, *FEATURE_KNOBS)
    if unknown := [feature for feature in chosen if feature not in (NONE, *FEATURE_KNOBS)]:
        raise ValueError(f"unknown feature {unknown[0]!r}; features are {NONE}, {', '.join(FEATURE_KNOBS)}")
    found: dict[str, Dimension] = {"feature": Choice(*chosen)}
    weights = [FEATURE_WEIGHTS[feature] for feature in chosen if feature != NONE]
    if weights:
        found["feature_weight"] = Float(min(w[0] for w in weights), max(w[1] for w in weights), log=True)
    return found | _own_dimensions({feature: FEATURE_KNOBS[feature] for feature in chosen if feature != NONE})


def _own_dimensions(tables: Mapping[str, Mapping[str, Knob]]) -> dict[str, Dimension]:
    return {
        f"{form}.{name}": _searched(knob)
        for form, knobs in tables.items()
        for name, knob in knobs.items()
        if name != "temperature"
    }


def _searched(knob: Knob) -> Float:
    return Float(knob.low, knob.high, log=knob.log)


def with_condition(dimension: Dimension, when: Mapping[str, Sequence[Value]]) -> Dimension:
    """The same dimension under another condition."""
    if isinstance(dimension, Choice):
        return Choice(*dimension.options, when=when)
    return dataclasses.replace(dimension, when=when)


def dimension_from_json(data: Mapping[str, Any]) -> Dimension:
    """The dimension that `Study.identity` wrote."""
    if data["kind"] == "Choice":
        return Choice(*data["options"], when=data["when"])
    return Float(data["low"], data["high"], log=data["log"], when=data["when"])


def active(dimension: Dimension, params: Mapping[str, Value]) -> bool:
    """Whether a conditional dimension applies, given the parameters chosen before it."""
    return all(params.get(parent) in tuple(options) for parent, options in dimension.when.items())


def range_problem(name: str, values: Sequence[Value]) -> str | None:
    """What is wrong with values that the knob `name` is to take, in one line, or None."""
    try:
        for value in values if name in RANGES else ():
            check_range(name, value)
    except ValueError as error:
        return str(error)
    return None
