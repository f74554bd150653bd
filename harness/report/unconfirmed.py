"""What is not searched or confirmed yet, or cannot be: half a sweep must not be read as the answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from harness.analysis.chosen import OPTION, PLAIN_ROLE, chosen
from harness.analysis.confirmed import DISTILLED
from harness.analysis.load import StudyData, is_plain, rows_of
from harness.figures.confirmed import NAMES

STATES = {"failed": "given up in the confirm stage", "open": "not confirmed yet"}
SIDES = {DISTILLED: "distilled", PLAIN_ROLE: NAMES[PLAIN_ROLE]}


def unconfirmed(data: StudyData) -> str:
    """Sentences on what the search lacks, and on what a confirm stage that has begun lacks; mostly empty."""
    begun = len(data.confirmed.trials) > 0
    return "".join(f" {said}." for said in (*_unsearched(data), *((*_open(data), *_one_sided(data)) if begun else ())))


def _unsearched(data: StudyData) -> Iterator[str]:
    """How much of the search has ended, where that is not all that was planned."""
    planned = (data.manifest.get("budget") or {}).get("trials")
    search = data.trials[data.trials["arm"] == "search"]
    ended = int(search["state"].isin(("complete", "pruned", "failed")).sum())
    if isinstance(planned, int) and ended < planned:
        yield f"The search is not complete: {ended} of {planned} trials have ended"


def _open(data: StudyData) -> Iterator[str]:
    """What validation chose and fresh seeds have not judged: a sentence for what may come, and one for what failed."""
    states = data.confirmed.trials.groupby("source")["state"].agg(set)
    whole = chosen(data)
    known = [states.get(source, set()) for source in whole["source"]]
    said = ["done" if "complete" in own else "failed" if own == {"failed"} else "open" for own in known]
    table = whole.assign(said=said)
    for state, words in STATES.items():
        parts = []
        for width, own in table.groupby("width"):
            missing = own[own["said"] == state]
            if len(missing):
                parts.append(f"width {width} ({'all of it' if len(missing) == len(own) else _names(missing)})")
        if parts:
            yield f"{words.capitalize()}: {', '.join(parts)}"


def _names(missing: pd.DataFrame) -> str:
    names = [
        row["option"] if row["role"] == OPTION else NAMES.get(row["role"], row["role"]) for row in rows_of(missing)
    ]
    return ", ".join(dict.fromkeys(names))


def _one_sided(data: StudyData) -> Iterator[str]:
    """The widths at which the search has nothing to confirm on one side of the comparison, or on both."""
    table = chosen(data)
    widths: Sequence[int] = data.manifest.get("widths") or sorted(table["width"].unique())
    parts = []
    for width in widths:
        has = set(table.loc[table["width"] == width, "role"])
        if missing := [name for role, name in SIDES.items() if role not in has]:
            searched = data.trials[(data.trials["arm"] == "search") & (data.trials["width"] == width)]
            idle = DISTILLED not in has and len(searched) > 0 and bool(is_plain(searched).all())
            why = ": all gave their teacher no weight" if idle else ""
            parts.append(f"width {width} (no finished {' and no finished '.join(missing)} trial{why})")
    if parts:
        yield f"Not to be compared: {', '.join(parts)}"
