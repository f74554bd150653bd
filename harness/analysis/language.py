"""Confirmed language models in bits a character: what each costs to predict a text, and what distillation saves."""

from __future__ import annotations

import math

import pandas as pd

from harness.analysis.compare import paired_differences
from harness.analysis.confirmed import CONTROLS, DISTILLED
from harness.analysis.load import rows_of
from harness.analysis.statistics import holm, paired

COLUMNS = (
    "width", "role", "number", "num_params", "form", "num_seeds", "bits", "bits_sd", "perplexity", "saved", "low",
    "high", "p_t", "holm_p", "p_sign_flip", "p_floor",
)  # fmt: skip


def bits(trials: pd.DataFrame, students: pd.DataFrame, characters: float) -> pd.DataFrame:
    """A row for each width and role: test loss in bits a character, mean and SD over seeds; one label stands for so
    many `characters`.

    Rows of controls say what the best distilled model of the width saves against them: `saved` is the mean over seeds
    of the control's bits less its own, with its 95% t interval over seeds, and `holm_p` is Holm's correction over all
    of these rows. `perplexity` is that of a label: the exponential of its mean loss in nats.
    """
    rows = []
    for _, of_width in trials[trials["role"].isin([DISTILLED, *CONTROLS])].groupby("width"):
        distilled = of_width[of_width["role"] == DISTILLED]
        for row in rows_of(of_width):
            own = _losses(students, int(row["number"]))
            found = {"bits": _bits(own.mean(), characters), "bits_sd": _bits(own.std(ddof=1), characters)}
            found |= {"perplexity": math.exp(own.mean()), "num_seeds": len(own)}
            if row["role"] != DISTILLED and len(distilled):
                numbers = int(row["number"]), int(distilled["number"].iloc[0])
                found |= _saved(paired_differences(students, *numbers, metric="test_loss"), characters)
            rows.append({name: row[name] for name in ("width", "role", "number", "num_params", "form")} | found)
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    known = table["p_t"].notna()
    table["holm_p"] = table["holm_p"].astype(float)
    table.loc[known, "holm_p"] = holm(table.loc[known, "p_t"].astype(float).tolist())
    return table


def _losses(students: pd.DataFrame, number: int) -> pd.Series[float]:
    return students.loc[students["number"] == number, "test_loss"].astype(float)


def _bits(nats: float, characters: float) -> float:
    return float(nats) / math.log(2) / characters


def _saved(differences: pd.Series[float], characters: float) -> dict[str, float]:
    if differences.empty:
        return {}
    found = paired([_bits(value, characters) for value in differences])
    return {"saved": found.mean, "low": found.low, "high": found.high, "p_t": found.p_t,
            "p_sign_flip": found.p_sign_flip, "p_floor": found.p_floor}  # fmt: skip
