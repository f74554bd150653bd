"""Confirmed language models in bits a character: what each costs to predict a text, and what distillation saves."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.analysis.compare import paired_differences
from harness.analysis.confirmed import CONTROLS, DISTILLED, has_diverged, verdict
from harness.analysis.intervals import crossed, spread
from harness.analysis.load import rows_of
from harness.analysis.statistics import holm, minimum_detectable, paired

Losses = Mapping[int, NDArray[np.generic]]
NUMBERS = (
    "num_seeds", "bits", "bits_sd", "perplexity", "saved", "low", "high", "crossed_low", "crossed_high", "p_t",
    "p_crossed", "holm_p", "p_sign_flip", "p_floor", "mde",
)  # fmt: skip
COLUMNS = ("width", "role", "number", "num_params", "form", *NUMBERS, "verdict")
AWAY = 1e-3
"""Losses by text whose mean is further from the record's, as a share of it, are not those of the record."""


def bits(
    trials: pd.DataFrame,
    students: pd.DataFrame,
    losses: Losses,
    characters: float,
    looks: int = 1,
    planned: int = 0,
) -> pd.DataFrame:
    """A row for each width and role: test loss in bits a character, mean and SD over seeds; one label stands for so
    many `characters`. `losses` maps a trial's number to nats by seed and test text, [seeds, texts], where known.

    Rows of controls say what the best distilled model of the width saves against them: `saved` is the mean over seeds
    of the control's bits less its own, with its 95% t interval over seeds, and the crossed one over seeds and texts.
    Claims are made as in `harness.analysis.confirmed.comparisons`: by `holm_p`, Holm's correction over all of these
    rows, and those still `planned`, of the larger p, for so many `looks`, and a difference of at least `mde`.
    `perplexity` is that of a label: the exponential of its mean loss in nats.
    """
    rows = []
    for _, of_width in trials[trials["role"].isin([DISTILLED, *CONTROLS])].groupby("width"):
        distilled = of_width[of_width["role"] == DISTILLED]
        for row in rows_of(of_width.drop_duplicates("number")):  # a control may be plain training itself
            own = students.loc[students["number"] == row["number"], "test_loss"].astype(float)
            found = {"bits": _bits(own.mean(), characters), "bits_sd": _bits(own.std(ddof=1), characters)}
            found |= {"perplexity": math.exp(own.mean()), "num_seeds": len(own)}
            if row["role"] != DISTILLED and len(distilled):
                numbers = int(row["number"]), int(distilled["number"].iloc[0])
                found |= _saved(students, losses, numbers, characters)
            rows.append({name: row[name] for name in ("width", "role", "number", "num_params", "form")} | found)
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    kinds = {name: "int64" if name == "num_seeds" else float for name in NUMBERS}
    table = table.astype({**kinds, "verdict": object})
    compared = table["saved"].notna()
    larger = table.loc[compared, ["p_t", "p_crossed"]].max(axis=1, skipna=False)
    table.loc[compared, "holm_p"] = holm(larger.tolist(), looks, planned)
    said = zip(table["holm_p"], table["saved"], table["mde"], strict=True)
    table["verdict"] = [verdict(*row) if known else "" for row, known in zip(said, compared, strict=True)]
    return table


def _bits(nats: float, characters: float) -> float:
    return float(nats) / math.log(2) / characters


def _saved(students: pd.DataFrame, losses: Losses, numbers: tuple[int, int], characters: float) -> dict[str, float]:
    """What the second trial saves against the first, but for what needs all rows; empty where they share no seed."""
    differences = paired_differences(students, *numbers, metric="test_loss")
    if differences.empty:
        return {}
    found = paired([_bits(value, characters) for value in differences])
    row = {"saved": found.mean, "low": found.low, "high": found.high, "p_t": found.p_t,
           "p_sign_flip": found.p_sign_flip, "p_floor": found.p_floor}  # fmt: skip
    tables = [_by_text(students, losses, number) for number in numbers]
    if tables[0] is None or tables[1] is None:
        return row
    table = (tables[0] - tables[1]).loc[differences.index].to_numpy() / math.log(2) / characters
    both = crossed(table)
    return row | {"crossed_low": both.low, "crossed_high": both.high, "p_crossed": both.p,
                  "mde": minimum_detectable(spread(found.sd, table), found.num_seeds)}  # fmt: skip


def _by_text(students: pd.DataFrame, losses: Losses, number: int) -> pd.DataFrame | None:
    """A trial's losses by text in nats, indexed by seed; None where they are not known, or not those of its record.

    A model whose loss by text is not finite has diverged, and has its record's loss on every text alike.
    """
    own = students[students["number"] == number]
    if number not in losses or len(losses[number]) != len(own):
        return None
    values, recorded = np.array(losses[number], dtype=float), own["test_loss"].to_numpy(dtype=float)
    lost = ~np.isfinite(values).all(axis=1) | has_diverged(own).to_numpy()
    values[lost] = recorded[lost, None]
    if not np.allclose(values.mean(axis=1), recorded, rtol=AWAY):
        return None
    return pd.DataFrame(values, index=pd.Index(own["seed"].to_numpy(), name="seed"))
