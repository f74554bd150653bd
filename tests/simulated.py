"""Simulated studies of known truth: students that answer test examples, with crossed effects of seeds and examples.

A student is right where ability + difficulty (of the example) + taste (of the configuration for the example) + luck (of
the configuration's seed) + noise (of this answer) is above zero; all but ability are normal. So each probability of
being right is a normal one, and the truth needs no second simulation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

DIFFICULTY = 1.0


@dataclass(frozen=True)
class World:
    """The SDs of what adds to ability."""

    taste: float
    luck: float
    noise: float

    def truth(self, ability: Sequence[float]) -> NDArray[np.float64]:
        """The accuracy of each ability over all seeds and all examples."""
        sd = math.sqrt(DIFFICULTY**2 + self.taste**2 + self.luck**2 + self.noise**2)
        found: NDArray[np.float64] = stats.norm.cdf(np.asarray(ability, dtype=float) / sd)
        return found


NOISY = World(taste=0.0, luck=0.0, noise=0.5)
"""Neither seeds nor examples matter to a difference: all of it is residual."""
LUCKY = World(taste=0.0, luck=0.1, noise=0.5)
MIXED = World(taste=0.3, luck=0.1, noise=0.4)
TASTY = World(taste=0.6, luck=0.02, noise=0.3)
"""Which examples profit is a lasting trait of a configuration; seeds hardly matter."""


@dataclass(frozen=True)
class Answers:
    """`right` [studies, configurations, seeds, examples], and the accuracy on these examples over all seeds, `here`
    [studies, configurations]."""

    right: NDArray[np.bool_]
    here: NDArray[np.float64]


def answers(
    rng: np.random.Generator, world: World, ability: Sequence[float], studies: int, seeds: int, examples: int
) -> Answers:
    def normal(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal(shape, dtype=np.float32)

    count = len(ability)
    level = np.asarray(ability, dtype=np.float32)[:, None, None] + DIFFICULTY * normal(studies, 1, 1, examples)
    level = level + world.taste * normal(studies, count, 1, examples)
    here = stats.norm.cdf(level[:, :, 0] / max(math.hypot(world.luck, world.noise), 1e-9)).mean(axis=-1)
    luck = world.luck * normal(studies, count, seeds, 1)
    right = level + luck + world.noise * normal(studies, count, seeds, examples) > 0
    return Answers(right, here)
