"""A cohort's forward pass: by a family that takes many networks at once, mapped over the students, or one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from harness.cohort.data import Data
from harness.cohort.stack import Cohort
from harness.models.family import Back
from harness.models.modules import seeded
from harness.seeds import derive


def apply(cohort: Cohort, data: Data, inputs: Tensor) -> Tensor:
    """Logits `[students, batch, ..., classes]` of what each group sees, `[groups, batch, ...]`."""
    if cohort.alone:
        # A module may draw random numbers even when it is not trained.
        with seeded(derive(cohort.specs[0].seed, "module measured")), _mixed(cohort):
            own: Tensor = _exact(data.family.apply(_only(cohort), inputs[0]), cohort)
        return own[None]
    found: Tensor = _of_groups(data.family.apply, cohort, data, inputs)
    return found


@torch.no_grad()
def by_hand(cohort: Cohort, data: Data, inputs: Tensor) -> tuple[Tensor, Back] | None:
    """The logits that `apply` gives and their backward pass without autograd; None where a family has none."""
    if data.family.by_hand is None or cohort.specs[0].dtype == "bfloat16":
        return None
    return data.family.by_hand({name: view.detach() for name, view in cohort.network.views.items()}, inputs)


def learn(cohort: Cohort, data: Data, inputs: Tensor, moment: str) -> Tensor:
    """The logits that `apply` gives, as networks give them in training.

    It makes a difference to a module that is trained by itself: it may draw random numbers, which follow from the
    student's seed and the `moment`, and move its buffers, which are in `cohort.moved` until `settle`.
    """
    if not cohort.alone:
        return apply(cohort, data, inputs)
    assert data.family.learn is not None
    params, buffers = _only(cohort), _buffers(cohort, data)
    for name in buffers:
        params[name] = cohort.moved.get(name, params[name].detach()).clone()
    with seeded(derive(cohort.specs[0].seed, f"module {moment}")), _mixed(cohort):
        found: Tensor = _exact(data.family.learn(params, inputs[0]), cohort)
    cohort.moved.update({name: params[name] for name in buffers})
    return found[None]


@torch.no_grad()
def settle(cohort: Cohort) -> None:
    """Take a lone module's buffers, as the step at hand left them, into its network."""
    for name, values in cohort.moved.items():
        cohort.network.views[name][0].copy_(values)
    cohort.moved.clear()


def _only(cohort: Cohort) -> dict[str, Tensor]:
    """The parameters of the only student, in the optimiser's own numbers."""
    return {name: view[0] for name, view in cohort.network.views.items()}


def _buffers(cohort: Cohort, data: Data) -> list[str]:
    layers = data.family.layers(cohort.width, data.task.input_shape, data.task.num_classes)
    return [name for name, layer in layers.items() if layer.buffer]


def _mixed(cohort: Cohort) -> AbstractContextManager[Any]:
    """Mixed precision as torch has it, for a module that is trained by itself."""
    wanted = cohort.specs[0].dtype == "bfloat16"
    return torch.autocast(cohort.network.values.device.type, torch.bfloat16, enabled=wanted)


def embed(cohort: Cohort, data: Data, inputs: Tensor) -> Mapping[str, Tensor]:
    """The feature points `[students, batch, ...]` of what each group sees, `[groups, batch, ...]`."""
    assert data.family.parts is not None
    found: Mapping[str, Tensor] = _of_groups(data.family.parts.embed, cohort, data, inputs)
    return found


def head(cohort: Cohort, data: Data, embedding: Tensor) -> Tensor:
    """Logits of each student's own embedding `[students, batch, ..., features]`."""
    assert data.family.parts is not None
    function, params = data.family.parts.head, _params(cohort)
    own = embedding.to(next(iter(params.values())).dtype)
    found: Tensor = _exact(function(params, own) if data.family.stacks else vmap(function)(params, own), cohort)
    return found


def _of_groups(
    function: Callable[[Mapping[str, Tensor], Tensor], Any], cohort: Cohort, data: Data, inputs: Tensor
) -> Any:
    params, students = _params(cohort), len(cohort.specs)
    if data.family.stacks:
        return _exact(function(params, inputs), cohort)
    each = students // len(inputs)
    if cohort.looped:
        apart = {name: values.unbind() for name, values in params.items()}
        own = [{name: values[student] for name, values in apart.items()} for student in range(students)]
        return _exact(
            _stacked([function(own[student], inputs[student // each]) for student in range(students)]), cohort
        )
    if len(inputs) == 1:
        return _exact(vmap(function, in_dims=(0, None))(params, inputs[0]), cohort)
    return _exact(vmap(function)(params, inputs.repeat_interleave(each, 0)), cohort)


def _params(cohort: Cohort) -> dict[str, Tensor]:
    """The parameters in the networks' own numbers; gradients go to those of the optimiser."""
    dtype = getattr(torch, cohort.specs[0].dtype)
    return {name: view.to(dtype) for name, view in cohort.network.views.items()}


def _exact(found: Any, cohort: Cohort) -> Any:
    """A tensor, or a mapping of tensors, in the numbers of losses."""
    dtype = cohort.network.values.dtype
    return found.to(dtype) if isinstance(found, Tensor) else {name: value.to(dtype) for name, value in found.items()}


def _stacked(found: Sequence[Any]) -> Any:
    """Tensors, or mappings of tensors, with a leading axis of students."""
    if isinstance(found[0], Tensor):
        return torch.stack(list(found))
    return {name: torch.stack([one[name] for one in found]) for name in found[0]}
