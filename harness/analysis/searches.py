"""One study searched several times under other seeds: what holds for the study, not for what one search found.

A search is one draw: which trials the sampler proposed, which seeds they had, what validation chose. Intervals over
the seeds of one choice do not hold that (Bouthillier et al. 2021, arXiv:2103.03098, count it among the sources of
variance). Here a search with its confirm stage is one draw of a row: the mean over its fresh seeds of the difference
between its distilled choice and its control, on every test example. Searches and test examples are crossed random
effects, as seeds and examples are in `harness.analysis.confirmed`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.analysis.chosen import ROLES
from harness.analysis.confirmed import CONTROLS, DISTILLED, NOT_SHOWN, verdict
from harness.analysis.declared import manifest_at
from harness.analysis.intervals import crossed, spread
from harness.analysis.judged import read_confirmed
from harness.analysis.load import load
from harness.analysis.statistics import found_by_rule, holm, minimum_detectable, paired

COLUMNS = (
    "width", "control", "num_searches", "gain", "low", "high", "crossed_low", "crossed_high", "least", "most", "sd",
    "spread", "p_t", "p_crossed", "holm_p", "mde", "found_80", "verdict", "seeds", "gains",
)  # fmt: skip
LEAST = 3
"""Fewer searches have no spread to speak of, and are not judged."""

Differences = Mapping[tuple[int, str], NDArray[np.float64]]
"""By width and control: distilled less control on each test example, `[examples]`, the mean over fresh seeds."""


@dataclass(frozen=True)
class Planned:
    """What is known of how searches came to be as many as they are.

    `count` is how many were asked for, 0 where that is not on record; `missing` are the seeds of those that have not
    confirmed anything, or are gone. `looks` is how often there were enough to be looked at, and more were made after.
    """

    count: int = 0
    missing: tuple[int, ...] = ()
    looks: int = 1


def planned(places: Mapping[int, Path], known: Collection[int]) -> Planned:
    """Of the folders of a study's searches, by seed; `known` are the seeds of those that confirmed something.

    Those of one `--searches N` were planned together, one that was made alone for itself.
    """
    said = {seed: manifest_at(place / "study.json") for seed, place in places.items()}
    together: dict[Any, int] = {}
    for seed in sorted(said, key=lambda seed: (said[seed].get("started_ms") or 0, seed)):
        count = said[seed].get("searches")
        plan = ("alone", seed) if count == 1 else ("together", count)
        together[plan] = together.get(plan, 0) + 1
    looks = sum(so_far >= LEAST for so_far in itertools.accumulate(together.values()))
    most = max([own.get("searches") or 0 for own in said.values()], default=0)
    first = min(said, default=0)
    missing = tuple(seed for seed in range(first, first + most) if seed not in known)
    return Planned(max(most, len(known)) if most else 0, missing, max(looks, 1))


def folders(study_dir: Path) -> dict[int, Path]:
    """The folders of the same study under its own and other seeds, by seed: `<name>` and `<name>-seed<seed>`.

    The same: in all that makes it a study but its seed, in its budget, fresh seeds and data, and in its teacher.
    """
    base = re.sub(r"-seed\d+$", "", study_dir.name)
    pattern, own, found = re.compile(rf"{re.escape(base)}(-seed\d+)?"), _facts(study_dir), {}
    for place in study_dir.parent.glob(f"{base}*"):
        if own is not None and pattern.fullmatch(place.name) and (facts := _facts(place)) and facts[1] == own[1]:
            found[facts[0]] = place
    return dict(sorted(found.items()))


def _facts(study_dir: Path) -> tuple[int, tuple[Any, ...]] | None:
    """A study's seed, and what all searches of it have in common; None where there is no study, or not begun."""
    try:
        said = manifest_at(study_dir / "study.json")
    except (OSError, ValueError):
        return None
    identity, task, teacher = (said.get(part) or {} for part in ("identity", "task", "teacher"))
    if not isinstance(identity.get("seed"), int):
        return None
    common = {name: value for name, value in identity.items() if name != "seed"}
    fresh = len(said.get("confirm_seeds") or ())
    return identity["seed"], (common, said.get("budget"), fresh, task.get("hashes"), teacher.get("key"))


def differences(study_dir: Path) -> dict[tuple[int, str], NDArray[np.float64]]:
    """What one search confirmed, as `Differences`; without the pairs of which answers are not known."""
    read = read_confirmed(study_dir, load(study_dir))
    trials = read.frames.trials
    numbers = trials[trials["role"].isin(ROLES)].set_index(["width", "role"])["number"]
    found = {}
    for width, role in numbers.index:
        pair = [read.scores.get(int(numbers.get((width, own), -1))) for own in (DISTILLED, role)]
        if role in CONTROLS and pair[0] is not None and pair[1] is not None:
            shared = pair[0].index.intersection(pair[1].index)
            if len(shared):
                found[int(width), str(role)] = (pair[0].loc[shared] - pair[1].loc[shared]).to_numpy().mean(axis=0)
    return found


def over_searches(searches: Mapping[int, Differences], plan: Planned | None = None) -> pd.DataFrame:
    """Distilled less control over several searches, by their seed: `COLUMNS`, a row for each width and control.

    `gain` is the mean over searches; `low` and `high` are its 95% t interval over searches on these test examples, the
    crossed one holds new test examples too; `least`, `most` and `sd` say how searches differ, `gains` (in points) and
    `seeds` name them. Claims are made as in `harness.analysis.confirmed.comparisons`: Holm's correction over all rows,
    of the larger p, and a gain that is at least detectable. Fewer than three searches show nothing, nor do those of a
    `plan` of which some are missing; looks before this one are corrected for (`statistics.holm`). A control that was
    plain training itself in every search has no row of its own.
    """
    plan = plan or Planned()
    known = {pair for own in searches.values() for pair in own}
    known = {pair for pair in known if not _plain_itself(pair, searches)}
    pairs = sorted(known, key=lambda pair: (pair[0], CONTROLS.index(pair[1])))
    rows = [_row(pair, {seed: own[pair] for seed, own in searches.items() if pair in own}) for pair in pairs]
    whole = ("width", "num_searches")
    text = ("control", "verdict", "seeds", "gains")
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(
        {name: "int64" if name in whole else object if name in text else float for name in COLUMNS}
    )
    larger = table[["p_t", "p_crossed"]].max(axis=1, skipna=False)
    found = [
        found_by_rule(spread, count, plan.looks**2 * len(table))
        for spread, count in zip(table["spread"], table["num_searches"], strict=True)
    ]
    table = table.assign(
        holm_p=np.array(holm(larger.tolist(), plan.looks), dtype=float), found_80=np.array(found, dtype=float)
    )
    each = zip(table["holm_p"], table["gain"], table["mde"], strict=True)
    verdicts = [NOT_SHOWN if plan.missing else verdict(*row) for row in each]
    return table.assign(verdict=np.array(verdicts, dtype=object))


def _plain_itself(pair: tuple[int, str], searches: Mapping[int, Differences]) -> bool:
    """Whether a control was plain training itself in every search that has it."""
    width, control = pair
    return control != CONTROLS[0] and all(
        (width, CONTROLS[0]) in own and np.array_equal(own[pair], own[width, CONTROLS[0]])
        for own in searches.values()
        if pair in own
    )


def _row(pair: tuple[int, str], own: Mapping[int, NDArray[np.float64]]) -> dict[str, Any]:
    """A row of `over_searches`, but for what needs all of them."""
    gains = {seed: float(difference.mean()) for seed, difference in own.items()}
    row: dict[str, Any] = {
        "width": pair[0], "control": pair[1], "num_searches": len(own), "gain": float(np.mean(list(gains.values()))),
        "least": min(gains.values()), "most": max(gains.values()), "seeds": _words(gains),
        "gains": _words(f"{100 * gain:+.2f}" for gain in gains.values()),
    }  # fmt: skip
    if len(own) < LEAST:
        return row
    table = np.stack(list(own.values()))
    found, both = paired(list(gains.values())), crossed(table)
    doubt = spread(found.sd, table)
    row |= {
        "low": found.low,
        "high": found.high,
        "sd": found.sd,
        "spread": doubt,
        "p_t": found.p_t,
        "p_crossed": both.p,
    }
    return row | {"crossed_low": both.low, "crossed_high": both.high, "mde": minimum_detectable(doubt, len(own))}


def _words(values: Any) -> str:
    return " ".join(str(value) for value in values)
