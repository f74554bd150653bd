"""What a cohort's students measure on a split, and what they say."""

from __future__ import annotations

import torch
from torch import Tensor

from harness import losses
from harness.cohort.data import Data
from harness.cohort.forward import apply, embed
from harness.cohort.stack import Cohort
from harness.targets import Targets

EVALUATION_BATCH = 250


@torch.no_grad()
def evaluate(cohort: Cohort, data: Data, split: str, *, teacher: bool = False) -> Tensor:
    """Loss and accuracy, and on val, if wanted, agreement with the task's teacher and KL to it: `[2 or 4, students]`
    float64."""
    values = cohort.network.values
    sums = torch.zeros(4 if teacher else 2, len(values), dtype=torch.float64, device=values.device)
    inputs, labels = data.inputs[split], data.labels[split]
    for start in range(0, len(inputs), EVALUATION_BATCH):
        part = slice(start, start + EVALUATION_BATCH)
        logits = apply(cohort, data, inputs[None, part]).flatten(1, -2).contiguous()
        truth = labels[part].flatten().expand(logits.shape[:-1])
        predicted, count = logits.argmax(-1), truth.shape[-1]
        sums[0] += count * losses.cross_entropy(logits, truth)
        sums[1] += (predicted == truth).sum(-1)
        if teacher:
            wanted = data.val_logits[part].flatten(0, -2).expand_as(logits)
            sums[2] += (predicted == wanted.argmax(-1)).sum(-1)
            sums[3] += count * losses.kl(logits, wanted, temperature=torch.ones_like(values[:, 0]))
    return sums / labels.numel()


def final_metrics(cohort: Cohort, data: Data) -> list[dict[str, float]]:
    """What every student's record measures after its last step."""
    names = ("val_loss", "val_accuracy", "val_agreement", "val_kl", "train_loss", "train_accuracy")
    found = torch.cat([evaluate(cohort, data, "val", teacher=True), evaluate(cohort, data, "train")])
    order = ("val_accuracy", "val_loss", "val_agreement", "val_kl", "train_accuracy", "train_loss")
    rows = [dict(zip(names, row, strict=True)) for row in found.T.tolist()]
    return [{name: row[name] for name in order} for row in rows]


@torch.no_grad()
def answers(cohort: Cohort, data: Data, *, points: bool) -> list[Targets]:
    """What every student says of all rows, for students that it is to teach; with its feature points if wanted."""
    batches = torch.split(data.views, EVALUATION_BATCH)
    logits = torch.cat([apply(cohort, data, batch[None]) for batch in batches], dim=1)
    found: dict[str, Tensor] = {}
    if points:
        assert data.family.parts is not None
        parts = [embed(cohort, data, batch[None]) for batch in batches]
        found = {name: torch.cat([part[name] for part in parts], dim=1) for name in data.family.parts.points}
    return [Targets(own, {name: point[i] for name, point in found.items()}) for i, own in enumerate(logits)]
