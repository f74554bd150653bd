"""The network of a task's recipe: how it is trained, and asked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.models import init
from harness.models.modules import seeded
from harness.seeds import generator
from harness.tasks import Inputs, Split, Stream, Task, TeacherRecipe, in_parts
from harness.tasks.fits import most_of
from harness.tasks.transforms import shifted

Progress = Callable[[int, int, float], None]
"""Called after each epoch with its number, the number of epochs, and the val accuracy."""


@torch.no_grad()
def forward(recipe: TeacherRecipe, params: dict[str, Tensor], inputs: Inputs) -> Tensor:
    """Logits of inputs `[examples, ...]`, on the CPU."""
    device = next(iter(params.values())).device
    said = (recipe.family.apply(params, recipe.family.prepare(part.to(device))) for part in in_parts(inputs, 500))
    return torch.cat([logits.cpu() for logits in said])


class Training:
    """A network of a recipe, step by step: AdamW with half a cosine over `num_steps`."""

    def __init__(self, task: Task, recipe: TeacherRecipe, start: torch.Generator, num_steps: int, device: str) -> None:
        self._family, self._device, self._smoothing = recipe.family, device, recipe.label_smoothing
        first = init(recipe.family, recipe.width, task.input_shape, task.num_classes, start)
        layers = recipe.family.layers(recipe.width, task.input_shape, task.num_classes)
        self._still = [name for name, layer in layers.items() if layer.buffer or layer.frozen]
        self.params = {name: param.to(device, torch.float32) for name, param in first.items()}
        learned = [param.requires_grad_() for name, param in self.params.items() if name not in self._still]
        self._seed = int(torch.randint(2**62, (), generator=start)) if recipe.family.learn else 0
        self._optimiser = torch.optim.AdamW(learned, lr=recipe.lr, weight_decay=recipe.weight_decay)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimiser, lambda step: 0.5 + 0.5 * math.cos(math.pi * step / num_steps)
        )

    def step(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Take one step on a batch and return its logits before the step, `[batch, ..., classes]`."""
        logits = self._learn(self._family.prepare(inputs.to(self._device)))
        hard = labels.to(self._device).flatten()
        loss = F.cross_entropy(logits.flatten(0, -2), hard, label_smoothing=self._smoothing)
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        self._schedule.step()
        return logits.detach()

    def _learn(self, prepared: Tensor) -> Tensor:
        """The logits as in training; a module of a user's own may then draw random numbers and move its buffers."""
        if self._family.learn is None:
            return self._family.apply(self.params, prepared)
        own = {name: param.clone() if name in self._still else param for name, param in self.params.items()}
        self._seed += 1
        with seeded(self._seed):
            logits = self._family.learn(own, prepared)
        self.params.update({name: own[name] for name in self._still})
        return logits


def check_batch(task: Task, recipe: TeacherRecipe, examples: int) -> None:
    """Raise `ValueError` where a batch of a recipe's is more than the examples that have a label."""
    if recipe.batch_size > examples:
        raise ValueError(
            f"the teacher of {task.name} has batch_size {recipe.batch_size}, more than the {examples} training "
            f"examples that have a label; write TeacherRecipe(..., batch_size={most_of(examples)})"
        )


def taught(train: Split) -> Split:
    """The examples of the train split that have a label."""
    return train if train.labelled is None else Split(train.inputs[train.labelled], train.labels[train.labelled])


def train(task: Task, recipe: TeacherRecipe, epochs: int, device: str, progress: Progress) -> dict[str, Tensor]:
    """The teacher's parameters after so many epochs of its schedule, float32."""
    own = taught(task.train)
    check_batch(task, recipe, len(own))
    num_steps = recipe.epochs * (len(own) // recipe.batch_size)
    training = Training(task, recipe, generator(recipe.seed, "init"), num_steps, device)
    noise = generator(recipe.seed, "order")
    for epoch in range(1, epochs + 1):
        for inputs, labels in _batches(own, recipe, noise):
            training.step(inputs, labels)
        progress(epoch, epochs, accuracy(forward(recipe, training.params, task.val.inputs), task.val))
    return {name: param.detach() for name, param in training.params.items()}


def _batches(split: Split, recipe: TeacherRecipe, noise: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of whole batches in random order, each image shifted at random."""
    order = torch.randperm(len(split), generator=noise)
    batches = torch.split(order[: len(split) // recipe.batch_size * recipe.batch_size], recipe.batch_size)
    streamed = isinstance(split.inputs, Stream)
    read = split.inputs.batches([index.tolist() for index in batches]) if isinstance(split.inputs, Stream) else ()
    for index, inputs in zip(batches, read if streamed else (split.inputs[index] for index in batches), strict=True):
        yield (shifted(inputs, recipe.shift, noise) if recipe.shift else inputs), split.labels[index]


def accuracy(logits: Tensor, split: Split) -> float:
    """Of logits `[examples, ..., classes]`, the share that is right of a split's examples that have a label."""
    right = (logits.argmax(-1) == split.labels).float()
    return (right if split.labelled is None else right[split.labelled]).mean().item()
