"""Which knobs moved val accuracy, by more than one evaluator, and which best values lie on the edge of their range."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.load import finished, is_plain, rows_of
from harness.arms import OTHER_TEACHERS, SMOOTHING
from harness.space import TEACHER_KNOBS, Choice, Dimension, Float, Value, active
from harness.spec import PLAIN

Rows = Sequence[tuple[Mapping[str, Value], float]]
Evaluate = Callable[[Mapping[str, Dimension], Rows], Mapping[str, Mapping[str, float]]]
MOST = 400
"""How many trials are evaluated: fANOVA takes 10 seconds for 250, 21 for 500, 63 for 1,000 and 169 for 2,000."""
LEAST = 8
"""Fewer finished distilled trials than this at a width are not evaluated by themselves."""
MOST_IN_ALL, FEWEST_KEPT, MOST_OF_WIDTH = 400, 24, 60
"""How many trials are evaluated over all widths together, but at each width at least so many and at most so many."""
EDGE = 0.02
"""A value within this share of its range from a bound lies on the edge."""


def importance_table(trials: pd.DataFrame, space: Mapping[str, Dimension], evaluate: Evaluate) -> pd.DataFrame:
    """Shares of importance for val accuracy among finished distilled trials: index knob, one column an evaluator.

    Each evaluator's values are divided by their sum, since PED-ANOVA's have no unit of their own.

    `evaluate` is `harness.importances.importances`; its `ValueError` for too few trials passes through.
    """
    return _shares(evaluate(space, importance_rows(trials, space)))


def _shares(found: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    table = pd.DataFrame({name: pd.Series(dict(shares), dtype=float) for name, shares in found.items()})
    table.index.name = "knob"
    table = table / table.sum().replace(0, math.nan)
    return table.loc[table.mean(axis=1).sort_values(ascending=False, kind="stable").index]


def importance_by_width(
    trials: pd.DataFrame, space: Mapping[str, Dimension], evaluate: Evaluate
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """As `importance_table` at each width alone, and a sentence for each width that is left out.

    Columns `width`, `knob`, one an evaluator, `num_trials` that were evaluated, `of` how many: see `MOST_IN_ALL`.
    """
    done = finished(trials)
    done = done[~is_plain(done)]
    own = {name: dimension for name, dimension in space.items() if name != "width"}
    most = min(max(MOST_IN_ALL // max(done["width"].nunique(), 1), FEWEST_KEPT), MOST_OF_WIDTH)
    tables, missing = [], []
    for width, part in done.groupby("width"):
        rows = importance_rows(part, own, most)
        varied = [name for name in own if len({params[name] for params, _ in rows if name in params}) > 1]
        if len(rows) < LEAST:
            missing.append(f"width {width} has {len(rows)} of the {LEAST} finished distilled trials it needs")
        elif len({value for _, value in rows}) < 2 or not varied:
            missing.append(f"nothing varies among the {len(rows)} finished distilled trials of width {width}")
        else:
            table = _shares(evaluate({name: own[name] for name in varied}, rows)).reset_index()
            table.insert(0, "width", int(str(width)))
            tables.append(table.assign(num_trials=len(rows), of=len(part)))
    columns = ["width", "knob", "fANOVA", "PED-ANOVA", "num_trials", "of"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns), tuple(missing)


def importance_rows(trials: pd.DataFrame, space: Mapping[str, Dimension], most: int = MOST) -> Rows:
    """Each finished distilled trial's searched parameters, those that apply, with its mean val accuracy.

    Of more than `most` trials, so many evenly spaced by number.
    """
    done = finished(trials)
    done = done[~is_plain(done)]
    if len(done) > most:
        done = done.iloc[[round(place * (len(done) - 1) / (most - 1)) for place in range(most)]]
    rows = []
    for row in rows_of(done):
        params: dict[str, Value] = {}
        for name, dimension in space.items():
            if active(dimension, {**_plain_values(row), **params}) and not pd.isna(row[name]):
                params[name] = _plain_values({name: row[name]})[name]
        rows.append((params, float(row["val_accuracy"])))
    return rows


def _plain_values(row: Mapping[str, object]) -> dict[str, Value]:
    """A row's values as Python's own, since pandas' do not hash or print as the space's options do."""
    items = {name: getattr(value, "item", lambda value=value: value)() for name, value in row.items()}
    return {name: value for name, value in items.items() if isinstance(value, str | int | float)}


def edges(front: pd.DataFrame, space: Mapping[str, Dimension]) -> list[str]:
    """One sentence for each knob whose value, in a trial on the front, lies on the edge of what was searched.

    Width is left out: the narrowest and the widest student are on the front by design.
    """
    numbers = front["number"].tolist()
    return [
        f"{said} in trial {', '.join(str(numbers[place]) for place in places)}"
        for said, places in _at_edges(front, space)
    ]


def edges_of_chosen(trials: pd.DataFrame, space: Mapping[str, Dimension], names: Mapping[str, str]) -> list[str]:
    """As `edges`, of configurations with a column `role`: `names` are the roles that are looked at, in words.

    A control whose range was too narrow is a weak control, and what is gained over it is too much. An alpha at the end
    that ignores a useless teacher is not told: it is there on purpose (`harness.arms.set_in`).
    """
    rows = trials[trials["role"].isin(names)].drop_duplicates(["role", "number"]).reset_index(drop=True)
    whole = {**space} if "label_smoothing" in space else {**space, "label_smoothing": SMOOTHING}
    each_row = rows_of(rows)
    known = {
        name: rows[name].where(np.array([_has(row, name, dimension, searched=name in space) for row in each_row], bool))
        for name, dimension in whole.items()
        if name in rows
    }
    found = []
    for said, places in _at_edges(pd.DataFrame(known), whole):
        widths: dict[str, list[str]] = {}
        for row in (each_row[place] for place in places):
            widths.setdefault(names[row["role"]], []).append(str(row["width"]))
        found.append(f"{said}: " + ", ".join(f"{name} of width {', '.join(each)}" for name, each in widths.items()))
    return found


def _has(row: Mapping[str, Any], name: str, dimension: Dimension, *, searched: bool) -> bool:
    """Whether a configuration has this knob, and did not set it so as to ignore its teacher."""
    if not searched:
        return bool(row["role"] == "smoothing")
    if row["form"] == PLAIN and (name in TEACHER_KNOBS or "." in name):
        return False
    bounds = _bounds(dimension)
    if name == "alpha" and row["role"] in OTHER_TEACHERS and bounds is not None:
        middle = (bounds[0] + bounds[1]) / 2
        return bool(row[name] < middle if row["mixing"] == "convex" else row[name] > middle)
    return active(dimension, _plain_values(row))


def _at_edges(rows: pd.DataFrame, space: Mapping[str, Dimension]) -> Iterator[tuple[str, list[int]]]:
    """Each knob with a value on the edge of its range, in words, and the places of the rows that have it."""
    for name, dimension in space.items():
        bounds = _bounds(dimension)
        if name == "width" or bounds is None or name not in rows:
            continue
        low, high, log = bounds
        if places := [place for place, value in enumerate(rows[name]) if _on_edge(value, low, high, log)]:
            yield f"{name} lies on the edge of its range [{low:g}, {high:g}]", places


def _bounds(dimension: Dimension) -> tuple[float, float, bool] | None:
    if isinstance(dimension, Float):
        return dimension.low, dimension.high, dimension.log
    values = [option for option in dimension.options if not isinstance(option, str)]
    if isinstance(dimension, Choice) and len(values) == len(dimension.options) > 2:
        return min(values), max(values), False
    return None


def _on_edge(value: float, low: float, high: float, log: bool) -> bool:
    if pd.isna(value) or low == high:
        return False
    if log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    place = (value - low) / (high - low)
    return min(place, 1 - place) <= EDGE
