"""Optimisers as functions over many students: parameters `[students, values]`, hyperparameters `[students, 1]`.

They follow `torch.optim` step for step, so a student alone gets what the library would give it; a test holds them to
it. Add one by writing its step and its line in `STEPS`, and its name in `harness.spec.OPTIMISERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


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
    return State(torch.zeros_like(params), torch.zeros_like(params))


def adamw(params: Tensor, grads: Tensor, state: State, hyper: Hyper, lr_scale: Tensor) -> None:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2017, arXiv:1711.05101), in place."""
    params.mul_(1 - lr_scale * hyper.lr * hyper.weight_decay)
    _adam_update(params, grads, state, hyper, lr_scale)


def adam(params: Tensor, grads: Tensor, state: State, hyper: Hyper, lr_scale: Tensor) -> None:
    """Adam (Kingma & Ba 2014, arXiv:1412.6980) with weight decay as an L2 gradient, in place."""
    _adam_update(params, torch.addcmul(grads, params, hyper.weight_decay), state, hyper, lr_scale)


def sgd(params: Tensor, grads: Tensor, state: State, hyper: Hyper, lr_scale: Tensor) -> None:
    """Stochastic gradient descent with momentum and L2 weight decay, in place."""
    state.count += 1
    state.first.mul_(hyper.momentum).add_(torch.addcmul(grads, params, hyper.weight_decay))
    params.sub_(state.first * (lr_scale * hyper.lr))


STEPS: Mapping[str, Step] = {"adamw": adamw, "adam": adam, "sgd": sgd}


def _adam_update(params: Tensor, grads: Tensor, state: State, hyper: Hyper, lr_scale: Tensor) -> None:
    state.count += 1
    state.first.lerp_(grads, 1 - BETA_1)
    state.second.mul_(BETA_2).addcmul_(grads, grads, value=1 - BETA_2)
    scale = (1 - BETA_2**state.count) ** 0.5
    denominator = state.second.sqrt().div_(scale).add_(EPSILON)
    params.sub_((state.first / denominator).mul_(lr_scale * hyper.lr / (1 - BETA_1**state.count)))
