"""Statistics of paired differences for few seeds. A new one is a function here, or a field of `Paired`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import optimize, stats

LEVEL = 0.05
POWER = 0.8
MAX_EXACT = 40
FLIPS = 99_999
"""Random sign flips beyond `MAX_EXACT` seeds; the least p of them is 2 / 100,000."""


@dataclass(frozen=True)
class Paired:
    """The mean of paired differences, its 95% t interval, and p of the t test and of the exact sign flip.

    What the number of seeds cannot give is NaN: no interval from one seed, nor from seeds that agree exactly, where the
    spread is estimated as zero. `p_floor` is the least p that the sign flip could give.
    """

    num_seeds: int
    mean: float
    sd: float
    low: float
    high: float
    p_t: float
    p_sign_flip: float
    p_floor: float


def paired(differences: Sequence[float]) -> Paired:
    """Statistics of one difference a seed. Raises `ValueError` when there is none."""
    values = np.asarray(differences, dtype=float)
    count = len(values)
    if count == 0:
        raise ValueError("no paired differences; the two trials share no seed")
    mean = float(values.mean())
    sd = float(values.std(ddof=1)) if count > 1 else math.nan
    low = high = p_t = math.nan
    if count > 1 and sd > 1e-12:
        error = sd / math.sqrt(count)
        reach = float(stats.t.ppf(1 - LEVEL / 2, count - 1)) * error
        low, high = mean - reach, mean + reach
        p_t = float(2 * stats.t.sf(abs(mean) / error, count - 1))
    floor = 2 / 2**count if count <= MAX_EXACT else 2 / (FLIPS + 1)
    return Paired(count, mean, sd, low, high, p_t, sign_flip_p(values.tolist()), floor)


def sign_flip_p(differences: Sequence[float]) -> float:
    """The two-sided p of the sum under sign flips: exact, over all 2^S, up to 40 seeds, which are counted half by half;
    beyond, over `FLIPS` random ones, the same at every call. Raises `ValueError` when there is no difference."""
    count = len(differences)
    if count == 0:
        raise ValueError("no differences to flip")
    if count > MAX_EXACT:
        values = np.asarray(differences, dtype=float)
        found = stats.permutation_test(
            (values,), np.sum, permutation_type="samples", n_resamples=FLIPS, batch=1_000, rng=np.random.default_rng(0)
        )
        return float(found.pvalue)
    first, second = _flipped_sums(differences[: count // 2]), np.sort(_flipped_sums(differences[count // 2 :]))
    # Equal sums must count as equal whatever the order of adding, hence the slack.
    observed = abs(sum(differences)) - 1e-12
    if observed <= 0:
        return 1.0
    above = len(second) - np.searchsorted(second, observed - first, side="left")
    below = np.searchsorted(second, -observed - first, side="right")
    return float((above + below).sum() / 2.0**count)


def _flipped_sums(values: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def minimum_detectable(sd: float, num_seeds: int, freedom: int | None = None) -> float:
    """The mean difference that a two-sided 5% paired t test finds with 80% power, given the SD of the differences.

    `freedom` is that of the SD, where it was pooled from more than these seeds. NaN below two seeds without it, and
    where the SD is unknown or zero.
    """
    freedom = num_seeds - 1 if freedom is None else freedom
    if freedom < 1 or not sd > 0:
        return math.nan
    return _powered(_critical(LEVEL, freedom), freedom) * sd / math.sqrt(num_seeds)


def found_by_rule(sd: float, num_seeds: int, num_tests: int) -> float:
    """The mean difference that the rule for a claim finds with 80% power, at least, given the SD of the differences.

    The rule asks of one of `num_tests` comparisons that Holm's p is below 5% and that the difference found is at least
    `minimum_detectable`, so that t has to reach the larger of two bounds: the quantile of the level .05 / `num_tests`,
    which is Holm's hardest step, and the detectable difference in standard errors. NaN as for `minimum_detectable`.
    """
    freedom = num_seeds - 1
    if freedom < 1 or not sd > 0:
        return math.nan
    critical = max(_critical(LEVEL / num_tests, freedom), _powered(_critical(LEVEL, freedom), freedom))
    return _powered(critical, freedom) * sd / math.sqrt(num_seeds)


@cache
def _critical(level: float, freedom: int) -> float:
    """What the size of a two-sided t exceeds by chance in this share of tests."""
    return float(stats.t.ppf(1 - level / 2, freedom))


@cache
def _powered(critical: float, freedom: int) -> float:
    """The shift of a noncentral t that exceeds a critical value with 80% power."""

    def shortfall(shift: float) -> float:
        return float(stats.nct.sf(critical, freedom, shift)) - POWER  # the far tail is below 1e-4 here

    high = critical + 1
    while shortfall(high) < 0:
        high *= 2
    return float(optimize.brentq(shortfall, 0, high))


@cache
def many_to_one(num_others: int, freedom: int) -> float:
    """Dunnett's one-sided 95% critical value (1955) of one mean against so many others of equal size.

    With it Hsu (1984, `The Annals of Statistics` 12) keeps all means that may be the best: those not more than so many
    standard errors of a difference below the highest hold the truly best in 95% of studies. `freedom` is that of the
    pooled SD. NaN where there is none.
    """
    if freedom < 1 or num_others < 1:
        return 0.0 if num_others < 1 <= freedom else math.nan
    nodes, weights = np.polynomial.legendre.leggauss(200)
    shares = (nodes + 1) / 2
    scales = stats.chi.ppf(shares, freedom)[:, None] / math.sqrt(freedom)
    own = np.linspace(-9, 9, 721)
    density = stats.norm.pdf(own) * (own[1] - own[0])

    def excess(critical: float) -> float:
        inner = (stats.norm.cdf(own + math.sqrt(2) * critical * scales) ** num_others) @ density
        return float(weights @ inner / 2) - (1 - LEVEL)

    high = 4.0
    while excess(high) < 0:
        high *= 2
    return float(optimize.brentq(excess, 0, high, xtol=1e-6))


def holm(values: Sequence[float], looks: int = 1, planned: int = 0) -> list[float]:
    """Holm's adjusted p-values, in the given order; NaN stays NaN and still counts in the family, as do those that are
    still to come of so many `planned`.

    With `looks` they are p-values of data that were looked at so often, with more seeds each time: the k-th look has
    the level .05 / k^2, since those before it have spent theirs. Together that is below 8.3%, whenever one stops.
    """
    order = sorted(range(len(values)), key=lambda i: (math.isnan(values[i]), values[i]))
    adjusted, family = [math.nan] * len(values), max(len(values), planned)
    highest = 0.0
    for rank, index in enumerate(order):
        if not math.isnan(values[index]):
            highest = max(highest, min(1.0, looks**2 * (family - rank) * values[index]))
            adjusted[index] = highest
    return adjusted
