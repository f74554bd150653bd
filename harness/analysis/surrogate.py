"""A model of val accuracy in the knobs: a Gaussian process that is a sum of named terms, each of its own strength.

    model = Model({"alpha": K1, "temperature": K2, "alpha:temperature": K12}, fixed, values)
    fitted = fit(model)
    fitted.term("alpha:temperature", cross)

A term's kernel has mean zero over the balanced grid of its knob (Durrande and others 2013, "ANOVA kernels"), and an
interaction's is the product of two such: so on the grid the terms are orthogonal, and their variances are what
functional ANOVA calls shares. Levels of width and form are fixed effects. Strengths are those of restricted maximum
likelihood. Not a forest: trees build a sum out of interactions, and find some in every sum; and this one's refit on
shuffled values is a product of matrices, so a null of a thousand refits takes a moment.

A new kind of knob is a kernel here, centred by `centred`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import linalg, optimize

Array = np.ndarray[Any, np.dtype[np.float64]]
SMOOTH = 0.5
"""The length over which a knob's effect bends, as a share of the knob's range: hills and slopes, no wiggles."""
FOLDS = 5
WEAKEST, STRONGEST = math.log(1e-4), math.log(1e4)
"""Bounds of a term's variance in units of the noise's, as logarithms."""


def smooth(left: Array, right: Array, grid: Array) -> Array:
    """The kernel of a number scaled to its range, [left, right], centred over `grid`."""
    return centred(lambda a, b: np.exp(-0.5 * ((a[:, None] - b[None, :]) / SMOOTH) ** 2), left, right, grid)


def levels(left: Array, right: Array, grid: Array) -> Array:
    """The kernel of a choice without an order, [left, right], centred over its levels `grid`."""
    return centred(lambda a, b: (a[:, None] == b[None, :]).astype(float), left, right, grid)


def centred(kernel: Any, left: Array, right: Array, grid: Array) -> Array:
    """A kernel without the part that is constant over the grid: functions drawn from it have mean zero there.

    A NaN, a knob that a trial does not have, is 0: the term adds nothing there. Scaled to a mean variance of 1.
    """
    total = float(kernel(grid, grid).mean())
    if total <= 0:
        return np.zeros((len(left), len(right)))
    own = kernel(grid, grid).mean(axis=1)
    scale = float((kernel(grid, grid).diagonal() - own**2 / total).mean())
    known = ~np.isnan(left)[:, None] & ~np.isnan(right)[None, :]
    left, right = np.nan_to_num(left, nan=grid[0]), np.nan_to_num(right, nan=grid[0])
    means = kernel(left, grid).mean(axis=1)[:, None] * kernel(right, grid).mean(axis=1)[None, :]
    found: Array = np.where(known, kernel(left, right) - means / total, 0.0)
    return found / scale if scale > 1e-12 else np.zeros_like(found)


@dataclass(frozen=True)
class Model:
    """Terms by name, each a kernel [trials, trials]; `fixed` effects [trials, effects], the first the constant; and
    what is to be explained, `target` [trials]."""

    terms: Mapping[str, Array]
    fixed: Array
    target: Array

    def without(self, name: str) -> Model:
        """The model that lacks a term."""
        return replace(self, terms={term: kernel for term, kernel in self.terms.items() if term != name})


@dataclass(frozen=True)
class Fitted:
    """A model with the strength of each of its terms in units of the noise's variance.

    `projection` is P of restricted likelihood: target @ P @ target is the weighted sum of squares, kernel @ P @ target
    a term's part. `noise` is the variance of the noise.
    """

    model: Model
    weights: Mapping[str, float]
    projection: Array
    constant: float
    noise: float

    @property
    def effects(self) -> Array:
        """The fixed effects' values, by generalised least squares, [effects]."""
        model = self.model
        rest = model.target - self.random_part() - self._noise_part()
        return np.asarray(np.linalg.lstsq(model.fixed, rest, rcond=None)[0])

    def random_part(self) -> Array:
        """What all terms together say of the model's own trials, [trials]."""
        return sum_of(self.model.terms, self.weights, len(self.model.target)) @ self.projection @ self.model.target

    def _noise_part(self) -> Array:
        return np.asarray(self.projection @ self.model.target)

    def term(self, name: str, cross: Array) -> Array:
        """A term at other places, from its kernel between these and the trials, [places]."""
        return np.asarray(self.weights[name] * cross @ (self.projection @ self.model.target))

    def predicted(self, cross: Mapping[str, Array], inner: Mapping[str, Array], fixed: Array) -> tuple[Array, Array]:
        """Mean and covariance at other places, [places] and [places, places], the fixed effects' uncertainty included.

        `cross` are the kernels of terms between places and trials, `inner` those among places, `fixed` the effects
        there; terms that are left out count as 0. Formulas of universal kriging (Rasmussen and Williams 2006, 2.7).
        """
        model, (places, size) = self.model, (len(fixed), len(self.model.target))
        between = np.zeros((places, size))
        for name, kernel in cross.items():
            between += self.weights[name] * kernel
        factor = linalg.cho_factor(sum_of(model.terms, self.weights, size) + np.eye(size))
        solved = linalg.cho_solve(factor, model.fixed)
        certain = np.linalg.pinv(model.fixed.T @ solved, hermitian=True)
        rest = fixed - between @ solved
        mean = fixed @ self.effects + between @ (self.projection @ model.target)
        covariance = sum_of(inner, self.weights, places) - between @ linalg.cho_solve(factor, between.T)
        return mean, self.noise * (covariance + rest @ certain @ rest.T)


def sum_of(terms: Mapping[str, Array], weights: Mapping[str, float], size: int) -> Array:
    """The terms' kernels, each times its strength."""
    total = np.zeros((size, size))
    for name, kernel in terms.items():
        total += weights[name] * kernel
    return total


def fit(model: Model) -> Fitted:
    """The model with its terms' strengths by restricted maximum likelihood, the noise's variance worked out within."""
    names = list(model.terms)
    kernels = np.array([model.terms[name] for name in names]).reshape(len(names), len(model.target), -1)
    start = np.zeros(len(names))
    if names:
        found = optimize.minimize(
            _loss, start, (kernels, model.fixed, model.target), jac=True, method="L-BFGS-B",
            bounds=[(WEAKEST, STRONGEST)] * len(names), options={"maxiter": 60, "ftol": 1e-6},
        )  # fmt: skip
        start = found.x
    return at(model, dict(zip(names, np.exp(start).tolist(), strict=True)))


def at(model: Model, weights: Mapping[str, float]) -> Fitted:
    """The model with given strengths of its terms."""
    size = len(model.target)
    projection, constant = _project(sum_of(model.terms, weights, size) + np.eye(size), model.fixed)
    free = size - np.linalg.matrix_rank(model.fixed)
    noise = float(model.target @ projection @ model.target) / max(free, 1)
    return Fitted(model, dict(weights), projection, constant, noise)


def likelihoods(fitted: Fitted, values: Array) -> Array:
    """The restricted log likelihood of other values under the model as fitted, [columns] of `values` [trials, columns].

    Up to a constant that only the number of trials decides.
    """
    free = len(values) - np.linalg.matrix_rank(fitted.model.fixed)
    squares = np.maximum((values * (fitted.projection @ values)).sum(axis=0), 1e-24)
    return np.asarray(-0.5 * (free * np.log(squares) + fitted.constant))


def _loss(logs: Array, kernels: Array, fixed: Array, values: Array) -> tuple[float, Array]:
    """Twice the negative restricted log likelihood, and its gradient in the logarithms of the strengths."""
    weights = np.exp(logs)
    size = len(values)
    projection, constant = _project(np.tensordot(weights, kernels, 1) + np.eye(size), fixed)
    free = size - np.linalg.matrix_rank(fixed)
    solved = projection @ values
    squares = max(float(values @ solved), 1e-24)
    traces = np.tensordot(kernels, projection, axes=([1, 2], [1, 0]))
    parts = np.einsum("i,kij,j->k", solved, kernels, solved, optimize=True)
    return free * math.log(squares) + constant, weights * (traces - free * parts / squares)


def _project(covariance: Array, fixed: Array) -> tuple[Array, float]:
    """P of restricted likelihood for a covariance, and the logarithms of its determinants."""
    factor = linalg.cho_factor(covariance, lower=True)
    inverse = linalg.cho_solve(factor, np.eye(len(covariance)))
    weighted = inverse @ fixed
    inner = fixed.T @ weighted
    projection = inverse - weighted @ np.linalg.pinv(inner, hermitian=True) @ weighted.T
    values = np.linalg.eigvalsh(inner)
    constant = 2 * float(np.log(factor[0].diagonal()).sum()) + float(np.log(values[values > 1e-9 * values[-1]]).sum())
    return projection, constant


def cross_validated(model: Model) -> float:
    """R² of trials left out, in `FOLDS` seeded folds: the share of the squared error of the fixed effects alone that is
    gone where the terms, their strengths fitted anew without these trials, predict too.

    Below 0 where the terms mislead. Trials whose level of a fixed effect no other fold has are left out; NaN where none
    is left, or nothing is to be explained.
    """
    size = len(model.target)
    fold = np.random.default_rng(0).permutation(size) % FOLDS
    squares = np.zeros(2)
    for out in range(FOLDS):
        kept, left = np.flatnonzero(fold != out), np.flatnonzero(fold == out)
        known = np.linalg.pinv(model.fixed[kept]) @ model.fixed[kept]
        left = left[np.abs(model.fixed[left] @ known - model.fixed[left]).max(axis=1) < 1e-8]
        terms = {name: kernel[np.ix_(kept, kept)] for name, kernel in model.terms.items()}
        cross = {name: kernel[np.ix_(left, kept)] for name, kernel in model.terms.items()}
        inner = {name: kernel[np.ix_(left, left)] for name, kernel in model.terms.items()}
        part = Model(terms, model.fixed[kept], model.target[kept])
        mean = fit(part).predicted(cross, inner, model.fixed[left])[0]
        alone = at(replace(part, terms={}), {}).predicted({}, {}, model.fixed[left])[0]
        squares += [((values - model.target[left]) ** 2).sum() for values in (mean, alone)]
    return 1 - float(squares[0] / squares[1]) if squares[1] > 1e-18 else math.nan


def dummies(labels: Sequence[Any], kinds: Sequence[Any]) -> Array:
    """Columns of fixed effects for the kinds of a choice, all but the first, [trials, kinds - 1]."""
    return np.array([[float(label == kind) for kind in kinds[1:]] for label in labels]).reshape(len(labels), -1)
