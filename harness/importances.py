"""What a knob explains of a measurement, by Optuna's evaluators.

Apart from asking and telling: they take scikit-learn, a second to import, which no trial should wait for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import IntDistribution
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator
from optuna.trial import create_trial

from harness.sampler import distribution_of
from harness.space import Dimension, Float, Value

MOST_COLUMNS = 8
"""Options of a choice that fANOVA is given as columns."""


def importances(
    space: Mapping[str, Dimension],
    rows: Sequence[tuple[Mapping[str, Value], float]],
    seed: int = 0,
    trees: int = 64,
) -> dict[str, dict[str, float]]:
    """What share of the value's variation each dimension explains: evaluator -> dimension -> importance.

    `rows` are parameters and value (higher is better) of each trial. fANOVA (Hutter 2014) and PED-ANOVA
    (arXiv:2304.10255) can rank oppositely, so both are given. A conditional dimension is judged among the trials that
    have it, beside the dimensions that all have. A choice of more than eight options is taken as a number, its
    options in their order. Raises `ValueError` for fewer than eight trials,
    and for trials that all have the same value.
    """
    if len(rows) < 8:
        raise ValueError(f"importance needs at least 8 trials, not {len(rows)}")
    if len({value for _, value in rows}) < 2:
        raise ValueError(f"importance needs trials that differ; all {len(rows)} have the same value")
    varied = [n for n, d in space.items() if len({params[n] for params, _ in rows if n in params}) > 1]
    common = [name for name in varied if all(name in params for params, _ in rows)]
    forest = FanovaImportanceEvaluator(n_trees=trees, seed=seed)
    evaluators = {"fANOVA": forest, "PED-ANOVA": PedAnovaImportanceEvaluator()}
    found: dict[str, dict[str, float]] = {}
    for title, evaluator in evaluators.items():
        found[title] = _evaluate(evaluator, space, rows, common)
        for name in varied:
            having = [row for row in rows if name in row[0]]
            if name not in common and len(having) >= 8 and len({value for _, value in having}) > 1:
                found[title][name] = _evaluate(evaluator, space, having, [*common, name])[name]
    return found


def _evaluate(
    evaluator: Any, space: Mapping[str, Dimension], rows: Sequence[tuple[Mapping[str, Value], float]], names: list[str]
) -> dict[str, float]:
    study = optuna.create_study(direction="maximize")
    long = [name for name in names if len(_options(space[name])) > MOST_COLUMNS]
    distributions = {name: distribution_of(space[name]) for name in names}
    # fANOVA gives every option a column and visits 2^options cells; a long choice stands as its options' numbers.
    distributions |= {name: IntDistribution(0, len(_options(space[name])) - 1) for name in long}
    for params, value in rows:
        kept = {name: params[name] for name in names}
        kept |= {name: _options(space[name]).index(params[name]) for name in long}
        study.add_trial(create_trial(value=value, params=kept, distributions=distributions))
    return {name: float(share) for name, share in evaluator.evaluate(study, params=names).items()}


def _options(dimension: Dimension) -> tuple[Value, ...]:
    return () if isinstance(dimension, Float) else dimension.options
