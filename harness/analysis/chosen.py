"""What validation chose of a study: the configurations that the confirm stage is about, and in which role."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from harness.analysis.compare import best_by_width, best_of_each
from harness.analysis.confirmed import CONTROLS, DISTILLED
from harness.analysis.load import Frames, StudyData, finished, is_plain, rows_of
from harness.analysis.pareto import front

FRONT, OPTION = "front", "option"
PLAIN_ROLE = CONTROLS[0]
ROLES = (DISTILLED, *CONTROLS)
"""A width's own: its best distilled configuration, and the best of every control."""
COLUMNS = ("source", "role", "width", "on_front", "option")


def chosen(data: StudyData) -> pd.DataFrame:
    """A row for each configuration and role at every width: columns `source` (its trial), `role`, `width`,
    `on_front`, and `option`, that of the choice that shares the study's trials equally, empty for other roles.

    A trial that has two roles, such as the best distilled one that is the best of its loss form too, has two rows.
    """
    table = pd.DataFrame(list(_rows(data)), columns=list(COLUMNS))
    whole = table.astype({"source": "int64", "width": "int64", "on_front": bool})
    return whole.sort_values(["width", "source"], kind="stable").reset_index(drop=True)


def _rows(data: StudyData) -> Iterator[dict[str, Any]]:
    by = data.selected_by
    done = finished(data.trials)
    scored = done.assign(score=-done["val_loss"] if by == "val_loss" else done["val_accuracy"])
    best = front(scored, "score").drop_duplicates("num_params")  # of equals the first
    on_front = set(best["number"])

    def rows(table: pd.DataFrame, role: str) -> Iterator[dict[str, Any]]:
        for row in rows_of(table):
            number = int(row["number"])
            yield {"source": number, "role": role, "width": int(row["width"]), "on_front": number in on_front,
                   "option": str(row[data.equal]) if role == OPTION else ""}  # fmt: skip

    own = [*rows(best_by_width(data.trials, plain=False, by=by), DISTILLED)]
    own += rows(best_by_width(data.trials, plain=True, by=by), PLAIN_ROLE)
    for kind in ROLES[2:]:
        trials = data.others.trials
        own += rows(best_of_each(finished(trials[trials["arm"] == kind]), by), kind)
    if data.equal:
        distilled = data.trials[~is_plain(data.trials)]
        for _, some in distilled.groupby(data.equal):
            own += rows(best_by_width(some, plain=False, by=by), OPTION)
    yield from own
    known = {row["source"] for row in own}
    yield from rows(best[~best["number"].isin(known)], FRONT)


def confirmed_in_roles(data: StudyData) -> Frames:
    """What was confirmed of that: `trials` with columns `role`, `on_front` and `option` (a trial of two roles twice),
    its students and curves. Of a configuration that was confirmed more than once the one with most seeds."""
    every = data.confirmed.trials
    done = every[every["state"] == "complete"]  # with students that diverged too: what was chosen counts as it is
    done = done.sort_values(["source", "num_seeds", "number"], ascending=[True, False, True]).drop_duplicates("source")
    trials = chosen(data).merge(done.drop(columns="width"), on="source", how="inner")
    order = trials["role"].map({role: place for place, role in enumerate((*ROLES, FRONT, OPTION))})
    trials = trials.assign(order=order).sort_values(["width", "order", "number"], kind="stable")
    trials = trials.drop(columns="order").reset_index(drop=True)
    numbers = set(trials["number"])
    students, curves = (
        frame[frame["number"].isin(numbers)] for frame in (data.confirmed.students, data.confirmed.curves)
    )
    return Frames(trials, students.reset_index(drop=True), curves.reset_index(drop=True))
