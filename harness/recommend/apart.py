"""How two confirmed configurations differ on the test split, and how many fresh seeds would settle it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from harness.analysis.confirmed import NOT_SHOWN, scored
from harness.analysis.intervals import crossed, variance_parts
from harness.analysis.judged import Confirmed, answers_of
from harness.analysis.load import StudyData, rows_of
from harness.analysis.statistics import found_by_rule

MOST_SEEDS = 1000
AS_GOOD = 0.005
"""Half a point: where a difference is shown to be less, either will do."""
PAIRS = (("distilled_number", "control_number"), ("chosen_number", "option_number"))
"""The columns that name the two of a comparison, in the tables of `harness.analysis.judged.Confirmed`."""


@dataclass(frozen=True)
class Apart:
    """The first of two configurations less the second: mean test accuracy with its crossed 95% interval, fractions.

    `row` is the report's own comparison of the two, None where it has none; `num_rows` are the comparisons that
    Holm's correction of it is over, or would be with these two as one more. `next_seeds` is how many fresh
    seeds would show a difference as seen, by the report's rule for so many comparisons and one more look, with
    80% power: 0 where those that there are do, None where no number of seeds would. `seeds_agree` says that all
    have the same difference, and so nothing of their spread.
    """

    gain: float
    low: float
    high: float
    row: Mapping[str, Any] | None
    num_rows: int
    next_seeds: int | None
    seeds_agree: bool = False

    @property
    def is_shown(self) -> bool:
        """Whether the report shows which of the two is the better."""
        return self.row is not None and self.row["verdict"] != NOT_SHOWN

    @property
    def either_will_do(self) -> bool:
        """Whether the difference is shown to be less than `AS_GOOD`, whichever way."""
        return -AS_GOOD < self.low <= self.high < AS_GOOD


def apart(study_dir: Path, data: StudyData, confirmed: Confirmed, numbers: tuple[int, int]) -> Apart:
    """How the first of two confirmed configurations, both of which have draws, differs from the second."""
    values = _differences(study_dir, data, confirmed, numbers)
    found, (row, num_rows) = crossed(values), _row(confirmed, numbers)
    seeds = seeds_to_tell(values, max(len(confirmed.looks), 1), num_rows)
    return Apart(found.mean, found.low, found.high, row, num_rows, seeds, _agree(values))


def _differences(study_dir: Path, data: StudyData, confirmed: Confirmed, numbers: Sequence[int]) -> NDArray[Any]:
    """Scores of the first less those of the second, [seeds, examples]."""
    correct = answers_of(study_dir, data, numbers)
    first, second = (scored(number, confirmed.students, correct) for number in numbers)
    assert first is not None and second is not None  # or they had no draws
    found: NDArray[Any] = (first - second.loc[first.index]).to_numpy()
    return found


def _row(confirmed: Confirmed, numbers: tuple[int, int]) -> tuple[Mapping[str, Any] | None, int]:
    """The report's comparison of these two, and of how many comparisons it is one."""
    families = (
        (confirmed.comparisons, confirmed.num_tests),
        (confirmed.options_compared, len(confirmed.options_compared)),
        (confirmed.by_option, len(confirmed.by_option)),
        (confirmed.others_against_plain, len(confirmed.others_against_plain)),
    )
    for table, num_rows in families:
        for row in rows_of(table):
            if any({row.get(first), row.get(second)} == set(numbers) for first, second in PAIRS):
                return row, num_rows
    return None, confirmed.num_tests + 1


def _agree(differences: NDArray[Any]) -> bool:
    """Whether every seed has the same difference: nothing is known of their spread then."""
    return len(differences) < 2 or float(differences.mean(axis=1).std(ddof=1)) <= 1e-12


def seeds_to_tell(differences: NDArray[Any], looks: int = 1, num_rows: int = 1) -> int | None:
    """How many fresh seeds would show this mean difference of [seeds, examples], as one of `num_rows` comparisons, by
    the report's rule with 80% power (`harness.analysis.statistics.found_by_rule`); 0 where these do.

    More seeds are one look more than there were, and the rule is harder for it. From the crossed components of
    variance: seeds' part shrinks with seeds, examples' part does not. None where `MOST_SEEDS` are too few: a
    larger test split is needed, or they are as good; and where the seeds agree exactly, so that nothing is
    known of their spread.
    """
    count, examples = differences.shape
    mean = abs(float(differences.mean()))
    if examples < 2 or mean == 0 or _agree(differences):
        return None
    seeds_part, of_examples = (float(part) for part in variance_parts(differences))

    def suffices(seeds: int, looks: int) -> bool:
        spread = math.sqrt(count * seeds_part + seeds * of_examples)
        return found_by_rule(spread, seeds, looks**2 * num_rows) <= mean

    if suffices(count, looks):
        return 0
    if not suffices(MOST_SEEDS, looks + 1):
        return None
    few, enough = count, MOST_SEEDS
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if suffices(middle, looks + 1) else (middle, enough)
    return enough
