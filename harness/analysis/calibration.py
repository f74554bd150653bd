"""How far confidence is right, and on which classes distillation gains. A further measure is a function here.

Everywhere `p_max` [seeds, examples] is the probability of the predicted class, `predicted` [seeds, examples] that
class, and `labels` [examples] the true one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.analysis.intervals import crossed
from harness.analysis.statistics import holm, paired

BINS = 15
CLASS_COLUMNS = (
    "label", "num_examples", "distilled_accuracy", "control_accuracy", "num_seeds", "gain", "low", "high",
    "crossed_low", "crossed_high", "p_t", "p_crossed",
)  # fmt: skip

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]


def reliability(p_max: Floats, predicted: Ints, labels: Ints, bins: int = BINS) -> pd.DataFrame:
    """A row for each of equally wide bins of confidence, over all seeds and examples together.

    Columns `bin` (from 0), `low`, `high` (a confidence on an edge is in the bin below it), `count`, `mean_confidence`
    and `accuracy`; the last two are NaN for an empty bin.
    """
    which, right = _bin(p_max, bins).ravel(), _right(predicted, labels).ravel()
    count = np.bincount(which, minlength=bins)
    over = np.where(count > 0, count, np.nan)
    return pd.DataFrame({
        "bin": np.arange(bins), "low": np.arange(bins) / bins, "high": np.arange(1, bins + 1) / bins, "count": count,
        "mean_confidence": np.bincount(which, p_max.astype(float).ravel(), bins) / over,
        "accuracy": np.bincount(which, right.astype(float), bins) / over,
    })  # fmt: skip


def class_gains(distilled: Floats, control: Floats, labels: Ints) -> pd.DataFrame:
    """Distilled less control on the test examples of each class, from paired scores [seeds, examples].

    A score is 1 where the answer is right, else 0, and a diverged student's its uniform guess.

    A row a class: `CLASS_COLUMNS`, which leave Holm's correction to whoever has the classes of all widths. `low` and
    `high` are the t interval over seeds on these examples. A class has few, so what would be gained on others of its
    kind is the crossed interval's to say.
    """
    rows = []
    for label in np.unique(labels):
        inside = labels == label
        first, second = (side[:, inside].astype(float) for side in (distilled, control))
        # Rounded far below an example's weight, so that seeds that agree do agree.
        found, both = paired((first - second).mean(axis=1).round(12).tolist()), crossed(first - second)
        rows.append((
            int(label), int(inside.sum()), first.mean(), second.mean(), found.num_seeds, found.mean, found.low,
            found.high, both.low, both.high, found.p_t, both.p,
        ))  # fmt: skip
    return pd.DataFrame(rows, columns=list(CLASS_COLUMNS))


def with_holm(classes: pd.DataFrame, looks: int = 1, planned: int = 0) -> pd.DataFrame:
    """The gains by class of some widths with `holm_p`: Holm's correction, over all rows, of the larger of both p.

    As in `confirmed.comparisons`, for so many looks, and so many rows planned. A class whose `holm_p` is missing or 5%
    or more has shown nothing.
    """
    larger = classes[["p_t", "p_crossed"]].max(axis=1, skipna=False)
    return classes.assign(holm_p=np.array(holm(larger.tolist(), looks, planned), dtype=float))


def named(classes: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """A table with a `label` a row, and behind it a column `name` of what the labels 0, 1, ... are called; as it was
    where they have no names."""
    if not names or classes.empty:
        return classes
    found = classes.copy()
    found.insert(1, "name", [names[label] if label < len(names) else "" for label in found["label"]])
    return found


def _bin(p_max: Floats, bins: int) -> NDArray[np.intp]:
    """Bins are open below and closed above, as Guo et al. have them; zero goes with the first."""
    edges = np.arange(1, bins) / bins
    return np.searchsorted(edges, p_max, side="left")


def _right(predicted: Ints, labels: Ints) -> NDArray[np.bool_]:
    right: NDArray[np.bool_] = predicted == labels
    return right
