"""The Pareto front of accuracy (more is better) against size (less is better), and its hypervolume.

A study with more objectives than these two still reports this front; a new indicator is a function here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd


def front(trials: pd.DataFrame, score: str = "val_accuracy", size: str = "num_params") -> pd.DataFrame:
    """The rows that no other row dominates, small to large.

    A row is dominated by one that is no larger and no less accurate, and better in one of the two. Equal rows do not
    dominate each other: all of them stay, by number.
    """
    kept = trials.dropna(subset=[score, size])
    best = kept.groupby(size)[score].max().sort_index().astype(float)
    before = best.cummax().shift(fill_value=-np.inf)
    winners = best[best > before]
    chosen = kept[kept[size].map(winners) == kept[score]]
    return chosen.sort_values([size, "number"]).reset_index(drop=True)


def step_line(points: pd.DataFrame, end: float, score: str = "val_accuracy", size: str = "num_params") -> pd.DataFrame:
    """The best score within each size, as the corners of a step that goes on to `end`: columns `size`, `score`."""
    unique = points.drop_duplicates([size, score]).sort_values(size)
    sizes, scores = unique[size].to_numpy(dtype=float), unique[score].to_numpy(dtype=float)
    if len(sizes) == 0:
        return pd.DataFrame({size: sizes, score: scores})
    right = np.append(sizes[1:], max(end, sizes[-1]))
    corners = {size: np.column_stack([sizes, right]).ravel(), score: np.repeat(scores, 2)}
    return pd.DataFrame(corners)


def hypervolume(points: Sequence[tuple[float, float]], reference: tuple[float, float]) -> float:
    """The area of (score, size) that `points` dominate and that is better than `reference`, also (score, size)."""
    floor, ceiling = reference
    area, best = 0.0, floor
    inside = sorted({(size, score) for score, size in points if size < ceiling and score > floor})
    for size, score in inside:
        if score > best:
            area += (score - best) * (ceiling - size)
            best = score
    return area


def hypervolume_over_trials(
    trials: pd.DataFrame,
    reference: tuple[float, float],
    score: str = "val_accuracy",
    size: str = "num_params",
    order: str = "number",
) -> pd.DataFrame:
    """The hypervolume after each trial in the order of a column, with sizes in decades (log10), so that it is the area
    seen on a log axis: columns `order`, `count` (trials so far), `hypervolume`. `reference` is (score, size).
    """
    log_reference = (reference[0], float(np.log10(reference[1])))
    ordered = trials.sort_values(order, kind="stable")
    points: list[tuple[float, float]] = []
    values: list[float] = []
    for point in zip(ordered[score].astype(float), np.log10(ordered[size].astype(float)), strict=True):
        if not any(old[0] >= point[0] and old[1] <= point[1] for old in points):
            points = [old for old in points if not (point[0] >= old[0] and point[1] <= old[1])] + [point]
            values.append(hypervolume(points, log_reference))
        else:
            values.append(values[-1])
    count = np.arange(1, len(values) + 1)
    return pd.DataFrame({order: ordered[order].to_numpy(), "count": count, "hypervolume": values})


def reference_point(
    trials: pd.DataFrame, num_classes: int, teacher_size: float | None, size: str
) -> tuple[float, float]:
    """(score, size) that every useful student beats: chance accuracy, and the teacher's size.

    Without a teacher, or where a student is as large, the size is twice the largest student's.
    """
    largest = float(trials[size].max()) if len(trials) else 1.0
    if teacher_size is not None and teacher_size > largest:
        return 1 / max(num_classes, 1), float(teacher_size)
    return 1 / max(num_classes, 1), 2 * largest
