"""Confirmed studies in the shape that `comparisons` takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from harness.analysis.confirmed import CONTROLS, comparisons
from harness.analysis.intervals import crossed_error
from harness.analysis.statistics import LEVEL, holm, minimum_detectable
from tests.simulated import MIXED, answers

WIDTHS = (2, 4, 8, 16, 32)
ROLES = ("distilled", *CONTROLS)


@dataclass(frozen=True)
class Confirmed:
    """What `comparisons` takes."""

    trials: pd.DataFrame
    students: pd.DataFrame
    correct: dict[int, NDArray[np.bool_]]

    def table(self) -> pd.DataFrame:
        return comparisons(self.trials, self.students, self.correct, draws=500)


def confirmed(right: NDArray[np.bool_], widths: Sequence[int] = WIDTHS, roles: Sequence[str] = ROLES) -> Confirmed:
    """From right answers [width, role, seeds, examples]; trial numbers count up from 0."""
    num_seeds = right.shape[2]
    names = [(width, role) for width in widths for role in roles]
    correct = dict(enumerate(right.reshape(-1, *right.shape[2:])))
    trials = pd.DataFrame(
        [(n, role, width) for n, (width, role) in enumerate(names)], columns=["number", "role", "width"]
    )
    students = pd.DataFrame({
        "number": np.repeat(list(correct), num_seeds), "seed": np.tile(np.arange(100, 100 + num_seeds), len(correct)),
        "test_accuracy": np.concatenate([table.mean(axis=1) for table in correct.values()]), "status": "ok",
    })  # fmt: skip
    return Confirmed(trials, students, correct)


def study(gain: float = 0.0, seeds: int = 10, examples: int = 500, widths: Sequence[int] = WIDTHS) -> Confirmed:
    rng = np.random.default_rng(3)
    ability = (1 + gain, 1, 1, 1, 1)
    return confirmed(answers(rng, MIXED, ability, len(widths), seeds, examples).right, widths)


def shown(values: NDArray[np.generic], looks: int = 1) -> NDArray[np.bool_]:
    """Which rows of each study's table name a difference, [studies, rows], by the rule of `comparisons`, for many
    studies at once: `values` [studies, rows, seeds, examples] are the differences."""
    by_seed, seeds = values.mean(axis=-1), values.shape[-2]
    gain = np.abs(by_seed.mean(axis=-1))
    error, _ = crossed_error(values)
    own = by_seed.std(axis=-1, ddof=1) / np.sqrt(seeds)
    with np.errstate(divide="ignore", invalid="ignore"):  # seeds that agree exactly show nothing
        p_t = np.where(own > 1e-12, 2 * stats.t.sf(gain / own, seeds - 1), np.nan)
    larger = np.maximum(p_t, 2 * stats.t.sf(gain / error, seeds - 1))
    adjusted = np.array([holm(row) for row in larger.tolist()]) * looks**2
    least = minimum_detectable(1.0, seeds) * np.sqrt(seeds) * np.fmax(own, error)
    found: NDArray[np.bool_] = (adjusted < LEVEL) & (gain >= least)
    return found
