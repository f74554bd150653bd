"""Whether an exported file says what the student says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

TOLERANCE = 1e-5
"""The largest difference of a logit that is rounding, as a share of the example's largest logit, or of 1 if smaller.

Float32 rounds to 6e-8 of a number; a logit is a sum of hundreds, whose order differs between runtimes.
"""
BATCHES = (1, 3)
"""The first examples go alone and by three, all others at once: a batch of any size must do."""
Run = Callable[[Tensor], Tensor]
"""Inputs `[batch, ...]` -> logits `[batch, ..., classes]`."""


@dataclass(frozen=True)
class Difference:
    """The largest differences of logits found over so many examples; `relative` is the one held against `TOLERANCE`.

    `ties` counts the answers that differ where the student's two best logits were nearer than rounding.
    """

    absolute: float
    relative: float
    num_examples: int
    ties: int = 0


@torch.no_grad()
def answers(run: Run, inputs: Tensor) -> Tensor:
    """The logits of inputs `[examples, ...]`, in batches of several sizes."""
    first = [size for size in BATCHES if sum(BATCHES) < len(inputs)]
    return torch.cat([run(part) for part in torch.split(inputs, [*first, len(inputs) - sum(first)])])


def compare(name: str, found: Tensor, wanted: Tensor) -> Difference:
    """How far two results `[examples, ..., classes]` are apart.

    Raises `ValueError` where it is more than `TOLERANCE`. Within it an answer (the largest logit) can be another only
    where the two best logits are nearer than twice that: a tie.
    """
    if found.shape != wanted.shape:
        raise ValueError(f"{name} gives logits {list(found.shape)}, the student {list(wanted.shape)}")
    apart = (found.double() - wanted.double()).abs()
    scale = wanted.double().abs().amax(-1, keepdim=True).clamp(min=1)
    relative = (apart / scale).max().item()
    if not relative <= TOLERANCE:  # NaN is not
        raise ValueError(
            f"{name} is not the student: logits differ by up to {apart.max().item():.3g}, "
            f"{relative:.3g} of the largest, more than {TOLERANCE:g}"
        )
    ties = int((found.argmax(-1) != wanted.argmax(-1)).sum())
    return Difference(apart.max().item(), relative, len(wanted), ties)
