"""Whether knobs work together: alpha with temperature within a loss form, and loss form with width.

From a surrogate (`harness.analysis.surrogate`) of the finished distilled trials. An interaction is held against a null:
the surrogate without it, the sign of each of its errors dealt out anew (the wild bootstrap, Liu 1988). The errors stay
with their trials, since narrow students, and high learning rates, scatter more: errors that change places show a form x
width interaction where there is none (at p < .05 in 26 of 80 studies of 100 trials whose narrowest of five widths
scatters sevenfold, with signs in 4). A new pair is a line in `interactions`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.compare import best_by_width
from harness.analysis.statistics import LEVEL, holm
from harness.analysis.surrogate import Array, Fitted, Model, at, cross_validated, fit, likelihoods
from harness.analysis.terms import LEAST, Axis, axes_of, distilled, model_of
from harness.space import Dimension

MOST, MOST_OF_FORM = 300, 200
"""How many trials the surrogate of all forms, and that of one, is fitted to: its cost grows with their cube."""
DEALS = 999
STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""What an interaction's variance may be, in units of the noise's, where it is not 0."""
SHOWN = "interaction shown"
COLUMNS = (
    "pair", "form", "num_trials", "of", "r_squared", "share_first", "share_second", "share_interaction", "points",
    "null_points", "p", "holm_p", "verdict",
)  # fmt: skip


@dataclass(frozen=True)
class Interactions:
    """`table` has a row for each pair and form: shares of the variance that the surrogate sees over a balanced grid.

    `surfaces` are the surrogate's alpha x temperature, in points against `centre`; `by_width` a form's accuracy at each
    width less the mean of all forms there, in points.
    """

    table: pd.DataFrame
    surfaces: pd.DataFrame
    by_width: pd.DataFrame


def interactions(trials: pd.DataFrame, space: Mapping[str, Dimension]) -> Interactions:
    """Alpha x temperature for each form that has a temperature, and form x width; Holm's correction over all of them.

    A pair that cannot be judged has a row that says why. There are surfaces only of a surrogate that predicts trials it
    has not seen (R² above 0).
    """
    rows, surfaces, by_width = [], [], pd.DataFrame(columns=["form", "width", "value", "num_trials"])
    done = distilled(trials)
    for form in sorted(done.loc[done["temperature"].notna(), "form"].unique()):
        row, surface = _of_form(trials, done, str(form), space)
        rows.append(row)
        surfaces += [surface] if surface is not None else []
    if len(done.drop_duplicates(["form", "width"])) > 1:
        row, table = _form_by_width(trials, len(done), space)
        rows.append(row)
        by_width = by_width if table is None else table
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table["holm_p"] = holm([float(p) for p in table["p"]])
    table["verdict"] = [_verdict(row) for row in table.to_dict("records")]
    columns = ["form", "alpha", "temperature", "value", "centre"]
    return Interactions(table, pd.concat(surfaces) if surfaces else pd.DataFrame(columns=columns), by_width)


def _verdict(row: Mapping[Any, Any]) -> str:
    if isinstance(row["verdict"], str):
        return str(row["verdict"])
    return SHOWN if row["holm_p"] < LEVEL else f"not distinguishable from noise with {row['num_trials']} trials"


def _of_form(
    trials: pd.DataFrame, done: pd.DataFrame, form: str, space: Mapping[str, Dimension]
) -> tuple[dict[str, Any], pd.DataFrame | None]:
    part = distilled(trials[trials["form"] == form], MOST_OF_FORM)
    count = int((done["form"] == form).sum())
    row: dict[str, Any] = {"pair": "alpha x temperature", "form": form, "num_trials": len(part), "of": count}
    axes = axes_of(part, space)
    missing = [name for name in ("alpha", "temperature") if name not in axes]
    if reason := _objection(len(part), missing):
        return row | {"verdict": reason}, None
    found = judged(model_of(part, axes), axes, part, ("alpha", "temperature"))
    row |= found.row()
    if not row["r_squared"] > 0:
        return row, None  # what predicts no trial that it has not seen is no picture of the knobs
    parts = found.parts()
    surface = parts["alpha"][:, None] + parts["temperature"][None, :] + parts["alpha:temperature"]
    places = [(a, t) for a in axes["alpha"].labels for t in axes["temperature"].labels]
    table = pd.DataFrame(places, columns=["alpha", "temperature"])
    level, centre = _level(found, trials, part)
    table = table.assign(form=form, value=surface.ravel() + level, centre=centre)
    return row, table[["form", "alpha", "temperature", "value", "centre"]]


def _level(found: Judged, trials: pd.DataFrame, part: pd.DataFrame) -> tuple[float, str]:
    """What is added to a surface: its mean over widths, other knobs at their best, less these widths' controls."""
    controls = 100 * best_by_width(trials, plain=True).set_index("width")["val_accuracy"].astype(float)
    widths = sorted(part["width"].unique())
    if not set(widths) <= set(controls.index):
        return 0.0, "mean"
    effects = found.fitted.effects
    mean = effects[0] + float(effects[1:].sum()) / len(widths)
    others = sum(float(found.main(name).max()) for name in found.axes if name not in ("width", "alpha", "temperature"))
    return mean + others - float(controls[widths].mean()), "control"


def _form_by_width(
    trials: pd.DataFrame, count: int, space: Mapping[str, Dimension]
) -> tuple[dict[str, Any], pd.DataFrame | None]:
    part = distilled(trials, MOST)
    row: dict[str, Any] = {"pair": "form x width", "form": "all", "num_trials": len(part), "of": count}
    axes = axes_of(part, space)
    missing = [name for name in ("form", "width") if name not in axes]
    if reason := _objection(len(part), missing):
        return row | {"verdict": reason}, None
    found = judged(model_of(part, axes), axes, part, ("form", "width"))
    row |= found.row()
    if not row["r_squared"] > 0:
        return row, None
    parts = found.parts()
    values = parts["form"][:, None] + parts["form:width"]
    table = pd.DataFrame(
        [(f, w) for f in axes["form"].labels for w in axes["width"].labels], columns=["form", "width"]
    ).assign(value=values.ravel())
    counts = part.groupby(["form", "width"]).size()
    table["num_trials"] = [int(counts.get((f, w), 0)) for f, w in zip(table["form"], table["width"], strict=True)]
    return row, table


def _objection(count: int, missing: list[str]) -> str:
    if count < LEAST:
        return f"not computed: it needs {LEAST} finished distilled trials, not {count}"
    return f"not computed: {' and '.join(missing)} does not vary enough" if missing else ""


@dataclass(frozen=True)
class Judged:
    """A pair's interaction under the surrogate, and under the null: `p`, and the 95% quantile of its size in points."""

    fitted: Fitted
    axes: Mapping[str, Axis]
    trials: pd.DataFrame
    pair: tuple[str, str]
    p: float
    null_points: float

    def main(self, name: str) -> Array:
        """A knob's own effect over its grid, with mean zero."""
        return main_effect(self.fitted, self.axes, self.trials, name)

    def parts(self) -> dict[str, Array]:
        """Both knobs' own effects, [places], and the interaction, [first, second], in points."""
        first, second = self.pair
        cross = _pair_kernel(self.axes, self.trials, self.pair)
        values = self.fitted.term(":".join(self.pair), cross).reshape(len(self.axes[first].grid), -1)
        return {first: self.main(first), second: self.main(second), ":".join(self.pair): values}

    def row(self) -> dict[str, Any]:
        """Shares of what the pair explains over its balanced grid, and the interaction's SD there in points."""
        variances = [float(values.var()) for values in self.parts().values()]
        total = sum(variances)
        shares = [value / total if total > 1e-12 else math.nan for value in variances]
        return {
            "r_squared": cross_validated(self.fitted.model), "share_first": shares[0], "share_second": shares[1],
            "share_interaction": shares[2], "points": math.sqrt(variances[2]), "null_points": self.null_points,
            "p": self.p,
        }  # fmt: skip


def main_effect(fitted: Fitted, axes: Mapping[str, Axis], trials: pd.DataFrame, name: str) -> Array:
    """A knob's own effect over its grid under the surrogate, with mean zero; width's and form's are fixed effects."""
    axis = axes[name]
    if name in fitted.weights:
        return fitted.term(name, axis.kernel(axis.grid, axis.scaled(trials[name])))
    begin = 1 + (len(axes["width"].grid) - 1 if name == "form" and "width" in axes else 0)
    effects = np.array([0.0, *fitted.effects[begin : begin + len(axis.grid) - 1]])
    return np.asarray(effects - effects.mean())


def _pair_kernel(axes: Mapping[str, Axis], trials: pd.DataFrame, pair: tuple[str, str]) -> Array:
    """The interaction's kernel between its balanced grid, first knob first, and the trials, [places, trials]."""
    first, second = (axes[name].kernel(axes[name].grid, axes[name].scaled(trials[name])) for name in pair)
    return np.asarray((first[:, None, :] * second[None, :, :]).reshape(-1, len(trials)))


def judged(
    model: Model, axes: Mapping[str, Axis], trials: pd.DataFrame, pair: tuple[str, str], deals: int = DEALS
) -> Judged:
    """The interaction at its likeliest strength, and how often `deals` of the null find one as likely.

    The null keeps the other terms' strengths, fitted without the interaction. Each error is scaled up by what the fit
    took from it.
    """
    name = ":".join(pair)
    null = fit(model.without(name))
    fits = [at(model, {**null.weights, name: strength}) for strength in (0.0, *STRENGTHS)]
    errors = null.projection @ model.target
    whole = errors / np.sqrt(np.maximum(null.projection.diagonal(), 0.05))
    signs = np.random.default_rng(0).choice((-1.0, 1.0), (len(errors), deals))
    values = np.column_stack([model.target, (model.target - errors)[:, None] + whole[:, None] * signs])
    found = np.array([likelihoods(one, values) for one in fits])
    chosen, gained = found.argmax(axis=0), found.max(axis=0) - found[0]
    p = (1 + int((gained[1:] >= gained[0] - 1e-9).sum())) / (deals + 1)
    sizes = _sizes(fits, chosen, values, _pair_kernel(axes, trials, pair), name)
    return Judged(fits[int(chosen[0])], axes, trials, pair, p, float(np.quantile(sizes[1:], 1 - LEVEL)))


def _sizes(fits: list[Fitted], chosen: Any, values: Array, cross: Array, name: str) -> Array:
    """The interaction's SD over its grid in each column of values [trials, columns]; 0 where its strength is."""
    sizes = np.zeros(values.shape[1])
    for place in sorted(set(chosen.tolist()) - {0}):
        columns = np.flatnonzero(chosen == place)
        sizes[columns] = (fits[place].weights[name] * cross @ (fits[place].projection @ values[:, columns])).std(axis=0)
    return sizes
