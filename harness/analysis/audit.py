"""What choosing by the test split would have claimed at least, beside the honest number: from `confirm` alone.

It is a lower bound: only configurations that validation chose are confirmed, and so compete.

The honest number is the test accuracy of the last epoch, mean over seeds. Public distillation code often prints the
best epoch on test, of the best seed, of the configuration that is best on test; each step up is a row's column here.
All values are fractions; each `*_inflation` is the claim less the honest number.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from harness.analysis.load import rows_of

CONFIGURATION_COLUMNS = (
    "number", "num_seeds", "val_accuracy", "honest", "best_val_epoch", "best_test_epoch", "best_seed",
    "val_epoch_inflation", "test_epoch_inflation", "seed_inflation",
)  # fmt: skip
CHOICE_COLUMNS = (
    "width", "num_configurations", "by_val", "by_val_role", "honest", "by_test", "by_test_role", "by_test_last_epoch",
    "by_test_best_epoch", "by_test_best_seed", "last_epoch_inflation", "best_epoch_inflation", "best_seed_inflation",
)  # fmt: skip


def configurations(curves: pd.DataFrame) -> pd.DataFrame:
    """What could be claimed of each confirmed configuration: one row a number.

    `curves` has number, seed, epoch, val_accuracy, test_accuracy. `val_accuracy` and `honest` are of the last epoch,
    `best_val_epoch` is the test accuracy at the epoch best on validation (of equals the first), `best_test_epoch` at
    the epoch best on test, each a mean over seeds; `best_seed` is the highest test accuracy of any seed and epoch. An
    accuracy that is missing (NaN) at the last epoch of a seed is missing in the mean, too: leaving the seed out would
    flatter the configuration.
    """
    seeds = _seeds(curves)
    groups = seeds.groupby("number")
    rows = groups[["val_accuracy", "honest", "best_val_epoch", "best_test_epoch"]].agg(_mean)
    rows = rows.assign(num_seeds=groups.size(), best_seed=groups["best_test_epoch"].max()).reset_index()
    rows["val_epoch_inflation"] = rows["best_val_epoch"] - rows["honest"]
    rows["test_epoch_inflation"] = rows["best_test_epoch"] - rows["honest"]
    rows["seed_inflation"] = rows["best_seed"] - rows["honest"]
    return rows[list(CONFIGURATION_COLUMNS)]


def choices(curves: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """What choosing among a width's confirmed configurations by test would have claimed: one row a width.

    `trials` has number, role, width. The same configurations compete twice: `by_val` is the one of the highest
    validation accuracy, over the same seeds, and `honest` its test accuracy; `by_test` is the one of the highest test
    accuracy at the last epoch. Then `by_test_best_epoch` and `by_test_best_seed` are the highest claim of any
    configuration when the epoch of each of its seeds, and then one of its seeds too, are chosen on test. Equals go to
    the earlier number. With one configuration there is no choice, and what is left is the epoch's and the seed's.
    """
    table = configurations(curves).merge(trials[["number", "role", "width"]], on="number")
    table = table.dropna(subset=["val_accuracy", "honest"]).sort_values("number").round(12)  # so that equals tie
    rows = []
    for width, group in table.groupby("width"):
        val, test = (rows_of(group.nlargest(1, score))[0] for score in ("val_accuracy", "honest"))
        claims = (test["honest"], float(group["best_test_epoch"].max()), float(group["best_seed"].max()))
        rows.append((
            width, len(group), val["number"], val["role"], val["honest"], test["number"], test["role"], *claims,
            *(claim - val["honest"] for claim in claims),
        ))  # fmt: skip
    found = pd.DataFrame(rows, columns=list(CHOICE_COLUMNS))
    whole, text = ("width", "num_configurations", "by_val", "by_test"), ("by_val_role", "by_test_role")
    kinds = {name: "int64" if name in whole else object if name in text else float for name in CHOICE_COLUMNS}
    return found.astype(kinds)


def _mean(values: pd.Series[float]) -> float:
    return float(values.mean(skipna=False))


def _seeds(curves: pd.DataFrame) -> pd.DataFrame:
    """The four accuracies of each number and seed."""
    ordered = curves.sort_values(["number", "seed", "epoch"]).astype({"val_accuracy": float, "test_accuracy": float})
    groups = ordered.groupby(["number", "seed"])
    last = ordered[~ordered.duplicated(["number", "seed"], keep="last")].set_index(["number", "seed"])
    by_val = ordered.assign(key=ordered["val_accuracy"].fillna(-np.inf)).sort_values(
        ["number", "seed", "key", "epoch"], ascending=[True, True, False, True]
    )
    first = by_val[~by_val.duplicated(["number", "seed"])].set_index(["number", "seed"])
    return pd.DataFrame({
        "val_accuracy": last["val_accuracy"], "honest": last["test_accuracy"], "best_val_epoch": first["test_accuracy"],
        "best_test_epoch": groups["test_accuracy"].max(),
    })  # fmt: skip
