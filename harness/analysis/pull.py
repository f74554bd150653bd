"""How the losses pull beside cross-entropy: why one alpha does not mean the same under two forms."""

from __future__ import annotations

import pandas as pd

from harness.analysis.load import MOMENTS, PULLS, finished, is_plain

PULL_COLUMNS = (
    "form",
    "num_students",
    *(f"{kind}_{moment}" for kind in ("kd_ratio", "kd_cosine") for moment in MOMENTS),
)


def pulls_by_form(trials: pd.DataFrame, students: pd.DataFrame) -> pd.DataFrame:
    """For each loss form, medians over the students of its finished trials: one row a form, strongest at start first.

    `kd_ratio` is the norm of the form's gradient over that of cross-entropy's, before alpha; `kd_cosine` the cosine of
    the angle between the two (see `harness.spec.Balance`). Empty where no record has them.
    """
    done = finished(trials)
    kept = students[students["number"].isin(done.loc[~is_plain(done), "number"])]
    have = [column for column in PULLS if column in kept]
    if kept.empty or "kd_ratio_start" not in have:
        return pd.DataFrame(columns=list(PULL_COLUMNS))
    groups = kept.groupby("form")
    table = groups[have].median().assign(num_students=groups.size()).reset_index()
    return table.reindex(columns=list(PULL_COLUMNS)).sort_values("kd_ratio_start", ascending=False, ignore_index=True)
