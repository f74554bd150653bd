"""What the loss forms share: softmax at a temperature, differences of probabilities, and directions.

Each is written so that nothing cancels or overflows, broadcasts over leading axes, and chooses no path by a tensor's
value other than through `torch.where`. Add here only what two files of forms need.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor


def wide(values: Tensor) -> Tensor:
    """The values in float32 or better."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def softened(student_logits: Tensor, teacher_logits: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of teacher and student at a temperature `[...]`, `[..., batch, classes]` each."""
    of_teacher, of_student = (scaled(logits, temperature) for logits in (teacher_logits, student_logits))
    return log_softmax(of_teacher), log_softmax(of_student)


def log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities over the last axis. Logits that lie classes first in memory stay so: half the time on a CPU."""
    return F.log_softmax(logits.mT, dim=-2).mT if logits.ndim > 1 else F.log_softmax(logits, dim=-1)


def scaled(logits: Tensor, temperature: Tensor) -> Tensor:
    """Logits over a temperature, each row moved to a maximum of 0, which no softmax notices.

    Moved before the division: 1e4 and 1e4 + 1 over a temperature of 15.6 lose .2% of what is between them in float32.
    """
    raw = wide(logits)
    return (raw - raw.detach().amax(-1, keepdim=True)) / temperature[..., None, None]


def difference(p: Tensor, q: Tensor, ratio: Tensor) -> Tensor:
    """`p - q`, with `ratio` their `log(p/q)`: `q expm1(ratio)` unless p is much the larger, where nothing cancels."""
    return torch.where(ratio < 1, q * torch.expm1(ratio.clamp(max=1.0)), p - q)


def kl_terms(log_p: Tensor, log_q: Tensor, ratio: Tensor) -> Tensor:
    """`p r - (p - q)` with `r = log(p/q)`, whose sum is KL(p||q): the added terms sum to nothing.

    They make each summand non-negative and of second order in r, so that nothing cancels where p and q are near.
    """
    return cast(Tensor, _KlTerms.apply(log_p, log_q, ratio)[0])  # type: ignore[no-untyped-call]


class _KlTerms(torch.autograd.Function):
    """The terms, with derivatives that they are made of anyway: `p r` by log p, `q - p` by log q."""

    generate_vmap_rule = True

    @staticmethod
    def forward(log_p: Tensor, log_q: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        p = log_p.exp()
        apart, surplus = difference(p, log_q.exp(), ratio), p * ratio
        return surplus - apart, surplus, apart

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ARG004
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        surplus, apart = ctx.saved_tensors
        by_p, by_q, _ = ctx.needs_input_grad
        return grads[0] * surplus if by_p else None, -grads[0] * apart if by_q else None, None


def split(student: Tensor, teacher: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Student's and teacher's values at the label, `[..., batch]`, then at the others, `[..., batch, classes - 1]`.

    `labels` is int64 `[..., batch]`; the order of the other classes is kept. Returns student's and teacher's at the
    label, then student's and teacher's at the rest.
    """
    shape = torch.broadcast_shapes(student.shape, teacher.shape)  # type: ignore[no-untyped-call]
    student, teacher, label = student.expand(shape), teacher.expand(shape), labels.expand(shape[:-1])[..., None]
    others = torch.arange(shape[-1] - 1, device=student.device)
    others = others + (others >= label)
    return (
        student.gather(-1, label)[..., 0],
        teacher.gather(-1, label)[..., 0],
        student.gather(-1, others),
        teacher.gather(-1, others),
    )


def unit(values: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
    """The values over their length along `dim`, and 1 where there is a length or 0 where all are nought (`dim` kept).

    Nought, or too small to square: those give 0 with no gradient. Scaled first by the largest, so that no square
    overflows; the direction does not depend on scale, so that scale is a constant to the gradient too.
    """
    largest = values.detach().abs().amax(dim, keepdim=True)
    exists = largest > torch.finfo(values.dtype).tiny ** 0.5
    scaled = values / torch.where(exists, largest, 1)
    length = torch.where(exists, scaled.square().sum(dim, keepdim=True), 1).sqrt()
    return torch.where(exists, scaled / length, 0), exists.to(values.dtype)


def cosine_distance(x: Tensor, y: Tensor, dim: int = -1) -> Tensor:
    """`1 - cos(x, y)` along `dim`; 1 where x or y is nought.

    Half the squared distance of the two directions: exactly 0, with no gradient, where they agree.
    """
    (towards_x, has_x), (towards_y, has_y) = unit(x, dim), unit(y, dim)
    apart = (towards_x - towards_y).square().sum(dim)
    return (apart + (1 - has_x).squeeze(dim) + (1 - has_y).squeeze(dim)) / 2


def gram(rows: Tensor) -> Tensor:
    """Products of every row with every row, `[..., rows, size]` -> `[..., rows, rows]`.

    Always a batched product, of one where there are no leading axes, so that a student's bits are its own.
    """
    return (rows[None] @ rows[None].mT)[0]


def share(progress: float | Tensor, over: Tensor) -> Tensor:
    """How much of a ramp is done: 0 to 1 as `progress` goes from 0 to `over`, `[...]`, then 1; 1 where `over` is 0."""
    done = progress.to(over) if isinstance(progress, Tensor) else progress
    return torch.where(over > 0, (done / torch.where(over > 0, over, 1)).clamp(max=1.0), 1.0)
