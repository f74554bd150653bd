"""Trials as the terms of a surrogate: which knobs vary among them, on which scale, and which work together.

A new pair that the surrogate should know of is a term in `model_of`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.analysis.load import finished, is_plain
from harness.analysis.surrogate import Array, Model, dummies, levels, smooth
from harness.space import Dimension, Float

GRID = 15
"""Places of a knob's range at which the surrogate is looked at."""
LEAST = 20
"""Fewer finished distilled trials than this have no surrogate."""
LOG_SPAN = 20.0


@dataclass(frozen=True)
class Axis:
    """A knob on the scale of the surrogate: a number as 0 to 1 over the range that trials cover, or codes of levels.

    `grid` is what is balanced over, on that scale; `labels` are the knob's own values there.
    """

    name: str
    grid: Array
    labels: tuple[object, ...]
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choice: bool = False

    def scaled(self, values: pd.Series) -> Array:
        """Values of the knob on the surrogate's scale; NaN where a trial has none."""
        if self.choice:
            codes = {label: float(code) for code, label in enumerate(self.labels)}
            return np.asarray(values.map(codes), dtype=float)
        numbers = values.astype(float).to_numpy(float, na_value=np.nan)
        numbers = np.log(numbers) if self.log else numbers
        return np.asarray((numbers - self.low) / (self.high - self.low))

    def kernel(self, left: Array, right: Array) -> Array:
        """The knob's kernel between places on the surrogate's scale."""
        return (levels if self.choice else smooth)(left, right, self.grid)


def axis_of(trials: pd.DataFrame, name: str, dimension: Dimension | None) -> Axis | None:
    """A knob's axis, or None where the trials do not vary it enough: three values of a number, two of a choice."""
    values = trials[name].dropna() if name in trials else pd.Series(dtype=float)
    kinds = sorted(values.unique().tolist(), key=lambda value: (isinstance(value, str), value))
    if name != "width" and (isinstance(kinds[0] if kinds else "", str) or len(kinds) == 2):
        codes = np.arange(len(kinds), dtype=float)
        return Axis(name, codes, tuple(kinds), choice=True) if len(kinds) > 1 else None
    if len(kinds) < (2 if name == "width" else 3):
        return None
    low, high = float(kinds[0]), float(kinds[-1])
    log = low > 0 and (dimension.log if isinstance(dimension, Float) else high / low > LOG_SPAN or name == "width")
    first, last = (float(np.log(low)), float(np.log(high))) if log else (low, high)
    grid = np.linspace(0, 1, GRID)
    places = first + grid * (last - first)
    labels = tuple((np.exp(places) if log else places).tolist())
    if name == "width":  # of which only these can be trained
        own = np.array([float(kind) for kind in kinds])
        grid, labels = (np.log(own) - first) / (last - first), tuple(int(kind) for kind in kinds)
    return Axis(name, grid, labels, first, last, log)


def distilled(trials: pd.DataFrame, most: int = 0, seed: int = 0) -> pd.DataFrame:
    """The finished distilled trials by number; of more than `most` so many at random, the same each time."""
    done = finished(trials)
    done = done[~is_plain(done)].reset_index(drop=True)
    if most and len(done) > most:
        kept = np.random.default_rng(seed).choice(len(done), most, replace=False)
        done = done.iloc[np.sort(kept)].reset_index(drop=True)
    return done


def axes_of(trials: pd.DataFrame, space: Mapping[str, Dimension]) -> dict[str, Axis]:
    """The axes of all knobs that vary among the trials, by name."""
    names = dict.fromkeys(("form", "width", "alpha", "temperature", *space))
    found = {name: axis_of(trials, name, space.get(name)) for name in names}
    return {name: axis for name, axis in found.items() if axis is not None}


def model_of(trials: pd.DataFrame, axes: Mapping[str, Axis]) -> Model:
    """Val accuracy in points: levels of width and form as fixed effects, a term for each other knob, and the pairs.

    `by width` is what every knob does differently from width to width, `by form` what alpha and temperature do from
    form to form.
    """
    kernels = kernels_between(trials, trials, axes)
    return Model(terms_of(kernels), fixed_of(trials, axes), 100 * trials["val_accuracy"].to_numpy(float))


def fixed_of(trials: pd.DataFrame, axes: Mapping[str, Axis]) -> Array:
    """The fixed effects: the constant, then the levels of width, then those of form, but for the first of each."""
    own = [dummies(trials[name].tolist(), axes[name].labels) for name in ("width", "form") if name in axes]
    return np.hstack([np.ones((len(trials), 1)), *own])


def kernels_between(left: pd.DataFrame, right: pd.DataFrame, axes: Mapping[str, Axis]) -> dict[str, Array]:
    """The kernel of every knob between two tables of trials."""
    return {name: axis.kernel(axis.scaled(left[name]), axis.scaled(right[name])) for name, axis in axes.items()}


def terms_of(kernels: Mapping[str, Array]) -> dict[str, Array]:
    """The terms of the surrogate from the kernels of its knobs."""
    terms = {name: kernel for name, kernel in kernels.items() if name not in ("form", "width")}
    pair = [name for name in ("alpha", "temperature") if name in kernels]
    groups = {"by width": ("width", list(terms)), "by form": ("form", pair)}
    for title, (of, names) in groups.items():
        if of in kernels and names:
            terms[title] = sum((kernels[of] * kernels[name] for name in names[1:]), kernels[of] * kernels[names[0]])
    for first, second in (("alpha", "temperature"), ("form", "width")):
        if first in kernels and second in kernels:
            terms[f"{first}:{second}"] = kernels[first] * kernels[second]
    return terms
