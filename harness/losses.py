"""The loss forms: how far a student's logits are from its teacher's.

A form is a plain function of student and teacher logits `[..., batch, classes]` that returns `[...]`, one number a
student, and broadcasts over leading axes. Add one by writing the function and its line in `LOSSES`. Forms compute in
float32 or better, never look at a tensor's value to choose a path, and average over the batch (never over classes,
unless the formula says so). The convention of alpha is the source article's: alpha weighs the hard labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.spec import PLAIN, StudentSpec


@dataclass(frozen=True)
class Form:
    """A loss form: its function, and the names of the knobs it takes, each a tensor `[...]` of one number a student."""

    function: Callable[..., Tensor]
    knobs: tuple[str, ...] = ()


def cross_entropy(student_logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with the labels, in nats, mean over the batch: `[..., batch, classes]` -> `[...]`."""
    log_probs = _wide(student_logits).log_softmax(-1)
    return -log_probs.gather(-1, labels[..., None])[..., 0].mean(-1)


def kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: Tensor) -> Tensor:
    """`T^2 sum p log(p/q)`, mean over the batch; p and q are the teacher's and the student's softmax at temperature T.

    Logits `[..., batch, classes]`, temperature `[...]` -> `[...]`, in nats. Hinton 2015, arXiv:1503.02531.

    Written as `sum p r - (p - q)` with `r = log(p/q)`: the added terms sum to nothing, and make each summand
    non-negative, so that nothing cancels at a high temperature (the plain form is 9% wrong in float32 at 1e4).
    """
    log_p, log_q = _softened(student_logits, teacher_logits, temperature)
    ratio = log_p - log_q
    # p - q = q expm1(r), exact where r is small; where it is not, the difference itself is exact enough.
    small = log_q.exp() * torch.expm1(ratio.clamp(max=1.0))
    difference = torch.where(ratio < 1, small, log_p.exp() - log_q.exp())
    return temperature**2 * (log_p.exp() * ratio - difference).sum(-1).mean(-1)


def soft_ce(student_logits: Tensor, teacher_logits: Tensor, *, temperature: Tensor) -> Tensor:
    """`T^2 (-sum p log q)`, mean over the batch: the article's softmax cross-entropy on the teacher's outputs.

    Logits `[..., batch, classes]`, temperature `[...]` -> `[...]`, in nats. `kl` plus T^2 times the teacher's entropy,
    which does not depend on the student: the same gradient. Hinton 2015, arXiv:1503.02531.
    """
    log_p, log_q = _softened(student_logits, teacher_logits, temperature)
    return temperature**2 * -(log_p.exp() * log_q).sum(-1).mean(-1)


def mse(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Mean over batch and classes of the squared difference of logits: the article's code (`nn.MSELoss`).

    Logits `[..., batch, classes]` -> `[...]`. Ba & Caruana 2014, arXiv:1312.6184; Kim 2021, arXiv:2105.08919.
    """
    return (_wide(student_logits) - _wide(teacher_logits)).square().mean((-1, -2))


def squared_norm(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Mean over the batch of `||z_s - z_t||^2`: the article's formula, the number of classes times `mse`.

    Logits `[..., batch, classes]` -> `[...]`.
    """
    return (_wide(student_logits) - _wide(teacher_logits)).square().sum(-1).mean(-1)


LOSSES: Mapping[str, Form] = {
    "kl": Form(kl, knobs=("temperature",)),
    "soft_ce": Form(soft_ce, knobs=("temperature",)),
    "mse": Form(mse),
    "squared_norm": Form(squared_norm),
}


def weights(spec: StudentSpec) -> tuple[float, float]:
    """The weights of a student's cross-entropy and of its distillation loss.

    `convex`, the article's formula: `alpha, 1 - alpha`. `additive`, the article's code: `1, alpha`. Plain: `1, 0`.
    """
    if spec.form == PLAIN:
        return 1.0, 0.0
    return (spec.alpha, 1 - spec.alpha) if spec.mixing == "convex" else (1.0, spec.alpha)


def check(spec: StudentSpec) -> None:
    """Raise `ValueError` unless the student's form exists and has just the knobs it takes."""
    if spec.form == PLAIN:
        return
    if spec.form not in LOSSES:
        raise ValueError(f"unknown form {spec.form!r}; forms are {', '.join(LOSSES)}, or {PLAIN} for plain training")
    if "temperature" in LOSSES[spec.form].knobs and spec.temperature is None:
        raise ValueError(f"form {spec.form!r} needs a temperature; add one to the study's space or fixed knobs")
    if "temperature" not in LOSSES[spec.form].knobs and spec.temperature is not None:
        takers = ", ".join(name for name, form in LOSSES.items() if "temperature" in form.knobs)
        raise ValueError(f"form {spec.form!r} takes no temperature; only {takers} do (use when={{'form': (...)}})")


def _wide(logits: Tensor) -> Tensor:
    """Logits in float32 or better."""
    return logits if logits.dtype in (torch.float32, torch.float64) else logits.float()


def _softened(student_logits: Tensor, teacher_logits: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of teacher and student at a temperature, `[..., batch, classes]` each."""
    scale = temperature[..., None, None]
    log_p = F.log_softmax(_wide(teacher_logits) / scale, dim=-1)
    return log_p, F.log_softmax(_wide(student_logits) / scale, dim=-1)
