"""Which configuration is best, under resampling of seeds and of test examples: P(front), P(best), expected regret.

`accuracy_draws` makes the draws; everything else reads them. A new question about the draws is a function here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

DRAWS = 2_000
CHUNK = 200
TIE = 12  # decimals: far below a test example's weight, far above rounding

RECOMMENDED = ("budget", "number", "p_best", "expected_regret", "runner_up", "runner_up_p_best")

Array = NDArray[np.float64]


def accuracy_draws(correct: Mapping[int, NDArray[np.generic]], draws: int = DRAWS, seed: int = 0) -> pd.DataFrame:
    """Mean test accuracies under resampled seeds and examples, [draws, configurations]; columns are the numbers.

    `correct` maps a configuration to its right answers, [seeds, examples], the same seeds and examples for all. A draw
    takes the same seeds and the same examples for every configuration, so that what they share cancels in differences.

    Seeds and examples deviate apart and add up. Resampling both in one table, the plain two-level bootstrap, counts the
    residual's variance three times (Owen 2007, arXiv:0712.1111), and nearly all of a paired difference is residual.
    Here the draws have the covariance of the crossed estimate, (MS_seeds + MS_examples - MS_residual) / (S E) as
    matrices over configurations, unbiased for each difference: seeds' deviations are scaled by sqrt(S / (S - 1)), and
    examples' lose the residual, which seeds' already have. S being small, a draw's deviation of seeds is then divided
    by sqrt(chi2 / (S - 1)), as a t is; that has long tails for few seeds, so draws stop at 0 and 1. In 800 simulated
    studies of three configurations whose differences were all residual, the likeliest best had P = .97 on average and
    was best in .97; under the plain bootstrap P = .955. Where examples or seeds matter the two are within a point.

    With one seed the draws hold the examples' part alone, and are too narrow. Raises `ValueError` where shapes differ.
    """
    tables = [np.asarray(table) for table in correct.values()]
    if len({table.shape for table in tables}) > 1:
        shapes = ", ".join(f"{number}: {np.shape(table)}" for number, table in correct.items())
        raise ValueError(f"all configurations need the same seeds and examples, not {shapes}")
    if not tables:
        return pd.DataFrame(index=range(draws))
    rng = np.random.default_rng(seed)
    means = np.array([table.mean(dtype=float) for table in tables])
    by_seed = np.array([table.mean(axis=1, dtype=float) for table in tables]) - means[:, None]
    by_example = np.array([table.mean(axis=0, dtype=float) for table in tables]) - means[:, None]
    moved = _seed_part(by_seed, draws, rng)
    moved += _resampled(by_example, draws, rng) @ _less_residual(tables, by_seed, by_example).T
    # Centred, so that the most accurate is that of the test, whatever the draws.
    values = np.clip(means + moved - moved.mean(axis=0), 0, 1)
    return pd.DataFrame(values.round(TIE), columns=list(correct))


def _seed_part(by_seed: Array, draws: int, rng: np.random.Generator) -> Array:
    """Deviations from resampled seeds, [draws, configurations], of the t kind, symmetric; zero for one seed."""
    count = by_seed.shape[1]
    if count < 2:
        return np.zeros((draws, len(by_seed)))
    half = (draws + 1) // 2
    spread = np.sqrt(rng.chisquare(count - 1, size=(half, 1)) / (count - 1))
    moved: Array = _resampled(by_seed, half, rng) * np.sqrt(count / (count - 1)) / spread
    return np.concatenate([moved, -moved])[:draws]  # mirrored: the mean of tails as long as two seeds have is anything


def _resampled(values: Array, draws: int, rng: np.random.Generator) -> Array:
    """Means of resampled columns of [configurations, columns], the same columns for all: [draws, configurations].

    A chunk of draws at a time, so that memory holds [200, examples] of counts however many draws there are.
    """
    count = values.shape[1]
    parts = []
    for start in range(0, draws, CHUNK):
        size = min(CHUNK, draws - start)
        picks = rng.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        weights = np.bincount(picks.ravel(), minlength=size * count).reshape(size, count)
        parts.append((weights / count) @ values.T)
    return np.concatenate(parts)


def _less_residual(tables: Sequence[NDArray[np.generic]], by_seed: Array, by_example: Array) -> Array:
    """The matrix that takes deviations of covariance MS_examples to MS_examples - MS_residual, [configurations]^2.

    Directions in which the difference is negative become zero.
    """
    size, num_seeds, num_examples = len(tables), by_seed.shape[1], by_example.shape[1]
    if num_seeds < 2 or num_examples < 2:
        return np.eye(size)
    total = np.zeros((size, size))
    means = np.array([table.mean(dtype=float) for table in tables])
    for row in range(num_seeds):
        values = np.array([table[row] for table in tables], dtype=float) - means[:, None]
        total += values @ values.T
    examples = num_seeds * by_example @ by_example.T
    residual = total - num_examples * by_seed @ by_seed.T - examples
    examples, residual = examples / (num_examples - 1), residual / ((num_seeds - 1) * (num_examples - 1))
    values, vectors = np.linalg.eigh(examples)
    kept = values > 1e-9 * max(float(values.max()), 1e-30)  # not those in which configurations agree on every example
    root = vectors[:, kept] * np.sqrt(values[kept])
    inverse = (vectors[:, kept] / np.sqrt(values[kept])).T
    shares, turned = np.linalg.eigh(inverse @ residual @ inverse.T)
    shrunk: Array = root @ (turned * np.sqrt(np.clip(1 - shares, 0, None))) @ turned.T @ inverse
    return shrunk


def p_front(draws: pd.DataFrame, sizes: Mapping[int, float]) -> pd.Series[float]:
    """The share of draws in which no other configuration dominates this one, as `pareto.front` has it; by number."""
    values, size = draws.to_numpy(dtype=float), np.array([sizes[int(n)] for n in draws.columns])
    on_front = np.empty(values.shape, dtype=bool)
    for column, own in enumerate(size):
        smaller = values[:, size < own].max(axis=1, initial=-np.inf)
        equal = values[:, size == own].max(axis=1)
        on_front[:, column] = (values[:, column] > smaller) & (values[:, column] >= equal)
    return pd.Series(on_front.mean(axis=0), index=draws.columns, name="p_front")


def within(draws: pd.DataFrame, sizes: Mapping[int, float], budget: float) -> pd.DataFrame:
    """For each configuration of at most this size, by number: `accuracy`, `p_best`, `expected_regret`.

    `accuracy` is the mean of the draws; `p_best` shares a tie out equally; `expected_regret` is the mean over draws of
    the best accuracy within the budget less this one's.
    """
    fitting = draws[[number for number in draws.columns if sizes[int(number)] <= budget]]
    values = fitting.to_numpy(dtype=float)
    columns = {"accuracy": values.mean(axis=0)}
    best = values.max(axis=1, initial=-np.inf, keepdims=True)
    winners = values == best
    columns["p_best"] = (winners / np.maximum(winners.sum(axis=1, keepdims=True), 1)).mean(axis=0)
    columns["expected_regret"] = (best - values).mean(axis=0)
    return pd.DataFrame(columns, index=pd.Index(fitting.columns, name="number"))


def recommendations(
    draws: pd.DataFrame,
    sizes: Mapping[int, float],
    budgets: Sequence[float],
    score: Mapping[int, float] | None = None,
) -> pd.DataFrame:
    """The configuration to take within each budget: `RECOMMENDED`.

    It has the least expected regret, which is the highest accuracy; of equals the smaller, then the first in `draws`.
    That is a choice by test accuracy, so the chosen one's own is no longer honest. With `score`, validation accuracies
    say, the choice is by the highest score, and the draws only judge it. `runner_up` is what is likeliest the best but
    for it, with its own `p_best`: it may be likelier than what a score chose. Where nothing fits, all but the budget is
    missing.
    """
    rows: list[dict[str, Any]] = []
    for budget in budgets:
        table = within(draws, sizes, budget)
        value = table["accuracy"].round(TIE).to_dict() if score is None else score
        order = sorted(table.index, key=lambda own, value=value: (-value[own], sizes[own]))  # type: ignore[misc]
        rows.append({"budget": budget})
        if order:
            chosen = {name: float(table.loc[order[0], name]) for name in ("p_best", "expected_regret")}
            rows[-1] |= {"number": order[0], **chosen}
        if (other := runner_up(table["p_best"].reindex(order))) is not None:
            rows[-1] |= {"runner_up": other, "runner_up_p_best": float(table["p_best"].loc[other])}
    kinds = {"number": "Int64", "runner_up": "Int64"}
    table = pd.DataFrame(rows, columns=list(RECOMMENDED))
    return table.astype({name: kinds.get(name, float) for name in RECOMMENDED[1:]})


def runner_up(p_best: pd.Series[float]) -> int | None:
    """What is likeliest the best but for the first, of configurations in the order of a choice; of equals the first.
    None where there is no second."""
    others = p_best.iloc[1:]
    return int(others.index[int(others.to_numpy().argmax())]) if len(others) else None
