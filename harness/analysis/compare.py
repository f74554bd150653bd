"""Distillation against plain training at the same width, paired by seed.

Both sides are the best of several trials, chosen on the same validation split that then measures them. So a gain here
is an estimate of the search stage and no confirmed claim.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.load import finished, is_plain, rows_of
from harness.analysis.statistics import LEVEL, holm, minimum_detectable, paired

SHOWN = "difference on validation"
NOT_SHOWN = "no difference shown"
GAIN_COLUMNS = (
    "width", "num_params", "control", "distilled", "control_trials", "distilled_trials", "control_accuracy",
    "distilled_accuracy", "num_seeds", "gain", "low", "high", "sd", "p_t", "holm_p", "p_sign_flip", "p_floor", "mde",
    "verdict", "differences",
)  # fmt: skip


def best_by_width(trials: pd.DataFrame, *, plain: bool, by: str = "val_accuracy") -> pd.DataFrame:
    """The best finished trial at each width, with `trials_tried`, the number it was chosen from.

    The most accurate, ties go to the lower val loss, or by `"val_loss"` the other way round; then the earlier trial.
    """
    done = finished(trials)
    return best_of_each(done[is_plain(done) == plain], by)


def best_of_each(done: pd.DataFrame, by: str = "val_accuracy") -> pd.DataFrame:
    """As `best_by_width`, of finished trials of any kind."""
    tried = done.groupby("width")["number"].transform("size")
    keys = ["val_accuracy", "val_loss"] if by == "val_accuracy" else ["val_loss", "val_accuracy"]
    ordered = done.assign(trials_tried=tried).sort_values(
        ["width", *keys, "number"], ascending=[True, *(key == "val_loss" for key in keys), True]
    )
    return ordered.drop_duplicates("width").reset_index(drop=True)


def paired_differences(
    students: pd.DataFrame, first: int, second: int, metric: str = "val_accuracy"
) -> pd.Series[float]:
    """The metric of trial `first` less that of trial `second`, for each seed that both have; indexed by seed."""
    sides = [
        students[students["number"] == number].set_index("seed")[metric].astype(float) for number in (first, second)
    ]
    # Rounded far below a test case's weight, so that seeds that agree do agree.
    return (sides[0] - sides[1]).dropna().sort_index().round(12)


def gains(trials: pd.DataFrame, students: pd.DataFrame) -> pd.DataFrame:
    """Best distilled less best plain trial at each width that has both, in accuracy: one row a width.

    `sd` is of the per-seed `differences`; `mde` takes that SD pooled over widths, since a width's own rests on few
    seeds. `verdict` is a difference only where Holm's p over the widths is below 5% and the gain is at least `mde`.
    """
    return _judged(pd.DataFrame(_gain_rows(trials, students), columns=list(GAIN_COLUMNS)))


def gains_by_option(trials: pd.DataFrame, students: pd.DataFrame, knob: str) -> pd.DataFrame:
    """As `gains`, for each option of a knob of distillation: a row for each option and width, in column `option`.

    Holm's correction and the pooled SD are over all rows, so that a long list of options is no lottery. Most gain first
    within a width.
    """
    plain = is_plain(trials)
    rows = []
    for option in sorted(trials.loc[~plain, knob].dropna().unique(), key=str):
        found = _gain_rows(trials[plain | (trials[knob] == option)], students)
        rows += [{"option": str(option), **row} for row in found]
    table = pd.DataFrame(rows, columns=["option", *GAIN_COLUMNS])
    judged = _judged(table).assign(option=table["option"])
    ordered = judged.sort_values(["width", "gain", "option"], ascending=[True, False, True])
    return ordered[["option", *GAIN_COLUMNS]].reset_index(drop=True)


def _gain_rows(trials: pd.DataFrame, students: pd.DataFrame) -> list[dict[str, Any]]:
    """What `gains` has in a row for each width, but for what needs all of them."""
    columns = ["width", "number", "num_params", "val_accuracy", "trials_tried"]
    sides = [best_by_width(trials, plain=plain)[columns] for plain in (True, False)]
    both = sides[0].merge(sides[1], on="width", suffixes=("_control", "_distilled"))
    rows = []
    for row in rows_of(both):
        control, distilled = int(row["number_control"]), int(row["number_distilled"])
        differences = tuple(float(value) for value in paired_differences(students, distilled, control))
        if not differences:
            continue
        found = paired(differences)
        rows.append({
            "width": int(row["width"]), "num_params": int(row["num_params_distilled"]),
            "control": control, "distilled": distilled,
            "control_trials": int(row["trials_tried_control"]), "distilled_trials": int(row["trials_tried_distilled"]),
            "control_accuracy": row["val_accuracy_control"], "distilled_accuracy": row["val_accuracy_distilled"],
            "num_seeds": found.num_seeds, "gain": found.mean, "low": found.low, "high": found.high, "sd": found.sd,
            "p_t": found.p_t, "p_sign_flip": found.p_sign_flip, "p_floor": found.p_floor, "differences": differences,
        })  # fmt: skip
    return rows


def _judged(table: pd.DataFrame) -> pd.DataFrame:
    """Add what needs all widths at once: Holm's p, the detectable difference and the verdict."""
    sd = pooled_sd(table)
    mde = [minimum_detectable(sd, int(count)) for count in table["num_seeds"]]
    judged = table.assign(holm_p=holm([float(p) for p in table["p_t"]]), mde=np.asarray(mde, dtype=float))
    shown = [
        p < LEVEL and abs(gain) >= least
        for p, gain, least in zip(judged["holm_p"], judged["gain"], judged["mde"], strict=True)
    ]
    return judged.assign(verdict=[SHOWN if yes else NOT_SHOWN for yes in shown])[list(GAIN_COLUMNS)]


def pooled_sd(table: pd.DataFrame) -> float:
    """The SD of paired differences about their own width's mean, pooled over widths; NaN from single seeds."""
    freedom = (table["num_seeds"] - 1).astype(float)
    total = float(freedom.sum())
    return math.sqrt(float((table["sd"].fillna(0) ** 2 * freedom).sum()) / total) if total > 0 else math.nan


def gain_over_control(trials: pd.DataFrame) -> pd.Series[float]:
    """Each trial's mean accuracy less that of the best control of its width; NaN where a width has no control."""
    controls = best_by_width(trials, plain=True).set_index("width")["val_accuracy"]
    return trials["val_accuracy"].astype(float) - trials["width"].map(controls).astype(float)


def with_gains(front: pd.DataFrame, trials: pd.DataFrame, students: pd.DataFrame) -> pd.DataFrame:
    """The front with, for each distilled trial, `control` (the best of its width), `gain`, `gain_low`, `gain_high`.

    All are missing for plain training and where a width has no control.
    """
    controls = best_by_width(trials, plain=True).set_index("width")["number"]
    rows = []
    for number, width, plain in zip(front["number"], front["width"], is_plain(front), strict=True):
        row: tuple[Any, ...] = (None, math.nan, math.nan, math.nan)
        if not plain and width in controls.index:
            control = int(controls[width])
            differences = paired_differences(students, int(number), control).tolist()
            if differences:
                found = paired(differences)
                row = (control, found.mean, found.low, found.high)
        rows.append(row)
    added = pd.DataFrame(rows, columns=["control", "gain", "gain_low", "gain_high"], index=front.index)
    return front.join(added.astype({"control": "Int64"} | dict.fromkeys(("gain", "gain_low", "gain_high"), float)))
