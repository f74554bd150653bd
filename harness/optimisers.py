"""Optimisers as functions over many students: parameters `[students, values]`, hyperparameters `[students, 1]`.

They follow `torch.optim` step for step, so a student alone gets what the library would give it; a test holds them to
it. Add one by writing its step and its line in `STEPS`, and its name in `harness.spec.OPTIMISERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
LANES = 16
"""Numbers that a processor's widest vector holds; what is left at the end of a tensor is rounded otherwise."""


@dataclass
class State:
    """Two moments `[students, values]` and the number of steps taken; updated in place."""

    first: Tensor
    second: Tensor
    count: int = 0


@dataclass(frozen=True)
class Hyper:
    """One number a student: each `[students, 1]`."""

    lr: Tensor
    weight_decay: Tensor
    momentum: Tensor

    def of(self, members: Tensor) -> Hyper:
        """Those of the students at these places."""
        return Hyper(self.lr[members], self.weight_decay[members], self.momentum[members])


Step = Callable[[Tensor, Tensor, State, Hyper, Tensor], None]
"""`step(params, grads, state, hyper, lr_scale)`, in place; `lr_scale` `[students, 1]` is the schedule's factor."""


def start(params: Tensor) -> State:
    """The state before the first step of parameters `[students, values]`."""
    first, second = torch.zeros(2, _padded(params), dtype=params.dtype, device=params.device)
    return State(first[: params.numel()].view_as(params), second[: params.numel()].view_as(params))


def adamw(params: Tensor, grads: Tensor, state: State, hyper: Hyper, lr_scale: Tensor) -> None:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2017, arXiv:1711.05101), in place."""
    params.mul_(1 - lr_scale * hyper.lr * hyper.weight_decay)
    params.addcmul_(_adam_direction(grads, state), lr_scale * hyper.lr)


def adam(params: Tensor, grads: Tensor, state: State, hyper: Hyper, lr_scale: Tensor) -> None:
    """Adam (Kingma & Ba 2014, arXiv:1412.6980) with weight decay as an L2 gradient, in place."""
    direction = _adam_direction(torch.addcmul(grads, params, hyper.weight_decay), state)
    params.addcmul_(direction, lr_scale * hyper.lr)


def sgd(params: Tensor, grads: Tensor, state: State, hyper: Hyper, lr_scale: Tensor) -> None:
    """Stochastic gradient descent with momentum and L2 weight decay, in place."""
    state.count += 1
    state.first.mul_(hyper.momentum).add_(torch.addcmul(grads, params, hyper.weight_decay))
    params.sub_(state.first * (lr_scale * hyper.lr))


STEPS: Mapping[str, Step] = {"adamw": adamw, "adam": adam, "sgd": sgd}


def _adam_direction(grads: Tensor, state: State) -> Tensor:
    """Where Adam goes at a learning rate of 1, `[students, values]`; the state moves on.

    torch's fused kernel, on parameters of nought: it takes one learning rate, and here each student has its own. It is
    three to ten times as fast as operations one by one, of which the square root of a nought is the slowest. It goes
    over whole vectors alone, so that a student's bits do not depend on where it stands.
    """
    state.count += 1
    whole = _padded(grads)
    flat = grads.reshape(-1)
    if whole > len(flat):
        flat = F.pad(flat, (0, whole - len(flat)))
    moved = torch.zeros_like(flat)
    first, second = (moment.as_strided((whole,), (1,)) for moment in (state.first, state.second))
    count = torch.full((), float(state.count), device=grads.device)
    torch._fused_adam_(
        [moved], [flat], [first], [second], [], [count],
        lr=1.0, beta1=BETA_1, beta2=BETA_2, weight_decay=0.0, eps=EPSILON, amsgrad=False, maximize=False,
    )  # fmt: skip
    return moved[: grads.numel()].view_as(grads)


def _padded(values: Tensor) -> int:
    return -(-values.numel() // LANES) * LANES
