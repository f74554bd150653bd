"""Trials with a known truth in alpha, temperature, form and width, as `harness.analysis.load` would give them."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from harness.space import TEMPERATURE_FORMS, Choice, Dimension, Float
from harness.spec import PLAIN

WIDTHS = (2, 4, 8)
FORMS = ("kl", "soft_ce", "mse")
SPACE: dict[str, Dimension] = {
    "form": Choice(*FORMS),
    "width": Choice(*WIDTHS),
    "alpha": Float(0, 1),
    "temperature": Float(1, 20, log=True, when={"form": TEMPERATURE_FORMS}),
    "lr": Float(1e-3, 5e-2, log=True),
}


def knob_trials(
    count: int,
    *,
    seed: int = 0,
    together: float = 0.0,
    by_width: float = 0.0,
    noise: float = 0.2,
    rough: float = 0.0,
    forms: tuple[str, ...] = FORMS,
    widths: tuple[int, ...] = WIDTHS,
) -> pd.DataFrame:
    """`count` distilled trials: a sum of hills over the knobs, in points, and noise; the narrowest has `rough` more.

    `together` is the interaction of alpha and temperature from corner to middle, `by_width` that of form and width.
    """
    rng = np.random.default_rng(seed)
    form, width = rng.choice(forms, count), rng.choice(widths, count)
    alpha, warm, lr = rng.uniform(size=(3, count))
    has = np.isin(form, TEMPERATURE_FORMS)
    points = 97 - 12 * (2 / width) ** 1.4 - 2 * (lr - 0.6) ** 2 - 3 * (alpha - 0.2) ** 2
    points += np.where(has, -1.5 * (warm - 0.5) ** 2 + 4 * together * (alpha - 0.5) * (warm - 0.5), -1.0)
    points += by_width * np.where(form == "kl", 1, -1) * np.log2(width / 4)
    points += rng.normal(0, noise, count) + rng.normal(0, 1, count) * np.where(width == min(widths), rough, 0)
    table = pd.DataFrame({"number": np.arange(count), "arm": "search", "form": form, "alpha": alpha})
    table["temperature"] = np.where(has, np.exp(warm * math.log(20)), np.nan)
    table["lr"] = 1e-3 * np.exp(lr * math.log(50))
    return finished_trials(table.assign(width=width, val_accuracy=points / 100))


def finished_trials(table: pd.DataFrame, *, seeds: int = 2, sd: float = 0.002) -> pd.DataFrame:
    """The table with what every finished trial has."""
    table = table.assign(val_loss=1 - table["val_accuracy"], num_seeds=seeds, val_accuracy_sd=sd)
    return table.assign(state="complete", status="ok", num_params=400 * table["width"], macs=1000 * table["width"])


def controls(count: int = 4, first: int = 10_000) -> pd.DataFrame:
    """Plain trials at every width."""
    table = pd.DataFrame({"width": np.repeat(WIDTHS, count), "form": PLAIN, "arm": "control", "lr": 0.01})
    table = table.assign(number=first + np.arange(len(table)), alpha=np.nan, temperature=np.nan)
    return finished_trials(table.assign(val_accuracy=0.95 - 0.12 * (2 / table["width"]) ** 1.4))
