"""Divergences of the softened probabilities: p is the teacher's softmax at temperature T, q the student's.

Logits are `[..., batch, classes]`, knobs `[...]`; each form gives `[...]`, a mean over the batch, scaled by T^2. Add a
divergence here, and its line in `harness.losses.LOSSES`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harness.losses.softened import difference, kl_terms, softened


def kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: Tensor) -> Tensor:
    """`T^2 sum p log(p/q)`, mean over the batch; p and q are the teacher's and the student's softmax at temperature T.

    Logits `[..., batch, classes]`, temperature `[...]` (default 4) -> `[...]`, in nats. Hinton 2015, arXiv:1503.02531.

    Written as `sum p r - (p - q)` with `r = log(p/q)`: the added terms sum to nothing, and make each summand
    non-negative, so that nothing cancels at a high temperature (the plain form is 9% wrong in float32 at 1e4).
    """
    log_p, log_q = softened(student_logits, teacher_logits, temperature)
    return temperature**2 * kl_terms(log_p, log_q, log_p - log_q).sum(-1).mean(-1)


def soft_ce(student_logits: Tensor, teacher_logits: Tensor, *, temperature: Tensor) -> Tensor:
    """`T^2 (-sum p log q)`, mean over the batch: the article's softmax cross-entropy on the teacher's outputs.

    Logits `[..., batch, classes]`, temperature `[...]` (default 4) -> `[...]`, in nats. `kl` plus T^2 times the
    teacher's entropy, which does not depend on the student: the same gradient. Hinton 2015, arXiv:1503.02531.
    """
    log_p, log_q = softened(student_logits, teacher_logits, temperature)
    return temperature**2 * -(log_p.exp() * log_q).sum(-1).mean(-1)


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: Tensor) -> Tensor:
    """`T^2 sum q log(q/p)`, mean over the batch: the student is to stay where the teacher has mass.

    Logits `[..., batch, classes]`, temperature `[...]` (default 1) -> `[...]`, in nats. MiniLLM, arXiv:2306.08543.
    """
    log_p, log_q = softened(student_logits, teacher_logits, temperature)
    return temperature**2 * kl_terms(log_q, log_p, log_q - log_p).sum(-1).mean(-1)


def gjsd(student_logits: Tensor, teacher_logits: Tensor, *, temperature: Tensor, beta: Tensor) -> Tensor:
    """`T^2 (beta KL(p||m) + (1 - beta) KL(q||m))` with `m = beta p + (1 - beta) q`, mean over the batch.

    Logits `[..., batch, classes]`, temperature and beta `[...]` (defaults 1 and .5) -> `[...]`, in nats. Beta is
    above 0 and below 1; near either it only rescales the step, so keep it in [.1, .9]. GKD, arXiv:2306.13649.

    With r = log(p/q), log m is the larger of log p and log q plus `log1p(w expm1(-|r|))`, w the weight of the
    smaller: nothing overflows, and log(p/m) and log(q/m) come straight from r.
    """
    log_p, log_q = softened(student_logits, teacher_logits, temperature)
    weight = beta[..., None, None]
    ratio = log_p - log_q
    above = ratio > 0
    shrink = torch.log1p(torch.where(above, 1 - weight, weight) * torch.expm1(torch.where(above, -ratio, ratio)))
    log_m = torch.where(above, log_p, log_q) + shrink
    of_p = kl_terms(log_p, log_m, torch.where(above, 0, ratio) - shrink)
    of_q = kl_terms(log_q, log_m, torch.where(above, -ratio, 0) - shrink)
    return temperature**2 * (weight * of_p + (1 - weight) * of_q).sum(-1).mean(-1)


def js(student_logits: Tensor, teacher_logits: Tensor, *, temperature: Tensor) -> Tensor:
    """`T^2 (KL(p||m) + KL(q||m)) / 2` with `m = (p + q) / 2`, mean over the batch: `gjsd` at beta .5.

    Logits `[..., batch, classes]`, temperature `[...]` (default 1) -> `[...]`, in nats, at most T^2 log 2. GKD,
    arXiv:2306.13649.
    """
    return gjsd(student_logits, teacher_logits, temperature=temperature, beta=torch.full_like(temperature, 0.5))


def tvd(student_logits: Tensor, teacher_logits: Tensor, *, temperature: Tensor) -> Tensor:
    """`T^2 sum |p - q| / 2`, mean over the batch: the total variation distance, as DistillKit has it.

    Logits `[..., batch, classes]`, temperature `[...]` (default 1) -> `[...]`, from 0 to T^2. No gradient where p = q.
    """
    log_p, log_q = softened(student_logits, teacher_logits, temperature)
    return temperature**2 * difference(log_p.exp(), log_q.exp(), log_p - log_q).abs().sum(-1).mean(-1) / 2


def mse_probs(student_logits: Tensor, teacher_logits: Tensor, *, temperature: Tensor) -> Tensor:
    """`T^2 sum (p - q)^2`, mean over the batch and a sum over the classes: KD_Lib's vanilla KD.

    Logits `[..., batch, classes]`, temperature `[...]` (default 4) -> `[...]`, from 0 to 2 T^2.
    """
    log_p, log_q = softened(student_logits, teacher_logits, temperature)
    return temperature**2 * difference(log_p.exp(), log_q.exp(), log_p - log_q).square().sum(-1).mean(-1)
