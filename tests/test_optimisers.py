"""The optimisers over many students are the library's, one student at a time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from harness import optimisers
from harness.optimisers import STEPS, Hyper
from harness.spec import OPTIMISERS

STEP_COUNT = 20
LR = (1e-3, 1e-2, 3e-1)
WEIGHT_DECAY = (0.0, 1e-2, 3e-1)
MOMENTUM = (0.0, 0.9, 0.5)


def lr_scale(step: int) -> float:
    return 0.5 + 0.5 * math.cos(math.pi * step / STEP_COUNT)


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(params: Tensor, target: Tensor) -> Tensor:
    """A gradient that depends on the parameters, so that an error grows from step to step."""
    return (params - target) + 0.3 * torch.sin(3 * params)


def by_library(name: str, start: Tensor, target: Tensor, student: int) -> Tensor:
    param = start[student].clone().requires_grad_()
    lr, decay = LR[student], WEIGHT_DECAY[student]
    optimiser: torch.optim.Optimizer
    if name == "sgd":
        optimiser = torch.optim.SGD([param], lr=lr, weight_decay=decay, momentum=MOMENTUM[student])
    else:
        kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[name]
        optimiser = kind([param], lr=lr, weight_decay=decay)
    for step in range(STEP_COUNT):
        optimiser.param_groups[0]["lr"] = lr * lr_scale(step)
        param.grad = gradient(param.detach(), target[student])
        optimiser.step()
    return param.detach()


def fused(name: str, start: Tensor, target: Tensor) -> Tensor:
    params, state = start.clone(), optimisers.start(start)
    columns = [torch.tensor(values, dtype=torch.float64)[:, None] for values in (LR, WEIGHT_DECAY, MOMENTUM)]
    for step in range(STEP_COUNT):
        STEPS[name](
            params, gradient(params, target), state, Hyper(*columns), torch.tensor(lr_scale(step), dtype=torch.float64)
        )
    assert state.count == STEP_COUNT
    return params


@pytest.mark.parametrize("name", OPTIMISERS)
def test_twenty_fused_steps_equal_the_librarys_for_every_student(name: str) -> None:
    start, target = drawn(3, 50, seed=1), drawn(3, 50, seed=2)
    found = fused(name, start, target)
    for student in range(3):
        wanted = by_library(name, start, target, student)
        assert (found[student] - wanted).abs().max().item() < 1e-12
        assert (found[student] - start[student]).abs().max().item() > 1e-3


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_student_whose_gradient_is_not_finite_does_not_touch_its_neighbours(name: str) -> None:
    start, target = drawn(3, 50, seed=1), drawn(3, 50, seed=2)
    healthy = fused(name, start, target)
    target[1] = math.nan
    found = fused(name, start, target)
    assert found[1].isnan().all()
    assert torch.equal(found[0], healthy[0])
    assert torch.equal(found[2], healthy[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_students_bits_do_not_depend_on_where_it_stands(name: str, dtype: torch.dtype) -> None:
    """37 numbers a student: whole vectors of a processor end anywhere within one."""
    start, target = (drawn(3, 37, seed=seed).to(dtype) for seed in (1, 2))
    lr, decay, momentum = (torch.tensor(values, dtype=dtype)[:, None] for values in (LR, WEIGHT_DECAY, MOMENTUM))

    def moved(students: slice) -> Tensor:
        params = start[students].clone()
        state, hyper = optimisers.start(params), Hyper(lr[students], decay[students], momentum[students])
        for _ in range(STEP_COUNT):
            STEPS[name](params, gradient(params, target[students]), state, hyper, torch.ones_like(hyper.lr))
        return params

    together = moved(slice(0, 3))
    assert all(torch.equal(moved(slice(at, at + 1))[0], together[at]) for at in range(3))


def test_every_optimiser_of_a_spec_has_its_step() -> None:
    assert set(STEPS) == set(OPTIMISERS)
