"""Forms with more than one temperature: one that learns it, one that goes over a row of them.

Logits are `[..., batch, classes]`; each form gives `[...]`. Add a form here, and its line in `harness.losses.LOSSES`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from harness.losses.divergences import kl
from harness.losses.softened import gram, share, softened, wide

TEMPERATURES = (2.0, 3.0, 4.0, 5.0, 6.0)
"""The temperatures that `mlld` sums over."""


def ctkd(
    student_logits: Tensor, teacher_logits: Tensor, *, ramp: Tensor, progress: float | Tensor, theta: Tensor
) -> Tensor:
    """`kl` at a temperature `1 + 20 sigmoid(theta)` that is learned to make it larger: a curriculum.

    Logits `[..., batch, classes]`, theta `[...]` (starts at 1) and ramp `[...]` (default 10/240 of the training) ->
    `[...]`, in nats. T^2 scaled, and the gradient to theta goes through T^2 too. That gradient is multiplied by
    `-(1 - cos(pi min(progress / ramp, 1))) / 2`, from 0 to -1 along half a cosine, then -1: the value is that of `kl`,
    and theta climbs where the student descends. Li 2023, arXiv:2211.16231.
    """
    reversal = -(1 - torch.cos(math.pi * share(progress, ramp))) / 2
    # The value is theta's own, since the bracket is 0; only the bracket has a gradient.
    turned = theta.detach() + reversal * (theta - theta.detach())
    return kl(student_logits, teacher_logits, temperature=1 + 20 * torch.sigmoid(turned))


def mlld(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """`sum_T [T^2 KL(P||Q) + ||P'P - Q'Q||^2 / C + ||PP' - QQ'||^2 / B]` over T in 2, 3, 4, 5, 6.

    P and Q, `[batch, classes]`, are teacher's and student's softmax at temperature T; the norms are Frobenius's, B the
    batch and C the classes: predictions are aligned per example (`kl`, a mean over the batch), per class and per batch.
    Logits `[..., batch, classes]` -> `[...]`. The Gram terms have no T^2 and the class Gram is a sum over the batch,
    as in the authors' code; their masks of confident examples and classes, and their second, strongly augmented view,
    are left out. Jin 2023, Multi-Level Logit Distillation, CVPR (no arXiv number).
    """
    student, teacher = wide(student_logits), wide(teacher_logits)
    batch, classes = student.shape[-2:]
    total = torch.zeros_like(student[..., 0, 0])
    for degrees in TEMPERATURES:
        temperature = torch.full((), degrees, dtype=student.dtype, device=student.device)
        p, q = (log.exp() for log in softened(student, teacher, temperature))
        of_class = (gram(p.mT) - gram(q.mT)).square().sum(-1).sum(-1) / classes
        of_batch = (gram(p) - gram(q)).square().sum(-1).sum(-1) / batch
        total = total + kl(student, teacher, temperature=temperature) + of_class + of_batch
    return total
