"""What every student sees in one step: rows of an epoch, and the noise that decides what is dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.cohort.data import Data
from harness.cohort.stack import Cohort


@dataclass(frozen=True)
class Batch:
    """What every student sees in one step: `rows` `[groups, batch]` of an epoch; `progress` is the share done.

    `inputs` `[groups, batch, ...]` are those of the rows where they were read ahead; `part` says which part of a step's
    batch this is.
    """

    rows: Tensor
    epoch: int
    progress: float
    inputs: Tensor | None = None
    part: int = 0

    def parts(self, size: int) -> list[Batch]:
        """The batch in parts of so many examples, 0 for itself."""
        if not 0 < size < self.rows.shape[1]:
            return [self]
        rows = torch.split(self.rows, size, dim=1)
        inputs = [None] * len(rows) if self.inputs is None else torch.split(self.inputs, size, dim=1)
        return [
            replace(self, rows=own, inputs=seen, part=part)
            for part, (own, seen) in enumerate(zip(rows, inputs, strict=True))
        ]


def noise_of(parts: Sequence[Batch], noise: Tensor | None) -> Sequence[Tensor | None]:
    """The noise of each part of a batch."""
    return [None] * len(parts) if noise is None else torch.chunk(noise, len(parts), dim=1)


def draw_noise(cohort: Cohort, sources: Mapping[int, torch.Generator], shape: Sequence[int]) -> Tensor | None:
    """Uniform numbers `[students, *shape]` that decide what is dropped, from each student's own seed; None without.

    Drawn on the CPU in float32, so that they are the same on every device and in every dtype.
    """
    if cohort.dropout is None:
        return None
    drawn = {seed: torch.rand(tuple(shape), generator=source) for seed, source in sources.items()}
    return torch.stack([drawn[spec.seed] for spec in cohort.specs]).to(cohort.network.values)


def noise_shape(cohort: Cohort, data: Data, batch_size: int) -> tuple[int, ...]:
    """The shape of what the last layer reads of a batch, `[batch, ..., features]`; empty where nothing is dropped."""
    if cohort.dropout is None:
        return ()
    assert data.family.parts is not None
    dtype = getattr(torch, cohort.specs[0].dtype)  # the inputs' own may be that of token numbers
    one = {name: view[0].detach().to(dtype) for name, view in cohort.network.views.items()}
    return batch_size, *data.family.parts.embed(one, data.views[:1])["embedding"].shape[1:]
