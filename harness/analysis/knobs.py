"""What the report says of the knobs beyond their importance over all widths, worked out at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from harness.analysis.importance import Evaluate, importance_by_width
from harness.analysis.indifference import indifference, robust
from harness.analysis.interactions import Interactions, interactions
from harness.space import Dimension


@dataclass(frozen=True)
class Knobs:
    """Importance at each width, with a sentence for each that is left out; interactions; what is as good as the best of
    a width; and cells of knobs by how far they fall short at their worst width, empty with the reason in `no_robust`.
    """

    importance: pd.DataFrame
    importance_missing: tuple[str, ...]
    interactions: Interactions
    indifference: pd.DataFrame
    robust: pd.DataFrame
    no_robust: str


def judge_knobs(trials: pd.DataFrame, space: Mapping[str, Dimension], evaluate: Evaluate) -> Knobs:
    """All of it; `evaluate` is `harness.importances.importances` with few trees, since it is run once a width."""
    importance, missing = importance_by_width(trials, space, evaluate)
    cells, reason = robust(trials, space)
    found = interactions(trials, space)
    return Knobs(importance, missing, found, indifference(trials), cells, reason)
