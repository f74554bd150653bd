"""Distillation against its controls on the test split, from fresh seeds that the search never used.

A role is what a confirmed trial stands for at its width; a new control is a name in `CONTROLS`. The t interval over
seeds says nothing of another training set: every seed learns from the same one (Dietterich 1998 on what that hides).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from harness.analysis.compare import paired_differences
from harness.analysis.intervals import DRAWS, bootstrap_t, crossed, outperforms, spread
from harness.analysis.load import rows_of
from harness.analysis.statistics import LEVEL, found_by_rule, holm, minimum_detectable, paired

DISTILLED = "distilled"
CONTROLS = ("ce", "smoothing", "self", "shuffled")
BETTER, WORSE, NOT_SHOWN = "better", "worse", "no difference shown"
COLUMNS = (
    "width", "control", "distilled_number", "control_number", "num_seeds", "num_diverged", "gain", "low", "high", "sd",
    "spread",
    "boot_low", "boot_high", "crossed_low", "crossed_high", "p_t", "p_crossed", "holm_p", "p_sign_flip", "p_floor",
    "p_outperforms", "outperforms_low", "outperforms_high", "mde", "found_80", "verdict", "warning",
)  # fmt: skip
COMPARED_AS = {"control": "option", "distilled_number": "chosen_number", "control_number": "option_number"}
COMPARED = ("width", "chosen", *(COMPARED_AS.get(name, name) for name in COLUMNS[1:]))
"""The columns of `options_compared`: those of `comparisons`, of the chosen option and another."""
WHOLE = ("width", "distilled_number", "control_number", "num_seeds", "num_diverged")
TEXT = ("control", "verdict", "warning")
FEW_SEEDS = 5
SIBLINGS = 3
"""Of two seeds none is the odd one."""
COLLAPSE = 0.2
FEW_EXAMPLES = 25
"""Below some 25 discordant examples, the normal approximation to McNemar's count, and so the crossed t, is poor."""

Correct = Mapping[int, NDArray[np.generic]]
_Asked = tuple[int, str, tuple[int, int]]
"""A comparison to make: width, name of the control, and the numbers of the trial and of its control."""


@dataclass(frozen=True)
class _Pair:
    """The seeds that two trials share: differences of accuracy by seed, and by seed and example where known."""

    accuracy: pd.Series[float]
    examples: NDArray[np.float64] | None
    num_diverged: int
    num_collapsed: int


def comparisons(
    trials: pd.DataFrame,
    students: pd.DataFrame,
    correct: Correct,
    draws: int = DRAWS,
    looks: int = 1,
    planned: int = 0,
) -> pd.DataFrame:
    """Distilled less control on the test split, a row for each width and control role that has both: `COLUMNS`. A
    control that is the trial of plain training too has no row of its own.

    `trials` has number, role, width; `students` number, seed, test_accuracy and, where known, status; `correct` maps a
    number to its right answers, [seeds, examples], rows in the order of its students. Accuracies are fractions.

    A claim, `"better"` or `"worse"`, has to hold on new seeds and on new test examples: `holm_p` is Holm's correction,
    over the whole table, of the larger of `p_t` and `p_crossed`, and has to be below 5%. (So the crossed interval
    excludes zero. That interval alone is for one comparison, not for twenty.) And the gain has to be at least `mde`,
    what one such test would find with 80% power. `found_80` is what this whole rule finds with 80% power or more
    (`harness.analysis.statistics.found_by_rule`). Both are from the row's own `spread`: pooled over a width, one
    unsteady control would silence the rest. `spread` is the SD of the differences over seeds, or, where test examples
    leave more doubt, sqrt(seeds) times the crossed standard error.

    `looks` is how often the comparisons were looked at, each time with more seeds (see `holm`); `planned` how many rows
    there will be when all that is to be confirmed is: Holm's correction is for so many from the start.

    A student that diverged counts with the accuracy of its uniform guess, on every example alike. `warning` says what
    makes a row weak: few seeds, few examples, students that diverged or collapsed.
    """
    role = trials[trials["role"].isin((DISTILLED, *CONTROLS))].set_index(["width", "role"])["number"].sort_index()
    if not role.index.is_unique:
        raise ValueError(
            f"more than one trial for a width and role: {role[role.index.duplicated(keep=False)].to_dict()}"
        )
    missing = students.loc[students["test_accuracy"].isna(), "number"].unique().tolist()
    if missing:  # left out, it would flatter its trial
        raise ValueError(f"trials {missing} have students without a test accuracy; a diverged one has that of guessing")
    asked: list[_Asked] = []
    for width in sorted(trials["width"].unique()):
        for control in CONTROLS:
            if (width, DISTILLED) in role.index and (width, control) in role.index:
                numbers = int(role[width, DISTILLED]), int(role[width, control])
                if control != CONTROLS[0] and role.get((width, CONTROLS[0])) == numbers[1]:
                    continue  # it is plain training itself
                asked.append((int(width), control, numbers))
    return _judged(_measured(asked, students, correct, draws), looks, planned)


def option_comparisons(
    trials: pd.DataFrame,
    students: pd.DataFrame,
    correct: Correct,
    draws: int = DRAWS,
    looks: int = 1,
    planned: int = 0,
) -> pd.DataFrame:
    """As `comparisons`, each option of the choice that shares a study's trials equally less plain training of its
    width: with a column `option`, a row for each option and width. Holm's correction is over all of them, and over so
    many as are `planned`."""
    plain = trials[trials["role"] == "ce"].set_index("width")["number"]
    asked: list[_Asked] = [
        (int(own["width"]), str(own["option"]), (int(own["number"]), int(plain[own["width"]])))
        for own in rows_of(trials[trials["role"] == "option"])
        if own["width"] in plain.index
    ]
    judged = _judged(_measured(asked, students, correct, draws), looks, planned)
    judged.insert(0, "option", judged["control"])
    judged = judged.assign(control=CONTROLS[0])
    return judged.sort_values(["width", "gain"], ascending=[True, False], kind="stable").reset_index(drop=True)


def options_compared(
    trials: pd.DataFrame,
    students: pd.DataFrame,
    correct: Correct,
    draws: int = DRAWS,
    looks: int = 1,
    planned: int = 0,
) -> pd.DataFrame:
    """The option that validation chose less each other option, a row for each width and other option: `COMPARED`.

    `trials`, `students`, `correct` and the statistics are those of `comparisons`, with a column `option` for the role
    `"option"`. The chosen option is that of the trial in the role `"distilled"`: fixed by the search's validation, so
    it may be shown `"worse"` than another on the test split. All pairs of many options would leave each little power,
    and the winner of the test as the reference would claim too much. Holm's correction is over all rows. What is least
    behind the chosen option on the test split stands first; `looks` and `planned` are those of `comparisons`. A width
    has no row where its chosen option was not confirmed, or no other.
    """
    options = trials[trials["role"] == "option"]
    distilled = trials[trials["role"] == DISTILLED].set_index("width")["number"]
    reference = options[options["number"] == options["width"].map(distilled)].set_index("width")
    asked: list[_Asked] = []
    for own in rows_of(options[options["width"].isin(reference.index)]):
        numbers = int(reference.loc[own["width"], "number"]), int(own["number"])
        if numbers[0] != numbers[1]:
            asked.append((int(own["width"]), str(own["option"]), numbers))
    judged = _judged(_measured(asked, students, correct, draws), looks, planned).rename(columns=COMPARED_AS)
    judged.insert(1, "chosen", judged["width"].map(reference["option"]).astype(object))
    return judged.sort_values(["width", "gain", "option"], kind="stable").reset_index(drop=True)


def scored(number: int, students: pd.DataFrame, correct: Correct) -> pd.DataFrame | None:
    """A trial's answers as scores, [seeds, examples], indexed by seed; None where `correct` lacks the trial.

    1 for right, 0 for wrong; a diverged student scores its uniform guess on every example. Raises `ValueError` where
    the answers are not those of the students.
    """
    if number not in correct:
        return None
    own = students[students["number"] == number]
    scores = np.asarray(correct[number]).astype(float)
    if scores.ndim != 2 or len(scores) != len(own):
        raise ValueError(f"trial {number}: answers of shape {scores.shape} for {len(own)} students")
    accuracy = own["test_accuracy"].to_numpy(dtype=float)
    diverged = has_diverged(own).to_numpy()
    scores[diverged] = accuracy[diverged, None]
    away = np.abs(scores.mean(axis=1) - accuracy)
    if (away > 0.5 / scores.shape[1] + 1e-6).any():
        worst = int(away.argmax())
        raise ValueError(
            f"trial {number}: its answers for seed {own['seed'].iloc[worst]} are right on {scores[worst].mean():.5f} "
            f"of the test examples, its record says {accuracy[worst]:.5f}"
        )
    return pd.DataFrame(scores, index=pd.Index(own["seed"].to_numpy(), name="seed"))


def _pair(students: pd.DataFrame, correct: Correct, numbers: tuple[int, int]) -> _Pair:
    accuracy = paired_differences(students, *numbers, metric="test_accuracy")
    shared = students[students["number"].isin(numbers) & students["seed"].isin(accuracy.index)]
    num_diverged = int(has_diverged(shared).sum())
    num_collapsed = sum(collapsed(own["test_accuracy"]) for _, own in shared[~has_diverged(shared)].groupby("number"))
    first, second = (scored(number, students, correct) for number in numbers)
    if first is None or second is None:
        return _Pair(accuracy, None, num_diverged, num_collapsed)
    examples = (first.loc[accuracy.index] - second.loc[accuracy.index]).to_numpy()
    return _Pair(accuracy, examples, num_diverged, num_collapsed)


def collapsed(accuracy: pd.Series[float]) -> int:
    """How many of a configuration's seeds came to nothing where their siblings, two or more, have learned.

    A gap parts them from the others, two or more: from one seed to the next worse the accuracy falls by half, or by
    `COLLAPSE`, since half may be below chance. A wide spread without a gap is none. The mean and the SD of the
    differences then say more of the collapse than of the rest.
    """
    ordered = np.sort(accuracy.dropna().to_numpy(dtype=float))[::-1]
    falls = ordered[:-1] - ordered[1:] > np.minimum(COLLAPSE, ordered[:-1] / 2)
    found = np.flatnonzero(falls[SIBLINGS - 2 :])
    return int(len(ordered) - found[0] - SIBLINGS + 1) if len(found) else 0


def outlying(differences: NDArray[np.floating]) -> bool:
    """Whether one of the differences is too far from the others to be normal: Grubbs' test (1969) at the 1% level."""
    count = len(differences)
    if count < FEW_SEEDS or not (sd := float(differences.std(ddof=1))) > 1e-12:
        return False
    farthest = float(np.abs(differences - differences.mean()).max()) / sd
    t = float(stats.t.ppf(1 - 0.01 / (2 * count), count - 2))
    return farthest > (count - 1) / math.sqrt(count) * math.sqrt(t**2 / (count - 2 + t**2))


def has_diverged(students: pd.DataFrame) -> pd.Series[bool]:
    """Which students diverged, as far as it is known."""
    if "status" not in students:
        return pd.Series(False, index=students.index)
    return students["status"] == "diverged"


def _measured(asked: Sequence[_Asked], students: pd.DataFrame, correct: Correct, draws: int) -> pd.DataFrame:
    """A row for each pair that shares a seed: `COLUMNS`, without what needs all rows."""
    rows = []
    for width, control, numbers in asked:
        pair = _pair(students, correct, numbers)
        if len(pair.accuracy):
            names = {"distilled_number": numbers[0], "control_number": numbers[1]}
            rows.append({"width": width, "control": control, **names, **_row(pair, draws)})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(pair: _Pair, draws: int) -> dict[str, Any]:
    """What `comparisons` has in a row, but for what needs all of them."""
    differences = [float(value) for value in pair.accuracy]
    found, boot, won = paired(differences), bootstrap_t(differences, draws), outperforms(differences)
    examples = np.empty((0, 0)) if pair.examples is None else pair.examples
    both = crossed(examples).within(-1, 1)
    return {
        "num_seeds": found.num_seeds, "num_diverged": pair.num_diverged, "gain": found.mean, "low": found.low,
        "high": found.high, "sd": found.sd, "spread": spread(found.sd, examples), "boot_low": boot.low,
        "boot_high": boot.high, "crossed_low": both.low, "crossed_high": both.high, "p_t": found.p_t,
        "p_crossed": both.p, "p_sign_flip": found.p_sign_flip, "p_floor": found.p_floor, "p_outperforms": won.mean,
        "outperforms_low": won.low, "outperforms_high": won.high, "warning": _warning(pair, found.sd, found.p_floor),
    }  # fmt: skip


def _warning(pair: _Pair, sd: float, floor: float) -> str:
    """What makes the row weak, in words; empty where nothing does."""
    count = len(pair.accuracy)
    said = []
    if count == 1:
        said.append("one seed: no interval")
    elif count < FEW_SEEDS:
        said.append(f"only {count} seeds")
    if floor > LEVEL:
        said.append(f"the sign flip cannot go below {floor:.4g}")
    if count > 1 and sd <= 1e-12:
        said.append("the seeds agree exactly: no estimate of their spread")
    if pair.num_diverged:
        said.append(f"{pair.num_diverged} of {2 * count} students diverged and count as guessing")
    if pair.num_collapsed:
        said.append(f"{pair.num_collapsed} of {2 * count} students collapsed: a gap parts them from their siblings")
    if outlying(pair.accuracy.to_numpy()):
        said.append("one seed's difference is far from all others: the mean and the spread rest on it")
    if pair.examples is None:
        said.append("no answers by example: no crossed interval, and so no claim")
    else:
        discordant = float(np.median(np.count_nonzero(pair.examples, axis=1)))
        if discordant < FEW_EXAMPLES:
            said.append(f"the two differ on {discordant:g} test examples a seed, fewer than {FEW_EXAMPLES}")
    return "; ".join(said)


def _judged(table: pd.DataFrame, looks: int, planned: int = 0) -> pd.DataFrame:
    """Add what needs the whole table: Holm's p, the difference that the rule finds, and the verdict.

    The family of Holm's correction has `planned` rows where that is more: those to come count from the start.
    """
    kinds = {name: "int64" if name in WHOLE else object if name in TEXT else float for name in COLUMNS}
    judged = table.astype(kinds)  # an empty table's, too
    spreads = list(zip(judged["spread"], judged["num_seeds"], strict=True))
    mde = [minimum_detectable(spread, count) for spread, count in spreads]
    larger, rows = judged[["p_t", "p_crossed"]].max(axis=1, skipna=False), max(len(judged), planned)
    found_80 = [
        found_by_rule(spread, count, looks**2 * rows) if known else math.nan
        for (spread, count), known in zip(spreads, larger.notna(), strict=True)
    ]
    judged = judged.assign(
        holm_p=np.array(holm(larger.tolist(), looks, planned), dtype=float), mde=np.array(mde, dtype=float),
        found_80=np.array(found_80, dtype=float),
    )  # fmt: skip
    verdicts = [
        verdict(p, gain, least) for p, gain, least in zip(judged["holm_p"], judged["gain"], judged["mde"], strict=True)
    ]
    return judged.assign(verdict=verdicts).astype(kinds)


def verdict(holm_p: float, gain: float, mde: float) -> str:
    """What a comparison shows. What is not known (NaN) shows nothing."""
    if not (holm_p < LEVEL and abs(gain) >= mde):
        return NOT_SHOWN
    return BETTER if gain > 0 else WORSE
