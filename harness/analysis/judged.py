"""What was confirmed on fresh seeds, read and judged: comparisons, recommendations, the audit, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.analysis import audit
from harness.analysis.answers import Answers, read_answers
from harness.analysis.calibration import class_gains, named, reliability, with_holm
from harness.analysis.chosen import FRONT, OPTION, PLAIN_ROLE, ROLES, confirmed_in_roles, is_plain_itself
from harness.analysis.confirmed import (
    CONTROLS,
    DISTILLED,
    Correct,
    comparisons,
    has_diverged,
    option_comparisons,
    options_compared,
    scored,
)
from harness.analysis.intervals import crossed_share
from harness.analysis.language import Losses
from harness.analysis.latency import read_latency
from harness.analysis.load import Frames, StudyData, is_plain, rows_of
from harness.analysis.looks import how_often, num_planned, still_to_come
from harness.analysis.two_level import accuracy_draws, p_front, recommendations, within

ELIGIBLE = (DISTILLED, "front", OPTION, *(role for role in ROLES if role not in (DISTILLED, "shuffled")))
"""The roles that may be recommended: all but a teacher that is wrong on purpose."""


@dataclass(frozen=True)
class Confirmed:
    """The confirm stage of a study; every frame is empty where there was none.

    `trials` has a row for each configuration and role (see `harness.analysis.chosen`), with `test_low` and `test_high`,
    the 95% interval of its test accuracy over seeds and test examples, `p_front`, and `gap_closed`, its share of the
    way from plain training to the teacher, missing where plain training's interval holds the teacher. `comparisons` and
    `by_option` are of distilled less control, and `options_compared` of the option that validation chose less every
    other.
    `recommended` has a row for each of the study's size budgets, else for each size that was confirmed; `audit` says
    what choosing on test would have claimed. `wrote` are the tokens of language models' samples, by trial. `classes`
    are gains by class at each width, `reliability` tables of confidence by width and role. `left_out` are the trials
    that `draws` lacks, and why.
    `losses` are the test losses by seed and example in nats of a language model's trials, by number.
    `others_against_plain` is as `by_option`, of what else may be recommended. `chance` is the accuracy of always
    saying the commonest class, as far as it is known, else NaN. `looks` are the numbers of fresh seeds of each run of
    the stage that trained something, first to last: two or more mean that seeds or search trials were added, perhaps
    after a look at what was shown before, and p-values are corrected for that (see
    `harness.analysis.statistics.holm`). `num_planned` are the comparisons that there are when all is confirmed.
    """

    trials: pd.DataFrame
    students: pd.DataFrame
    comparisons: pd.DataFrame
    by_option: pd.DataFrame
    options_compared: pd.DataFrame
    recommended: pd.DataFrame
    audit: pd.DataFrame
    classes: pd.DataFrame
    reliability: pd.DataFrame
    draws: pd.DataFrame
    wrote: Mapping[int, Sequence[int]]
    losses: Losses
    left_out: Mapping[int, str]
    others_against_plain: pd.DataFrame
    chance: float
    looks: Sequence[int]
    num_planned: int = 0

    @property
    def num_tests(self) -> int:
        """How many comparisons Holm's correction of `comparisons` is over: those to come count from the start."""
        return max(len(self.comparisons), self.num_planned)

    @property
    def num_seeds(self) -> int:
        """How many seeds each configuration has; 0 where nothing was confirmed."""
        return int(self.trials["num_seeds"].min()) if len(self.trials) else 0


@dataclass(frozen=True)
class Answered:
    """What was confirmed, in its roles, with the answers of its trials by number, and why others are `lost`.

    `correct` are right answers, or shares of an example's labels, [seeds, examples]; `scores` the same as tables by
    seed, in which a diverged student has its uniform guess (see `harness.analysis.confirmed.scored`).
    """

    frames: Frames
    answers: Mapping[int, Answers]
    lost: Mapping[int, str]
    correct: Correct
    scores: Mapping[int, pd.DataFrame]


def read_confirmed(study_dir: Path, data: StudyData) -> Answered:
    """Read what was confirmed of a study, with what its students answered on the test split."""
    frames = confirmed_in_roles(data)
    answers, lost = read_answers(study_dir, sorted({int(number) for number in frames.trials["number"]}))
    correct = _by_example(data, answers)
    scores = {number: table for number in correct if (table := scored(number, frames.students, correct)) is not None}
    return Answered(frames, answers, lost, correct, scores)


def _by_example(data: StudyData, answers: Mapping[int, Answers]) -> Correct:
    return {number: own.by_example(_num_texts(data)) for number, own in answers.items()}


def answers_of(study_dir: Path, data: StudyData, numbers: Sequence[int]) -> Correct:
    """Right answers of these confirmed trials, or shares of an example's labels, [seeds, examples]."""
    return _by_example(data, read_answers(study_dir, numbers)[0])


def judge_confirmed(study_dir: Path, data: StudyData) -> Confirmed:
    """Read what was confirmed and judge it. What a trial answered may be missing: then what needs it is."""
    read = read_confirmed(study_dir, data)
    frames, answers, correct, scores = read.frames, read.answers, read.correct, read.scores
    trials, students = frames.trials, frames.students
    one_each = trials[trials["role"].isin(ROLES)]
    draws = _draws(scores)
    looks, planned, to_come = how_often(data), num_planned(data), still_to_come(data)
    times = max(len(looks), 1)
    trials = trials.join(read_latency(study_dir), on="width")
    other_seeds = {
        number: f"it has {len(table)} seeds, and others have more"
        for number, table in scores.items()
        if number not in draws
    }
    return Confirmed(
        trials=_with_intervals(trials, scores, draws),
        students=students,
        comparisons=comparisons(one_each, students, correct, looks=times, planned=planned),
        by_option=option_comparisons(trials, students, correct, looks=times, planned=to_come.by_option),
        options_compared=options_compared(trials, students, correct, looks=times, planned=to_come.options_compared),
        recommended=_recommended(trials, draws, data.size_budgets),
        audit=audit.choices(frames.curves, trials.drop_duplicates("number")),
        classes=named(
            _classes(one_each, students, answers, times, to_come.widths),
            (data.manifest.get("task") or {}).get("classes") or (),
        ),
        reliability=_reliability(one_each, students, answers),
        draws=draws,
        wrote={number: own.sample[0].tolist() for number, own in answers.items() if own.sample is not None},
        losses=_losses(data, answers),
        left_out={**read.lost, **other_seeds},
        others_against_plain=_others_against_plain(trials, students, correct, times, to_come.others),
        chance=_chance(data, answers),
        looks=looks,
        num_planned=planned,
    )


def _losses(data: StudyData, answers: Mapping[int, Answers]) -> Losses:
    if not data.characters_a_label:
        return {}
    found = {number: own.losses_by_example(_num_texts(data)) for number, own in answers.items()}
    return {number: losses for number, losses in found.items() if losses is not None}


def _num_texts(data: StudyData) -> int:
    """How many examples the test split has, each of which may have several labels; 0 where it is not known."""
    return int(((data.manifest.get("task") or {}).get("sizes") or {}).get("test") or 0)


def _chance(data: StudyData, answers: Mapping[int, Answers]) -> float:
    for own in answers.values():
        return float(np.unique(own.labels, return_counts=True)[1].max() / own.labels.size)
    classes = (data.manifest.get("task") or {}).get("num_classes")
    return 1 / classes if classes else np.nan


def weakness(confirmed: Confirmed, row: Mapping[str, Any]) -> str:
    """What speaks against a configuration as such, in words: it is at chance, students diverged; mostly empty."""
    students = confirmed.students[confirmed.students["number"] == row["number"]]
    num_diverged = int((students["status"] == "diverged").sum())
    least = row["test_accuracy"] if pd.isna(row["test_low"]) else row["test_low"]
    said = []
    if least <= confirmed.chance:
        said.append(f"not shown to be above chance: always the commonest class is {100 * confirmed.chance:.2f}%")
    if num_diverged:
        said.append(f"{num_diverged} of its {len(students)} students diverged and count as guessing")
    return "; ".join(said)


def _others_against_plain(
    trials: pd.DataFrame, students: pd.DataFrame, correct: Correct, looks: int, planned: int
) -> pd.DataFrame:
    """Each eligible configuration that `comparisons` and `by_option` leave out, less plain training of its width."""
    plain = trials["role"] == PLAIN_ROLE
    others = trials["role"].isin(("smoothing", "self")) | ((trials["role"] == FRONT) & ~is_plain(trials))
    others &= ~is_plain_itself(trials)
    named = trials[others].assign(option=trials["role"], role=OPTION)
    return option_comparisons(pd.concat([named, trials[plain]]), students, correct, looks=looks, planned=planned)


def _draws(scores: Mapping[int, pd.DataFrame]) -> pd.DataFrame:
    """Draws of test accuracy of the configurations that have most seeds in common."""
    if not scores:
        return pd.DataFrame()
    shape = max((table.shape for table in scores.values()), key=lambda shape: shape[0])
    return accuracy_draws({number: table.to_numpy() for number, table in scores.items() if table.shape == shape})


def _with_intervals(trials: pd.DataFrame, scores: Mapping[int, pd.DataFrame], draws: pd.DataFrame) -> pd.DataFrame:
    found = {number: crossed_share(table.to_numpy()) for number, table in scores.items()}
    bounds = [
        (found[n].low, found[n].high) if n in found else (np.nan, np.nan) for n in (int(n) for n in trials["number"])
    ]
    low, high = np.array(bounds, dtype=float).reshape(-1, 2).T
    sizes = {int(number): float(size) for number, size in zip(trials["number"], trials["num_params"], strict=True)}
    front = p_front(draws, sizes) if len(draws) else pd.Series(dtype=float)
    table = trials.assign(test_low=low, test_high=high, p_front=trials["number"].map(front))
    if trials.empty:
        return table.assign(gap_closed=np.array([], dtype=float))
    plain = table[table["role"] == PLAIN_ROLE].set_index("width")
    base, above = (trials["width"].map(plain[name]).astype(float) for name in ("test_accuracy", "test_high"))
    teacher = trials["test_teacher_accuracy"]
    gap = (teacher - base).where(teacher > above)
    return table.assign(gap_closed=(trials["test_accuracy"] - base) / gap)


def eligible(trials: pd.DataFrame, draws: pd.DataFrame) -> pd.DataFrame:
    """The confirmed configurations that may be recommended, each once; of equals the first is taken, so those that need
    no teacher stand first."""
    kept = trials[trials["role"].isin(ELIGIBLE) & trials["number"].isin(draws.columns)].drop_duplicates("number")
    alone = is_plain(kept) | kept["role"].isin(CONTROLS[:2])
    return pd.concat([kept[alone], kept[~alone]])


def _recommended(trials: pd.DataFrame, draws: pd.DataFrame, budgets: Sequence[int]) -> pd.DataFrame:
    """What validation recommends within each budget, by default each size, and what the test split says of that."""
    kept = eligible(trials, draws)
    if kept.empty:
        return recommendations(pd.DataFrame(index=range(1)), {}, [])
    sizes = {int(row["number"]): float(row["num_params"]) for row in rows_of(kept)}
    score = {int(row["number"]): float(row["val_accuracy"]) for row in rows_of(kept)}
    return recommendations(draws[list(sizes)], sizes, budgets or sorted(set(sizes.values())), score)


def ranked(confirmed: Confirmed, sizes: Mapping[int, float], budget: float) -> pd.DataFrame:
    """The eligible configurations within a budget, best on validation first: columns of `two_level.within`, and
    `val_accuracy`; indexed by number. `sizes` may be of any kind, as parameters, or milliseconds."""
    kept = eligible(confirmed.trials, confirmed.draws).set_index("number")
    known = [number for number in kept.index if int(number) in sizes]
    table = within(confirmed.draws[known], sizes, budget)
    score = kept["val_accuracy"].reindex(table.index).astype(float).round(12)
    table = table.assign(val_accuracy=score, size=[sizes[int(number)] for number in table.index])
    return table.sort_values(["val_accuracy", "size"], ascending=[False, True], kind="stable")


def against_plain(confirmed: Confirmed, number: int) -> Mapping[str, Any] | None:
    """The comparison of a confirmed trial with plain training of its width; None where there is none."""
    for table in (confirmed.comparisons, confirmed.by_option, confirmed.others_against_plain):
        own = table[(table["distilled_number"] == number) & (table["control"] == PLAIN_ROLE)]
        if len(own):
            return rows_of(own)[0]
    return None


def _classes(
    trials: pd.DataFrame, students: pd.DataFrame, answers: Mapping[int, Answers], looks: int, widths: int = 0
) -> pd.DataFrame:
    """Gains by class; `widths` are those that there will be, where more are to come."""
    parts = []
    for width, own in trials.groupby("width"):
        roles = own.set_index("role")["number"]
        numbers = [int(roles.get(role, -1)) for role in (DISTILLED, PLAIN_ROLE)]
        if not all(number in answers for number in numbers):
            continue
        first, second = (_by_label(answers[number], students[students["number"] == number]) for number in numbers)
        if first.shape == second.shape:
            parts.append(class_gains(first, second, answers[numbers[0]].labels).assign(width=width))
    if not parts:
        return pd.DataFrame(columns=["width"])
    return with_holm(pd.concat(parts, ignore_index=True), looks, widths * max(map(len, parts)))


def _by_label(own: Answers, students: pd.DataFrame) -> NDArray[np.float64]:
    """Right answers label by label, [seeds, labels]; a diverged student has its uniform guess."""
    scores, diverged = own.correct.astype(float), has_diverged(students).to_numpy()
    scores[diverged] = students["test_accuracy"].to_numpy(dtype=float)[diverged, None]
    return scores


def _reliability(trials: pd.DataFrame, students: pd.DataFrame, answers: Mapping[int, Answers]) -> pd.DataFrame:
    """Of the students that did not diverge: of the others nobody knows a confidence."""
    parts = []
    for row in rows_of(trials[trials["role"].isin((DISTILLED, PLAIN_ROLE))]):
        own = answers.get(int(row["number"]))
        its = students[students["number"] == row["number"]]
        sound = ~has_diverged(its).to_numpy()
        if own is not None and sound.any():
            table = reliability(own.confidence[sound], own.predicted[sound], own.labels)
            ece = float(its["test_ece"].to_numpy(dtype=float)[sound].mean())
            parts.append(table.assign(width=row["width"], role=row["role"], ece=ece, num_diverged=int((~sound).sum())))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["width", "role"])
