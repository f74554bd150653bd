"""What validation chose of a study: the configurations that the confirm stage is about, and in which role.

A student that gives its teacher no weight is plain training, whatever its form (`harness.analysis.load`). So plain
training is the best of all trials that were that, in whatever arm. Where trials of a self- or shuffled teacher have
been plain training, its space holds that, and so it is never less than plain training on validation: at its best it may
be plain training itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from harness.analysis.compare import best_of_each
from harness.analysis.confirmed import CONTROLS, DISTILLED
from harness.analysis.load import Frames, StudyData, finished, is_plain, rows_of
from harness.analysis.pareto import front
from harness.arms import OTHER_TEACHERS

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
    done, others = finished(data.trials), finished(data.others.trials)
    taught = ~is_plain(done)
    plain = done[~taught]
    scored = done.assign(score=-done["val_loss"] if by == "val_loss" else done["val_accuracy"])
    every = front(scored, "score")
    best, on_front = every.drop_duplicates("num_params"), set(every["number"])  # of equals the first is confirmed

    def rows(table: pd.DataFrame, role: str) -> Iterator[dict[str, Any]]:
        for row in rows_of(table):
            number = int(row["number"])
            yield {"source": number, "role": role, "width": int(row["width"]), "on_front": number in on_front,
                   "option": str(row[data.equal]) if role == OPTION else ""}  # fmt: skip

    own = [*rows(best_of_each(done[taught], by), DISTILLED), *rows(best_of_each(plain, by), PLAIN_ROLE)]
    for kind in ROLES[2:]:
        holds_plain = plain["width"].isin(plain.loc[plain["arm"] == kind, "width"])
        pool = [part for part in (others[others["arm"] == kind], plain[holds_plain]) if len(part)]
        own += rows(best_of_each(pd.concat(pool), by), kind) if pool else []
    if data.equal:
        for _, some in done[taught].groupby(data.equal):
            own += rows(best_of_each(some, by), OPTION)
    yield from own
    known = {row["source"] for row in own}
    yield from rows(best[~best["number"].isin(known)], FRONT)


def is_plain_itself(trials: pd.DataFrame) -> pd.Series[bool]:
    """Which rows of `confirmed_in_roles` are of a control that did best as plain training: that has a row itself."""
    return trials["role"].isin(OTHER_TEACHERS) & is_plain(trials)


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
