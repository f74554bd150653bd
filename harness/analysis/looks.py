"""How often the confirm stage was run, each of which is a look, and how many comparisons it has when it is whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.analysis.chosen import FRONT, OPTION, PLAIN_ROLE, chosen
from harness.analysis.confirmed import CONTROLS, DISTILLED
from harness.analysis.load import StudyData


def how_often(data: StudyData) -> Sequence[int]:
    """With how many fresh seeds the stage was run each time, first to last, by what was trained: a look that trained
    nothing anew is none.

    Trials have their numbers in order, and the stage begins when the search has ended: search trials between confirmed
    ones were added after a run of the stage, and may have changed what validation chose.
    """
    trials = data.confirmed.trials
    done = trials[trials["state"] == "complete"].sort_values("number")
    searched = np.sort(np.concatenate([data.trials["number"], data.others.trials["number"]]).astype(float))
    before = np.searchsorted(searched, done["number"].to_numpy(dtype=float))
    runs = dict.fromkeys(zip(before.tolist(), done["num_seeds"].astype(int).tolist(), strict=True))
    return [count for _, count in runs]


def num_planned(data: StudyData) -> int:
    """How many comparisons there are when all that validation chose is confirmed: its controls by width."""
    table = chosen(data)
    controls = table[table["role"].isin(CONTROLS)].groupby("width")["source"].nunique()
    return int(controls[controls.index.isin(table.loc[table["role"] == DISTILLED, "width"])].sum())


@dataclass(frozen=True)
class ToCome:
    """How many rows the other tables of claims will have when all that validation chose is confirmed, and how many
    widths; 0 where it is. So no claim is taken back as the stage goes on."""

    by_option: int = 0
    options_compared: int = 0
    others: int = 0
    widths: int = 0


def still_to_come(data: StudyData) -> ToCome:
    """What of the other tables is to come."""
    table, done = chosen(data), data.confirmed.trials
    if set(table["source"]) <= set(done.loc[done["state"] == "complete", "source"]):
        return ToCome()
    roles = table["role"]
    with_plain = table["width"].isin(table.loc[roles == PLAIN_ROLE, "width"])
    taught = table["width"].isin(table.loc[roles == DISTILLED, "width"])
    options = roles == OPTION
    return ToCome(
        int((options & with_plain).sum()),
        int((options & taught).sum()) - int(table.loc[options & taught, "width"].nunique()),
        int((roles.isin(("smoothing", "self", FRONT)) & with_plain).sum()),
        int(table.loc[with_plain & taught, "width"].nunique()),
    )
