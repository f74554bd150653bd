"""Losses and their gradients at the student's logits: in closed form for what most studies train with.

The functions in `labels`, `divergences` and `logits` define the losses, and autograd gives the same gradients of them.
Written out they take a third of the operations, and a fused step of small networks is mostly losses.

Logits are `[..., batch, classes]`, knobs `[...]`; each function gives values `[...]` and the gradient of their sum, as
the logits. The teacher's logits may have leading axes of size 1, for students who see the same. Add one here with its
line in `CLOSED`; a test holds it to the function that it stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from harness.forms import Form
from harness.losses import divergences, logits
from harness.losses.softened import difference, log_softmax, softened, wide


@dataclass(frozen=True)
class ValueAndGrad:
    """A loss, `[...]`, and the gradients of its sum: at the student's logits, and at each number that is learned."""

    value: Tensor
    grad: Tensor
    learned: Sequence[Tensor] = ()


def closed(form: Form) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """The form's closed form, which takes what its function takes; None without."""
    if form.learned or not isinstance(form.function, FunctionType):
        return None
    return CLOSED.get(form.function)


def by_autograd(
    form: Form,
    student_logits: Tensor,
    teacher_logits: Tensor,
    given: Mapping[str, Tensor | float],
    learned: Mapping[str, Tensor],
) -> ValueAndGrad:
    """Those of any form; `given` are its knobs and what it takes, `learned` the numbers that it learns.

    0 where the value does not depend on them: a user's form may say nothing at some moments.
    """
    own = student_logits.detach().requires_grad_()
    at = [own, *learned.values()]
    with torch.enable_grad():
        value = form.function(own, teacher_logits, **given, **learned)
        if not value.requires_grad:
            return ValueAndGrad(value, torch.zeros_like(own), [torch.zeros_like(number) for number in at[1:]])
        grads = torch.autograd.grad(value.sum(), at, allow_unused=True, materialize_grads=True)
    return ValueAndGrad(value.detach(), grads[0], grads[1:])


@torch.no_grad()
def cross_entropy(student_logits: Tensor, labels: Tensor, smoothing: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Of `harness.losses.cross_entropy`: `(q - y) / B` with q the student's softmax and y the smoothed label.

    `labels` `[..., batch]` may have leading axes of size 1, for students who see the same.
    """
    log_q = log_softmax(wide(student_logits))
    batch, classes = log_q.shape[-2:]
    at_label = log_q.mT.gather(-2, labels.expand(log_q.shape[:-1])[..., None, :])
    value = -at_label[..., 0, :].mean(-1)
    wanted = log_q.new_zeros(*labels.shape[:-1], classes, batch).scatter_(-2, labels[..., None, :], 1.0).mT
    if smoothing is not None:
        value = (1 - smoothing) * value - smoothing * log_q.mean((-2, -1))
        wanted = torch.lerp(wanted, torch.full_like(wanted, 1 / classes), smoothing[..., None, None])
    return value, log_q.exp().sub_(wanted).mul_(1 / batch)


@torch.no_grad()
def kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: Tensor) -> tuple[Tensor, Tensor]:
    """`T (q - p) / B`."""
    log_p, log_q = softened(student_logits, teacher_logits, temperature)
    ratio, p, q = log_p - log_q, log_p.exp(), log_q.exp()
    apart = difference(p, q, ratio)
    value = temperature**2 * p.mul_(ratio).sub_(apart).sum(-1).mean(-1)
    return value, apart.mul_(_each(-temperature, q))


@torch.no_grad()
def soft_ce(student_logits: Tensor, teacher_logits: Tensor, *, temperature: Tensor) -> tuple[Tensor, Tensor]:
    """`T (q - p) / B`."""
    log_p, log_q = softened(student_logits, teacher_logits, temperature)
    p = log_p.exp()
    value = temperature**2 * -(p * log_q).sum(-1).mean(-1)
    return value, log_q.exp().sub_(p).mul_(_each(temperature, log_q))


@torch.no_grad()
def reverse_kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: Tensor) -> tuple[Tensor, Tensor]:
    """`T q (log(q/p) - KL(q||p)) / B`."""
    log_p, log_q = softened(student_logits, teacher_logits, temperature)
    ratio, p, q = log_q - log_p, log_p.exp(), log_q.exp()
    by_example = (q * ratio - difference(q, p, ratio)).sum(-1, keepdim=True)
    value = temperature**2 * by_example[..., 0].mean(-1)
    return value, (ratio - by_example).mul_(q).mul_(_each(temperature, log_q))


@torch.no_grad()
def mse_probs(student_logits: Tensor, teacher_logits: Tensor, *, temperature: Tensor) -> tuple[Tensor, Tensor]:
    """`2 T q (d - sum q d) / B` with `d = q - p`."""
    log_p, log_q = softened(student_logits, teacher_logits, temperature)
    q = log_q.exp()
    apart = difference(log_p.exp(), q, log_p - log_q)
    value = temperature**2 * apart.square().sum(-1).mean(-1)
    centred = apart - (q * apart).sum(-1, keepdim=True)
    return value, centred.mul_(q).mul_(_each(-2 * temperature, log_q))


@torch.no_grad()
def mse(student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """`2 (z_s - z_t) / (B C)`."""
    apart = wide(student_logits) - wide(teacher_logits)
    return apart.square().mean((-1, -2)), apart.mul_(2 / apart.shape[-1] / apart.shape[-2])


@torch.no_grad()
def squared_norm(student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """`2 (z_s - z_t) / B`."""
    apart = wide(student_logits) - wide(teacher_logits)
    return apart.square().sum(-1).mean(-1), apart.mul_(2 / apart.shape[-2])


@torch.no_grad()
def centred_mse(student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """`(d - mean(d)) / (B C)` with `d = z_s - z_t`."""
    apart = wide(student_logits) - wide(teacher_logits)
    centred = apart - apart.mean(-1, keepdim=True)
    grad = centred - centred.mean(-1, keepdim=True)  # of large logits the first mean is rounded
    return centred.square().mean(-1).mean(-1) / 2, grad.div_(apart.shape[-1] * apart.shape[-2])


@torch.no_grad()
def smooth_l1(student_logits: Tensor, teacher_logits: Tensor, *, beta: Tensor) -> tuple[Tensor, Tensor]:
    """`d / beta` between -1 and 1, over `B C`, with `d = z_s - z_t`; the value from that slope."""
    apart, size = wide(student_logits) - wide(teacher_logits), beta[..., None, None]
    slope = (apart / size).clamp(-1.0, 1.0)
    value = (slope * (apart - slope * size / 2)).mean((-1, -2))
    return value, slope.div_(apart.shape[-1] * apart.shape[-2])


def _each(factor: Tensor, like: Tensor) -> Tensor:
    """A factor `[...]` over the batch, as it stands beside logits."""
    return factor[..., None, None] / like.shape[-2]


CLOSED: Mapping[Callable[..., Any], Callable[..., tuple[Tensor, Tensor]]] = {
    divergences.kl: kl,
    divergences.soft_ce: soft_ce,
    divergences.reverse_kl: reverse_kl,
    divergences.mse_probs: mse_probs,
    logits.mse: mse,
    logits.squared_norm: squared_norm,
    logits.centred_mse: centred_mse,
    logits.smooth_l1: smooth_l1,
}
"""By the function of the form."""
