"""What the best of k trials would have reached: a fair comparison of searches of unlike size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import gammaln

from harness.analysis.statistics import LEVEL

DRAWS = 1_000
INDEPENDENT = ("random",)
"""The samplers whose trials are independent draws of one distribution. TPE's and its like learn from earlier trials; a
quasi-random sequence spreads out on purpose."""


def objection(sampler: str, num_missing: int = 0) -> str:
    """Why an expected best of k would be wrong here; empty where it is legitimate.

    `num_missing` counts the trials without a final value (pruned, failed): the rest are no random sample.
    """
    if sampler not in INDEPENDENT:
        return f"the trials of sampler {sampler!r} are no independent draws; {', '.join(INDEPENDENT)} ones are"
    return f"{num_missing} trials have no final value, so the rest are no random sample" if num_missing else ""


def expected_best(values: Sequence[float], draws: int = DRAWS, seed: int = 0) -> pd.DataFrame:
    """The expected highest of k independent trials, for k from 1 to n: columns `k`, `expected`, `low`, `high`.

    The mean of the maximum over all subsets of k of the n values, sum_i C(i-1, k-1) / C(n, k) x_(i) over the values in
    ascending order: unbiased for every k, which the usual plug-in (with replacement) is not (Tang et al. 2020,
    arXiv:2004.13705, on Dodge et al. 2019, arXiv:1909.03004). A diverged trial counts with what it reached.

    The band is the 95% percentile interval over resampled trials. It is too narrow towards k = n, where the estimate is
    the one highest value and no resample exceeds it. Raises `ValueError` for a NaN.
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    if np.isnan(ordered).any():
        raise ValueError("a trial without a value; expected_best takes the final value of every trial")
    count = len(ordered)
    if count == 0:
        return pd.DataFrame({name: np.zeros(0) for name in ("k", "expected", "low", "high")}).astype({"k": int})
    weights = _weights(count)
    picks = np.random.default_rng(seed).integers(count, size=(draws, count))
    picks.sort(axis=1)
    low, high = np.quantile(ordered[picks] @ weights.T, [LEVEL / 2, 1 - LEVEL / 2], axis=0)
    return pd.DataFrame({"k": np.arange(1, count + 1), "expected": weights @ ordered, "low": low, "high": high})


def _weights(count: int) -> NDArray[np.float64]:
    """P(the i-th smallest is the highest of k), [k, i]: C(i-1, k-1) / C(n, k), zero for i < k; each row sums to 1."""
    k, i = np.arange(1, count + 1)[:, None], np.arange(1, count + 1)[None, :]

    def log_choose(n: NDArray[np.int_] | int, m: NDArray[np.int_]) -> NDArray[np.float64]:
        chosen: NDArray[np.float64] = gammaln(n + 1) - gammaln(m + 1) - gammaln(np.maximum(n - m, 0) + 1)
        return chosen

    weights: NDArray[np.float64] = np.where(i >= k, np.exp(log_choose(i - 1, k - 1) - log_choose(count, k)), 0.0)
    weights /= weights.sum(axis=1, keepdims=True)  # the logarithms' rounding goes
    return weights
