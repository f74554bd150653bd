"""A cohort's forward pass: by a family that takes many networks at once, or mapped over the students."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.func import vmap

from harness.cohort.data import Data
from harness.cohort.stack import Cohort


def apply(cohort: Cohort, data: Data, inputs: Tensor) -> Tensor:
    """Logits `[students, batch, ..., classes]` of what each group sees, `[groups, batch, ...]`."""
    found: Tensor = _of_groups(data.family.apply, cohort, data, inputs)
    return found


def embed(cohort: Cohort, data: Data, inputs: Tensor) -> Mapping[str, Tensor]:
    """The feature points `[students, batch, ...]` of what each group sees, `[groups, batch, ...]`."""
    assert data.family.parts is not None
    found: Mapping[str, Tensor] = _of_groups(data.family.parts.embed, cohort, data, inputs)
    return found


def head(cohort: Cohort, data: Data, embedding: Tensor) -> Tensor:
    """Logits of each student's own embedding `[students, batch, ..., features]`."""
    assert data.family.parts is not None
    function, params = data.family.parts.head, cohort.network.views
    return function(params, embedding) if data.family.stacks else vmap(function)(params, embedding)


def _of_groups(
    function: Callable[[Mapping[str, Tensor], Tensor], Any], cohort: Cohort, data: Data, inputs: Tensor
) -> Any:
    params, students = cohort.network.views, len(cohort.specs)
    if data.family.stacks:
        return function(params, inputs)
    if len(inputs) == 1:
        return vmap(function, in_dims=(0, None))(params, inputs[0])
    return vmap(function)(params, inputs.repeat_interleave(students // len(inputs), 0))
