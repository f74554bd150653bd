"""Forms that need the labels: they treat the true class apart from the rest, or weigh examples by it.

Logits are `[..., batch, classes]`, labels int64 `[..., batch]`, knobs `[...]`; each form gives `[...]`, a mean over the
batch. Add a form here, and its line in `harness.losses.LOSSES` with `takes=("labels",)`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.losses.softened import kl_terms, share, softened, split, wide


def dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: Tensor,
    target: Tensor,
    rest: Tensor,
    warmup: Tensor,
    labels: Tensor,
    progress: float | Tensor,
) -> Tensor:
    """`min(progress / warmup, 1) T^2 (target TCKD + rest NCKD)`, mean over the batch, all at temperature T.

    TCKD is the KL of (p_y, 1 - p_y) to (q_y, 1 - q_y), y the label; NCKD the KL of the teacher's softmax over the
    other classes to the student's. Logits `[..., batch, classes]`, labels `[..., batch]`, knobs `[...]` -> `[...]`, in
    nats. Defaults: T 4, target (the paper's alpha) 1, rest (its beta) 8, warmup 20/240 of the training. With two
    classes NCKD is empty: 0. Zhao 2022, arXiv:2203.08679.
    """
    log_p, log_q = softened(student_logits, teacher_logits, temperature)
    q_y, p_y, q_rest, p_rest = split(log_q, log_p, labels)
    log_p = torch.stack([p_y, p_rest.logsumexp(-1)], -1)
    log_q = torch.stack([q_y, q_rest.logsumexp(-1)], -1)
    tckd = kl_terms(log_p, log_q, log_p - log_q).sum(-1).mean(-1)
    _, _, student_rest, teacher_rest = split(wide(student_logits), wide(teacher_logits), labels)
    log_p, log_q = softened(student_rest, teacher_rest, temperature)
    nckd = kl_terms(log_p, log_q, log_p - log_q).sum(-1).mean(-1)
    return share(progress, warmup) * temperature**2 * (target * tckd + rest * nckd)


def nkd(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: Tensor, gamma: Tensor, labels: Tensor
) -> Tensor:
    """`-p_y log q_y - gamma T^2 sum_{i != y} p^_i log q^_i`, mean over the batch; y is the label.

    p_y and q_y are at temperature 1 whatever T is; p^ and q^ are the softmax over the other classes at temperature T.
    Logits `[..., batch, classes]`, labels `[..., batch]`, knobs `[...]` (defaults T 1, gamma 1.5) -> `[...]`, in nats.
    Not a divergence: the first term still pulls on a student that equals its teacher. Yang 2023, arXiv:2303.13005.
    """
    student, teacher = wide(student_logits), wide(teacher_logits)
    q_y, p_y, _, _ = split(student.log_softmax(-1), teacher.log_softmax(-1), labels)
    _, _, student_rest, teacher_rest = split(student, teacher, labels)
    log_p, log_q = softened(student_rest, teacher_rest, temperature)
    of_target = -(p_y.exp() * q_y).mean(-1)
    of_rest = -(log_p.exp() * log_q).sum(-1).mean(-1)
    return of_target + gamma * temperature**2 * of_rest


def wsld(student_logits: Tensor, teacher_logits: Tensor, *, temperature: Tensor, labels: Tensor) -> Tensor:
    """`T^2 mean_b (1 - exp(-CE_s / CE_t)) (-sum p log q)`: an example counts less, the better the student has it.

    CE_s and CE_t are student's and teacher's cross-entropies with the label at temperature 1, p and q at temperature
    T. The weight of an example is a constant to the gradient. Where CE_t is 0 it is 1, or 0 if CE_s is 0 too. Logits
    `[..., batch, classes]`, labels `[..., batch]`, temperature `[...]` (default 4) -> `[...]`, in nats. Zhou 2021,
    arXiv:2102.00650.
    """
    log_p, log_q = softened(student_logits, teacher_logits, temperature)
    student, teacher, student_rest, teacher_rest = split(
        wide(student_logits).detach(), wide(teacher_logits).detach(), labels
    )
    # CE = log(1 + sum of the others over the label): log_softmax would round a sure network's to a multiple of 1e-7.
    of_student = F.softplus((student_rest - student[..., None]).logsumexp(-1))
    of_teacher = F.softplus((teacher_rest - teacher[..., None]).logsumexp(-1))
    weight = -torch.expm1(-of_student / of_teacher.clamp(min=torch.finfo(of_teacher.dtype).tiny))
    return temperature**2 * (weight * -(log_p.exp() * log_q).sum(-1)).mean(-1)
