"""What a cohort's students measure on a split, and what they say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from harness import losses
from harness.cohort.checkpoint import State, numbers_by_width
from harness.cohort.data import Data
from harness.cohort.forward import apply, embed
from harness.cohort.stack import Cohort
from harness.seeds import generator
from harness.targets import Targets
from harness.tasks import in_parts

EVALUATION_BATCH = 250
NUM_WRITTEN = 120
"""Tokens that a language model writes as a sample."""
NUM_BINS = 15
"""Of the expected calibration error (Guo 2017, arXiv:1706.04599)."""


@torch.no_grad()
def evaluate(cohort: Cohort, data: Data, split: str) -> Tensor:
    """Loss and accuracy, `[2, students]` float64."""
    sums = torch.zeros(2, len(cohort.specs), dtype=torch.float64, device=cohort.network.values.device)
    for _, logits, truth in _answered(cohort, data, split):
        sums += _loss_and_right(logits, logits.argmax(-1), truth)
    return sums / data.measured(split)[1].numel()


def _loss_and_right(logits: Tensor, predicted: Tensor, truth: Tensor) -> Tensor:
    """The summed loss of a batch, and how many are right: `[2, students]`."""
    return torch.stack([truth.shape[-1] * losses.cross_entropy(logits, truth), (predicted == truth).sum(-1)])


def _answered(cohort: Cohort, data: Data, split: str) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Batch by batch: the part of the split, the logits `[students, examples, classes]`, the labels
    `[students, examples]`."""
    inputs, labels = data.measured(split)
    for number, own in enumerate(in_parts(inputs, EVALUATION_BATCH)):
        part = slice(number * EVALUATION_BATCH, (number + 1) * EVALUATION_BATCH)
        logits = apply(cohort, data, own[None]).flatten(1, -2).contiguous()
        yield part, logits, labels[part].flatten().expand(logits.shape[:-1])


def final_metrics(cohort: Cohort, data: Data) -> list[dict[str, float]]:
    """What every student's record measures after its last step."""
    found: dict[str, Tensor] = {}
    for split in ("val", "test") if data.confirms else ("val",):
        own = _all_metrics(cohort, data, split)
        if split == "test":
            truth = data.labels[split].flatten()
            right = (data.teacher[split].flatten(0, -2).argmax(-1) == truth).double().mean()
            own["teacher_accuracy"] = right.expand_as(own["accuracy"])
        found |= {f"{split}_{name}": values for name, values in own.items()}
    found["train_loss"], found["train_accuracy"] = evaluate(cohort, data, "train")
    order = sorted(found, key=lambda name: name.endswith(("ece", "brier")))
    columns = {name: found[name].tolist() for name in order}
    return [{name: column[student] for name, column in columns.items()} for student in range(len(cohort.specs))]


@torch.no_grad()
def _all_metrics(cohort: Cohort, data: Data, split: str) -> dict[str, Tensor]:
    """Accuracy and loss, agreement with the task's teacher and KL to it, the expected calibration error, and the Brier
    score (the mean of squared differences summed over classes): `[students]` float64 each."""
    students, device = len(cohort.specs), cohort.network.values.device
    sums = torch.zeros(5, students, dtype=torch.float64, device=device)
    surplus = torch.zeros(students, NUM_BINS, dtype=torch.float64, device=device)
    at_one = torch.ones_like(cohort.network.values[:, 0])
    for part, logits, truth in _answered(cohort, data, split):
        predicted, wanted = logits.argmax(-1), data.teacher[split][part].flatten(0, -2).expand_as(logits)
        agreed, kl = (predicted == wanted.argmax(-1)).sum(-1), losses.kl(logits, wanted, temperature=at_one)
        chances = logits.double().softmax(-1)
        confidence, likeliest = chances.max(-1)
        of_label = chances.gather(-1, truth[..., None])[..., 0]
        brier = (chances.square().sum(-1) - 2 * of_label + 1).sum(-1)
        sums += torch.stack([*_loss_and_right(logits, predicted, truth), agreed, truth.shape[-1] * kl, brier])
        bins = (confidence * NUM_BINS).ceil().long().sub(1).clamp(0, NUM_BINS - 1)
        surplus.scatter_add_(1, bins, (likeliest == truth).double() - confidence)
    count = data.labels[split].numel()
    loss, accuracy, agreement, kl, brier = sums / count
    ece = surplus.abs().sum(-1) / count
    return {"accuracy": accuracy, "loss": loss, "agreement": agreement, "kl": kl, "ece": ece, "brier": brier}


@torch.no_grad()
def confirmed(cohort: Cohort, data: Data, num_epochs: Sequence[int]) -> list[State]:
    """What is kept of every student of the confirm stage for good: its `network` at its own width, and of every test
    example its label, what it `predicted`, and the chances that it gave to that (`confidence`) and to the label
    (`chance`)."""
    parts: dict[str, list[Tensor]] = {"predicted": [], "confidence": [], "chance": []}
    for _, logits, truth in _answered(cohort, data, "test"):
        chances = logits.double().softmax(-1)
        confidence, predicted = chances.max(-1)
        parts["predicted"].append(predicted.int())
        parts["confidence"].append(confidence.float())
        parts["chance"].append(chances.gather(-1, truth[..., None])[..., 0].float())
    said = {name: torch.cat(own, dim=1).cpu() for name, own in parts.items()}
    labels = data.labels["test"].flatten().int().cpu()
    if data.task.vocabulary:
        said["sample"] = _written(cohort, data)
    mine = numbers_by_width(cohort, data)
    return [
        State(
            num_epochs[student],
            {
                "network": cohort.network.values[student, mine[spec.width]].cpu(),
                **{name: values[student].contiguous() for name, values in said.items()},
                "labels": labels.clone(),
            },
        )
        for student, spec in enumerate(cohort.specs)
    ]


def _written(cohort: Cohort, data: Data) -> Tensor:
    """What every language model writes on from the first val text, `[students, tokens]`: the text, then its own.

    Drawn from the model's chances as they are, by the student's own seed. Of a model that diverged, the first token.
    """
    text: Tensor = data.inputs["val"][:1].expand(len(cohort.specs), -1)
    length, sources = text.shape[1], [generator(spec.seed, "sample") for spec in cohort.specs]
    for _ in range(NUM_WRITTEN):
        logits = apply(cohort, data, text[:, None, -length:])[:, 0, -1]  # each student has a text of its own
        safe = logits.double().softmax(-1).cpu().nan_to_num(nan=0.0)
        safe[:, 0] += safe.sum(-1) == 0
        drawn = [torch.multinomial(row, 1, generator=source) for row, source in zip(safe, sources, strict=True)]
        text = torch.cat([text, torch.stack(drawn).to(text)], dim=1)
    return text.int().cpu()


@torch.no_grad()
def answers(cohort: Cohort, data: Data, *, points: bool) -> list[Targets]:
    """What every student says of all rows, for students that it is to teach; with its feature points if wanted."""
    logits = torch.cat([apply(cohort, data, batch[None]) for batch in in_parts(data.views, EVALUATION_BATCH)], dim=1)
    found: dict[str, Tensor] = {}
    if points:
        assert data.family.parts is not None
        parts = [embed(cohort, data, batch[None]) for batch in in_parts(data.views, EVALUATION_BATCH)]
        found = {name: torch.cat([part[name] for part in parts], dim=1) for name in data.family.parts.points}
    return [Targets(own, {name: point[i] for name, point in found.items()}) for i, own in enumerate(logits)]
