"""Losses and their gradients at the student's logits: in closed form for what most studies train with.

The functions in `labels`, `divergences` and `logits` define the losses, and autograd gives the same gradients of them.
Written out they take a third of the operations, and a fused step of small networks is mostly losses.

Logits are `[..., students, batch, classes]`, knobs `[..., students]`. A closed form is made of one of two things, which
neighbours of several forms share: both softmaxes at a temperature (`Softened`), or how far the logits are apart
(`Apart`). Add one here with its line in `CLOSED`; a test holds it to the function that it stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Self

import torch
from torch import Tensor

from harness.forms import Form
from harness.losses import divergences, logits
from harness.losses.chosen import find_form
from harness.losses.softened import log_softmax, scaled, wide
from harness.spec import PLAIN, StudentSpec

Found = tuple[Tensor, Tensor, Tensor | float]
"""Values `[..., students]`; a slope like the logits; and a factor, a number or `[..., students]`, whose product with it
is the gradient of the values' sum. Whoever weighs the gradient multiplies but once."""


@dataclass(frozen=True)
class ValueAndGrad:
    """A loss, `[...]`, and the gradients of its sum: at the student's logits, and at each number that is learned."""

    value: Tensor
    grad: Tensor
    learned: Sequence[Tensor] = ()


@dataclass(frozen=True)
class Softened:
    """The teacher's p and the student's q at a temperature, `[..., students, batch, classes]`, and their logarithms."""

    log_p: Tensor
    log_q: Tensor
    p: Tensor
    q: Tensor
    temperature: Tensor

    @classmethod
    def of(cls, log_probs: Tensor, teacher_logits: Tensor, temperature: Tensor) -> Self:
        """`log_probs` are the student's at temperature 1. The teacher's logits may have leading axes of size 1, for
        students who see the same."""
        log_q = log_softmax(log_probs / temperature[..., None, None])
        log_p = log_softmax(scaled(teacher_logits, temperature))
        return cls(log_p, log_q, log_p.exp(), log_q.exp(), temperature)

    def split(self, counts: Sequence[int]) -> list[Self]:
        """Those of neighbours, so many students each."""
        parts = [each.split_with_sizes(counts, -3) for each in (self.log_p, self.log_q, self.p, self.q)]
        return [type(self)(*part) for part in zip(*parts, self.temperature.split_with_sizes(counts, -1), strict=True)]

    @property
    def heat(self) -> Tensor:
        """A temperature over the batch."""
        return self.temperature / self.p.shape[-2]


@dataclass(frozen=True)
class Apart:
    """The student's logits less the teacher's, `[..., students, batch, classes]`."""

    values: Tensor

    @classmethod
    def of(cls, student_logits: Tensor, teacher_logits: Tensor) -> Self:
        """The teacher's logits may have leading axes of size 1."""
        return cls(wide(student_logits) - wide(teacher_logits))

    def split(self, counts: Sequence[int]) -> list[Self]:
        """Those of neighbours, so many students each."""
        return [type(self)(part) for part in self.values.split_with_sizes(counts, -3)]


@dataclass(frozen=True)
class Closed:
    """A form in closed form: what it is made of, what it makes of that, and the knobs that it takes besides."""

    base: type[Softened] | type[Apart]
    function: Callable[..., Found]
    knobs: tuple[str, ...] = ()


def closed(form: Form) -> Closed | None:
    """The form's closed form; None without."""
    if form.learned or not isinstance(form.function, FunctionType):
        return None
    return CLOSED.get(form.function)


def made_of(spec: StudentSpec) -> str:
    """What a student's loss in closed form is made of, empty without: those of a kind should be neighbours."""
    found = None if spec.form == PLAIN else closed(find_form(spec))
    return found.base.__name__ if found is not None else ""


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
def cross_entropy(log_probs: Tensor, labels: Tensor, smoothing: Tensor | None = None) -> Found:
    """Of `harness.losses.cross_entropy`: `(q - y) / B` with q the student's softmax and y the smoothed label.

    `labels` `[..., batch]` may have leading axes of size 1, for students who see the same.
    """
    batch, classes = log_probs.shape[-2:]
    at_label = log_probs.mT.gather(-2, labels.expand(log_probs.shape[:-1])[..., None, :])
    value = at_label[..., 0, :].mean(-1).neg_()
    wanted = log_probs.new_zeros(*labels.shape[:-1], classes, batch).scatter_(-2, labels[..., None, :], 1.0).mT
    if smoothing is not None:
        value = (1 - smoothing) * value - smoothing * log_probs.mean((-2, -1))
        wanted = torch.lerp(wanted, torch.full_like(wanted, 1 / classes), smoothing[..., None, None])
    return value, log_probs.exp().sub_(wanted), 1 / batch


def kl(at: Softened) -> Found:
    """`T (q - p) / B`."""
    ratio, heat = at.log_p - at.log_q, at.heat
    apart = _difference(at.p, at.q, ratio)
    return (at.p * ratio).sub_(apart).sum((-1, -2)).mul_(at.temperature * heat), apart, -heat


def soft_ce(at: Softened) -> Found:
    """`T (q - p) / B`."""
    heat = at.heat
    return (at.p * at.log_q).sum((-1, -2)).mul_(-at.temperature * heat), at.q - at.p, heat


def reverse_kl(at: Softened) -> Found:
    """`T q (log(q/p) - KL(q||p)) / B`."""
    ratio, heat = at.log_q - at.log_p, at.heat
    by_example = (at.q * ratio).sub_(_difference(at.q, at.p, ratio)).sum(-1, keepdim=True)
    return by_example.sum((-1, -2)).mul_(at.temperature * heat), (ratio - by_example).mul_(at.q), heat


def mse_probs(at: Softened) -> Found:
    """`2 T q (d - sum q d) / B` with `d = q - p`."""
    apart, heat = _difference(at.p, at.q, at.log_p - at.log_q), at.heat
    centred = apart - (at.q * apart).sum(-1, keepdim=True)
    return apart.square().sum((-1, -2)).mul_(at.temperature * heat), centred.mul_(at.q), -2 * heat


def mse(at: Apart) -> Found:
    """`2 (z_s - z_t) / (B C)`."""
    share = 1 / at.values.shape[-1] / at.values.shape[-2]
    return at.values.square().sum((-1, -2)).mul_(share), at.values, 2 * share


def squared_norm(at: Apart) -> Found:
    """`2 (z_s - z_t) / B`."""
    share = 1 / at.values.shape[-2]
    return at.values.square().sum((-1, -2)).mul_(share), at.values, 2 * share


def centred_mse(at: Apart) -> Found:
    """`(d - mean(d)) / (B C)` with `d = z_s - z_t`."""
    share = 1 / at.values.shape[-1] / at.values.shape[-2]
    centred = at.values - at.values.mean(-1, keepdim=True)
    slope = centred - centred.mean(-1, keepdim=True)  # of large logits the first mean is rounded
    return centred.square().sum((-1, -2)).mul_(share / 2), slope, share


def smooth_l1(at: Apart, *, beta: Tensor) -> Found:
    """`d / beta` between -1 and 1, over `B C`, with `d = z_s - z_t`; the value from that slope."""
    share, size = 1 / at.values.shape[-1] / at.values.shape[-2], beta[..., None, None]
    slope = (at.values / size).clamp_(-1.0, 1.0)
    return (slope * (at.values - slope * size / 2)).sum((-1, -2)).mul_(share), slope, share


def _difference(p: Tensor, q: Tensor, ratio: Tensor) -> Tensor:
    """`p - q`, with `ratio` their `log(p/q)`: `softened.difference` from the larger of the two, at half its price, and
    without its derivatives."""
    return torch.expm1(ratio.abs().neg_()).mul_(torch.maximum(p, q)).copysign_(ratio)


CLOSED: Mapping[Callable[..., Any], Closed] = {
    divergences.kl: Closed(Softened, kl),
    divergences.soft_ce: Closed(Softened, soft_ce),
    divergences.reverse_kl: Closed(Softened, reverse_kl),
    divergences.mse_probs: Closed(Softened, mse_probs),
    logits.mse: Closed(Apart, mse),
    logits.squared_norm: Closed(Apart, squared_norm),
    logits.centred_mse: Closed(Apart, centred_mse),
    logits.smooth_l1: Closed(Apart, smooth_l1, ("beta",)),
}
"""By the function of the form."""
