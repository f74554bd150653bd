"""Whether networks of a family take a task's inputs and answer as its labels are laid out, and what to do if not."""

from __future__ import annotations

from contextlib import nullcontext
from functools import lru_cache

import torch
from torch import Tensor

from harness.models import Family
from harness.models.modules import of_other_kind, seeded
from harness.tasks.task import Task

TRIED = 4
"""Examples that a network is tried on."""


def sample_of(family: Family, task: Task) -> Tensor:
    """A few inputs as the family takes them: `[examples, ...]`."""
    inputs = task.train.inputs[:TRIED]
    return family.prepare(inputs.float() if inputs.is_floating_point() else inputs)


@lru_cache(maxsize=256)
def misfit(who: str, family: Family, width: int, task: Task) -> str:
    """What is wrong with the logits that `who`, a network of the family, gives of a few inputs; empty where nothing is.

    Its parameters are all 0: only the shape of its logits is looked at.
    """
    layers = family.layers(width, task.input_shape, task.num_classes)
    params = {name: torch.zeros(layer.shape) for name, layer in layers.items()}
    inputs = task.train.inputs[:TRIED]

    def call(inputs: Tensor) -> Tensor:
        with torch.no_grad(), seeded(0) if family.learn is not None else nullcontext():
            return family.apply(params, family.prepare(inputs))

    try:
        found = list(call(inputs).shape)
    except Exception as error:  # a family may be the user's own
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        given = f"inputs {list(inputs.shape)} {inputs.dtype}"
        return f"{who} does not take {given} ({said}){of_other_kind(inputs, call, error)}"
    wanted = [len(inputs), *task.train.labels.shape[1:], task.num_classes]
    told = f"{who} gives logits {found} for {len(inputs)} examples; {task.name} needs {wanted}"
    return "" if found == wanted else told + of_labels(task.train.labels)


def of_labels(labels: Tensor) -> str:
    """What labels `[examples, ...]` of several numbers an example may have been meant as; empty of one an example."""
    if labels.ndim == 1:
        return ""
    one_hot = labels.ndim == 2 and bool(((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all())
    mend = "give labels.argmax(1), one an example" if one_hot else "give one an example: multi-label is not offered"
    shape = ", ".join(["examples", *map(str, labels.shape[1:])])
    return f"; labels are [{shape}]: {mend}; where each position has one, logits must be [batch, positions, classes]"


def most_of(examples: int) -> int:
    """A batch size for so many examples: the largest power of two that is no more."""
    return 1 << (examples.bit_length() - 1)
