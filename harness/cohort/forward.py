"""A cohort's forward pass: by a family that takes many networks at once, mapped over the students, or one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
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
    each = students // len(inputs)
    if cohort.looped:
        apart = {name: view.unbind() for name, view in params.items()}
        own = [{name: views[student] for name, views in apart.items()} for student in range(students)]
        return _stacked([function(own[student], inputs[student // each]) for student in range(students)])
    if len(inputs) == 1:
        return vmap(function, in_dims=(0, None))(params, inputs[0])
    return vmap(function)(params, inputs.repeat_interleave(each, 0))


def _stacked(found: Sequence[Any]) -> Any:
    """Tensors, or mappings of tensors, with a leading axis of students."""
    if isinstance(found[0], Tensor):
        return torch.stack(list(found))
    return {name: torch.stack([one[name] for one in found]) for name in found[0]}
