"""How far the knobs may be moved before it is seen: the trials that are as good as the best of their width, and a
setting that is nearly as good at every width."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.load import rows_of
from harness.analysis.statistics import many_to_one, minimum_detectable
from harness.analysis.surrogate import Array, Fitted, cross_validated, fit
from harness.analysis.terms import LEAST, Axis, axes_of, distilled, fixed_of, kernels_between, model_of, terms_of
from harness.space import Dimension

UNKNOWN = 0.005
"""Epsilon where no width's seeds say what could be detected."""
BINS = 5
MOST = 300
DRAWS = 400
COLUMNS = (
    "width", "num_trials", "epsilon", "epsilon_from", "size", "best", "best_accuracy", "best_form", "best_alpha",
    "best_temperature", "alpha_low", "alpha_high", "temperature_low", "temperature_high", "forms", "trials",
)  # fmt: skip
ROBUST_COLUMNS = (
    "form", "alpha_low", "alpha_high", "temperature_low", "temperature_high", "shortfall", "shortfall_high",
    "worst_width", "num_trials", "widths_tried", "tried_shortfall",
)  # fmt: skip


def epsilons(done: pd.DataFrame) -> pd.DataFrame:
    """For each width, index, the difference to the best trial that its seeds cannot tell: columns `epsilon`, `source`.

    It is the larger of two: the difference of two trials that their seeds find with 80% power, and what the highest of
    all trials' means may be above that of the truly best trial, at 95% (`statistics.many_to_one`). From the seeds' SD
    pooled over the better half of the width's trials, as if they shared no seeds: sqrt(2) of it is the SD of a
    difference. A seed that collapses in a bad trial says nothing of the best: over all trials of the default study's
    width 8 epsilon was 58 points. `UNKNOWN` where the trials have one seed, or seeds that agree.
    """
    rows = {}
    for width, whole in done.groupby("width"):
        part = whole[whole["val_accuracy"] >= whole["val_accuracy"].median()]
        seeds = part["num_seeds"].astype(float)
        freedom = (seeds - 1).clip(lower=0)
        squares = part["val_accuracy_sd"].astype(float).fillna(0) ** 2 * freedom
        total = float(freedom.sum())
        sd = math.sqrt(2 * float(squares.sum()) / total) if total > 0 else 0.0
        if sd > 0:
            count = int(seeds.min())
            luck = many_to_one(len(whole) - 1, int(total)) * sd / math.sqrt(count)
            rows[int(str(width))] = (max(minimum_detectable(sd, count, int(total)), luck), "seeds")
        else:
            rows[int(str(width))] = (UNKNOWN, "unknown")
    return pd.DataFrame.from_dict(rows, orient="index", columns=["epsilon", "source"])


def indifference(trials: pd.DataFrame) -> pd.DataFrame:
    """For each width the finished distilled trials within epsilon of its best: how many, and what they range over.

    `trials` are their numbers and `forms` their forms, parted by blanks; a range is missing where none of them has the
    knob. Where epsilon is from the seeds, and these are normal and spread alike in good trials, the set holds the truly
    best of the width's trials in 95% of studies, and the ranges are 95% intervals of its knobs: of the trials that were
    tried, not of settings that were not. Where students collapse, or one trial is much the noisiest, it holds less.
    """
    done = distilled(trials)
    least = epsilons(done)
    parts = {int(str(width)): part for width, part in done.groupby("width")}
    rows = [
        _row(int(width), parts[int(width)], float(epsilon), str(source))
        for width, epsilon, source in zip(least.index, least["epsilon"], least["source"], strict=True)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(width: int, part: pd.DataFrame, epsilon: float, source: str) -> dict[str, Any]:
    ordered = part.sort_values(["val_accuracy", "val_loss", "number"], ascending=[False, True, True])
    best = rows_of(ordered.head(1))[0]
    near = part[part["val_accuracy"] >= best["val_accuracy"] - epsilon - 1e-12]
    return {
        "width": width, "num_trials": len(part), "epsilon": epsilon, "epsilon_from": source, "size": len(near),
        "best": best["number"], "best_accuracy": best["val_accuracy"],
        **{f"best_{name}": best[name] for name in ("form", "alpha", "temperature")},
        **{f"{name}_{end}": getattr(near[name], how)() for name in ("alpha", "temperature")
           for end, how in (("low", "min"), ("high", "max"))},
        "forms": " ".join(sorted(set(near["form"]))), "trials": " ".join(str(number) for number in near["number"]),
    }  # fmt: skip


def robust(trials: pd.DataFrame, space: Mapping[str, Dimension]) -> tuple[pd.DataFrame, str]:
    """Cells of form, alpha and temperature, the least worst shortfall first; or an empty table and why.

    `shortfall` is the surrogate's, in points: at the worst width, how far the cell is below the best cell of that
    width. `shortfall_high` is the 97.5% quantile over draws of the surrogate's posterior. `num_trials` lie in the cell,
    at `widths_tried` of the widths; `tried_shortfall` is the worst of what these fell short of the best trial of their
    width, the best of a width in the cell.
    """
    done = distilled(trials)
    empty = pd.DataFrame(columns=list(ROBUST_COLUMNS))
    if len(done) < LEAST:
        return empty, f"a robust default needs {LEAST} finished distilled trials, not {len(done)}"
    part = distilled(trials, MOST)
    axes = axes_of(part, space)
    knobs = [name for name in ("form", "alpha", "temperature") if name in axes]
    if not knobs:
        return empty, "neither form nor alpha nor temperature varies, so there is nothing to choose"
    cells = _cells(part, axes)
    widths = sorted(part["width"].unique().tolist())
    places = pd.DataFrame([{**cell, "width": width} for width in widths for cell in cells])
    fitted = fit(model_of(part, axes))
    if not (skill := cross_validated(fitted.model)) > 0:
        said = "which do not vary" if math.isnan(skill) else f"R² {skill:.2f}"
        return empty, (
            f"the surrogate of {len(part)} trials predicts none that it has not seen better than the means of widths "
            f"and forms do ({said})"
        )
    mean, draws = _predicted(fitted, axes, part, places)
    table = pd.DataFrame(cells)[
        ["form", *(f"{name}_{end}" for name in ("alpha", "temperature") for end in ("low", "high"))]
    ]
    means = mean.reshape(len(widths), -1)
    short = means.max(axis=1, keepdims=True) - means
    drawn = draws.reshape(len(draws), len(widths), -1)
    worst = (drawn.max(axis=2, keepdims=True) - drawn).max(axis=1)
    table = table.assign(
        shortfall=short.max(axis=0), shortfall_high=np.quantile(worst, 0.975, axis=0),
        worst_width=[widths[place] for place in short.argmax(axis=0)],
    )  # fmt: skip
    tried = pd.DataFrame([_tried(row, done) for row in rows_of(table)])
    table = pd.concat([table, tried], axis=1)[list(ROBUST_COLUMNS)]
    return table.sort_values(["shortfall", "form"], kind="stable").reset_index(drop=True), ""


def _cells(part: pd.DataFrame, axes: Mapping[str, Axis]) -> list[dict[str, Any]]:
    """Every form with every bin of its knobs: bounds, and the middle as the knob's value."""
    cells = []
    for form in sorted(part["form"].unique()):
        own = part[part["form"] == form]
        bins = [_bins(own, name, axes.get(name)) for name in ("alpha", "temperature")]
        cells += [{"form": form, **alpha, **temperature} for alpha, temperature in itertools.product(*bins)]
    return cells


def _bins(own: pd.DataFrame, name: str, axis: Axis | None) -> list[dict[str, Any]]:
    """Equal bins of a knob over the range that all trials cover, on its scale; one bin where it does not vary."""
    values = own[name].dropna()
    if values.empty or axis is None or axis.choice:
        low, high = (float(values.min()), float(values.max())) if len(values) else (math.nan, math.nan)
        return [{name: low if low == high else values.median(), f"{name}_low": low, f"{name}_high": high}]
    edges = axis.low + np.linspace(0, 1, 2 * BINS + 1) * (axis.high - axis.low)
    edges = np.exp(edges) if axis.log else edges
    return [
        {name: float(edges[place + 1]), f"{name}_low": float(edges[place]), f"{name}_high": float(edges[place + 2])}
        for place in range(0, 2 * BINS, 2)
    ]


def _predicted(
    fitted: Fitted, axes: Mapping[str, Axis], part: pd.DataFrame, places: pd.DataFrame
) -> tuple[Array, Array]:
    """Posterior mean in points at each place, and draws of it, [draws, places].

    Knobs other than form, alpha and temperature are left out: they add the same everywhere within a width.
    """
    used = {name: axis for name, axis in axes.items() if name in ("form", "width", "alpha", "temperature")}
    cross, inner = terms_of(kernels_between(places, part, used)), terms_of(kernels_between(places, places, used))
    mean, covariance = fitted.predicted(cross, inner, fixed_of(places, axes))
    values, vectors = np.linalg.eigh(covariance)
    noise = np.random.default_rng(0).standard_normal((DRAWS, len(places)))
    return mean, mean + noise @ (vectors * np.sqrt(values.clip(min=0))).T


def _tried(cell: Mapping[str, Any], done: pd.DataFrame) -> dict[str, Any]:
    """The trials that lie in a cell, and the worst over widths of what the best of them falls short by, in points."""
    inside = done["form"] == cell["form"]
    for name in ("alpha", "temperature"):
        if not math.isnan(cell[f"{name}_low"]):
            slack = 1e-9 * max(abs(cell[f"{name}_high"]), 1e-9)
            inside &= done[name].between(cell[f"{name}_low"] - slack, cell[f"{name}_high"] + slack)
    found = done[inside].groupby("width")["val_accuracy"].max()
    gaps = 100 * (done.groupby("width")["val_accuracy"].max().loc[found.index] - found)
    return {
        "num_trials": int(inside.sum()), "widths_tried": len(found),
        "tried_shortfall": float(gaps.max()) if len(gaps) else math.nan,
    }  # fmt: skip
