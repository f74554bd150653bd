"""Forms that compare the logits themselves, or what is left of them once scale or shift is taken away.

Logits are `[..., batch, classes]`, knobs `[...]`; each form gives `[...]`, a mean over the batch. Add a form here, and
its line in `harness.losses.LOSSES`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harness.losses.divergences import kl
from harness.losses.softened import cosine_distance, scaled, wide


def mse(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Mean over batch and classes of the squared difference of logits: the article's code (`nn.MSELoss`).

    Logits `[..., batch, classes]` -> `[...]`. Ba & Caruana 2014, arXiv:1312.6184; Kim 2021, arXiv:2105.08919.
    """
    return (wide(student_logits) - wide(teacher_logits)).square().mean((-1, -2))


def squared_norm(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Mean over the batch of `||z_s - z_t||^2`: the article's formula, the number of classes times `mse`.

    Logits `[..., batch, classes]` -> `[...]`.
    """
    return (wide(student_logits) - wide(teacher_logits)).square().sum(-1).mean(-1)


def centred_mse(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """`||d - mean(d)||^2 / (2C)` with `d = z_s - z_t`, mean over the batch: the limit of `kl` as T grows.

    Logits `[..., batch, classes]` -> `[...]`. The mean is over the C classes of a row. Kim 2021, arXiv:2105.08919.
    """
    apart = wide(student_logits) - wide(teacher_logits)
    return (apart - apart.mean(-1, keepdim=True)).square().mean(-1).mean(-1) / 2


def smooth_l1(student_logits: Tensor, teacher_logits: Tensor, *, beta: Tensor) -> Tensor:
    """`d^2 / (2 beta)` where `|d| < beta`, else `|d| - beta / 2`, with `d = z_s - z_t`; mean over batch and classes.

    Logits `[..., batch, classes]`, beta `[...]` above 0 (default 1) -> `[...]`. As in `torch.nn.SmoothL1Loss`; Huber's
    loss over beta.
    """
    return huber(wide(student_logits) - wide(teacher_logits), beta[..., None, None]).mean(-1).mean(-1)


def cosine(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """`1 - cos(z_s, z_t)` per example, mean over the batch, as DistilBERT (arXiv:1910.01108) has it for hidden states.

    Logits `[..., batch, classes]` -> `[...]`, from 0 to 2. A row of noughts has no direction: 1, and no gradient.
    """
    return cosine_distance(wide(student_logits), wide(teacher_logits)).mean(-1)


def logit_standard(student_logits: Tensor, teacher_logits: Tensor, *, temperature: Tensor) -> Tensor:
    """`kl` of logits standardised per example: `(z - mean) / (std + 1e-7)` over the classes, std over C - 1.

    Logits `[..., batch, classes]`, temperature `[...]` (default 2) -> `[...]`, in nats. T^2 scaled. Sun 2024,
    arXiv:2403.01427. A constant row has standard deviation 0, so that its gradient is finite, but of order 1e7.
    """
    return kl(_standardised(wide(student_logits)), _standardised(wide(teacher_logits)), temperature=temperature)


def dist(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: Tensor, inter: Tensor, intra: Tensor
) -> Tensor:
    """`T^2 (inter mean_b(1 - r_b) + intra mean_c(1 - r_c))`, r Pearson's correlation of p and q.

    r_b is over the classes of an example, r_c over the batch of a class; p and q are the softmax at temperature T.
    Logits `[..., batch, classes]`, knobs `[...]` (defaults 1, 1, 1) -> `[...]`. Huang 2022, arXiv:2205.10536.

    A row or column without variance (to rounding) correlates with nothing: r is 0, and has no gradient. Over the
    classes p may be in any unit, so `expm1((z - max z) / T)` serves: exact at a high temperature and in ties.
    """
    student, teacher = scaled(student_logits, temperature), scaled(teacher_logits, temperature)
    of_rows = cosine_distance(_over_classes(student), _over_classes(teacher))
    of_columns = cosine_distance(_over_batch(student), _over_batch(teacher), dim=-2)
    return temperature**2 * (inter * of_rows.mean(-1) + intra * of_columns.mean(-1))


def huber(apart: Tensor, beta: Tensor | float) -> Tensor:
    """`d^2 / (2 beta)` where `|d| < beta`, else `|d| - beta / 2`."""
    size = apart.abs()
    return torch.where(size < beta, apart.square() / (2 * beta), size - beta / 2)


def _standardised(logits: Tensor) -> Tensor:
    """`(z - mean) / (std + 1e-7)` over the last axis; shifted first by its maximum, so that ties are exactly 0."""
    shifted = logits - logits.detach().amax(-1, keepdim=True)
    centred = shifted - shifted.mean(-1, keepdim=True)
    variance = centred.square().sum(-1, keepdim=True) / max(logits.shape[-1] - 1, 1)
    std = torch.where(variance > 0, torch.where(variance > 0, variance, 1).sqrt(), 0)
    return centred / (std + 1e-7)


def _over_classes(logits: Tensor) -> Tensor:
    """The softmax less its mean over the classes, in a unit of the row's own."""
    row = torch.expm1(logits - logits.detach().amax(-1, keepdim=True))
    return row - row.mean(-1, keepdim=True)


def _over_batch(logits: Tensor) -> Tensor:
    """The softmax less its mean over the batch, or 0 in a column that varies by no more than rounding."""
    probs = logits.softmax(-1)
    from_first = probs - probs[..., :1, :].detach()
    rounding = 4 * torch.finfo(probs.dtype).eps * probs.detach().amax(-2, keepdim=True)
    varies = from_first.detach().abs().amax(-2, keepdim=True) > rounding
    return torch.where(varies, from_first - from_first.mean(-2, keepdim=True), 0)
