"""What is handed out: one trained student, and the module that takes a task's inputs to its logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from harness.models import Family
from harness.tasks import Task


@dataclass(frozen=True, eq=False)
class Student:
    """One trained network of a task's family at its own width.

    `params` are by the family's names, float32. `evidence` is what is known of it, as `harness.export.card.EVIDENCE`
    names it; whatever else is in it stands in the model card too. Raises `ValueError` for parameters that are not those
    of the family at this width, or not finite.
    """

    task: Task
    family: Family
    width: int
    params: Mapping[str, Tensor]
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        layers = self.family.layers(self.width, self.task.input_shape, self.task.num_classes)
        who = f"a student of family {self.family.name} and width {self.width}"
        if set(layers) != set(self.params):
            raise ValueError(f"{who} has parameters {', '.join(layers)}, not {', '.join(self.params)}")
        for name, layer in layers.items():
            values = self.params[name]
            if tuple(values.shape) != layer.shape or values.dtype != torch.float32:
                raise ValueError(
                    f"{who} has {name} {list(layer.shape)} float32, not {list(values.shape)} "
                    f"{str(values.dtype).removeprefix('torch.')}"
                )
            if not values.isfinite().all():
                raise ValueError(f"{who} has a number in {name} that is not finite")


class Network(nn.Module):
    """A task's inputs `[batch, ...]` -> logits `[batch, ..., classes]`: a family's `prepare` and `apply`, one network.

    A module because that is what exporters take; nothing else here is one.
    """

    def __init__(self, family: Family, params: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._family = family
        self._names: dict[str, str] = {}
        for name in params:  # torch allows no dots
            own = name.replace(".", "_")
            self._names[name] = own if own not in self._names.values() else f"{own}_{len(self._names)}"
        for name, values in params.items():
            self.register_buffer(self._names[name], values.detach().cpu().clone())

    def forward(self, inputs: Tensor) -> Tensor:
        """The logits of a batch."""
        params = {name: self.get_buffer(own) for name, own in self._names.items()}
        return self._family.apply(params, self._family.prepare(inputs))


def network(student: Student) -> Network:
    """The student as a module on the CPU, with parameters of its own."""
    return Network(student.family, student.params).eval()


def weights_bytes(student: Student) -> bytes:
    """The student's weights as a safetensors file."""
    return to_bytes({name: values.detach().cpu().contiguous() for name, values in student.params.items()})


def weights_size(student: Student) -> int:
    """The size of the student's safetensors file, in bytes."""
    return len(weights_bytes(student))


def real_inputs(task: Task, most: int) -> Tensor:
    """Up to so many of the val split's inputs, spread over it: `[examples, ...]`, float32 where they are numbers.

    Of the val split, as the test split is for the confirm stage alone.
    """
    inputs = task.val.inputs
    places = torch.linspace(0, len(inputs) - 1, min(most, len(inputs))).round().long()
    chosen: Tensor = inputs[places]
    return chosen.float() if chosen.is_floating_point() else chosen
