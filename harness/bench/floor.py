"""The matrix products that a training step needs, by themselves: what a step could cost at the least."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from harness.cohort.calibration import wait_for

aten = torch.ops.aten
PRODUCTS = (aten.mm, aten.bmm, aten.addmm, aten.baddbmm, aten.convolution, aten.convolution_backward)
"""Operations that count as products, forward and backward."""


@dataclass(frozen=True)
class Product:
    """One operation as it was called, on tensors of its own that are as large and lie as the step's did."""

    call: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]

    @property
    def macs(self) -> int:
        """Multiply-accumulates, of a matrix product; 0 of a convolution."""
        if self.call.overloadpacket not in (aten.mm, aten.bmm):  # type: ignore[attr-defined]
            return 0
        return self.args[0].numel() * self.args[1].shape[-1]  # type: ignore[no-any-return]


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.products: list[Product] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket in PRODUCTS:
            own = {name: _alike(value) for name, value in (kwargs or {}).items()}
            self.products.append(Product(func, [_alike(value) for value in args], own))
        return func(*args, **(kwargs or {}))


def record(step: Callable[[], object]) -> list[Product]:
    """The products of what `step` does, in order."""
    recorder = _Recorder()
    with recorder:
        step()
    return recorder.products


def replay(products: Sequence[Product], device: str = "cpu") -> float:
    """Seconds that the products take by themselves on their device, one after the other."""
    wait_for(device)
    started = time.perf_counter()
    with torch.inference_mode():  # as a step has it
        for product in products:
            product.call(*product.args, **product.kwargs)
    wait_for(device)
    return time.perf_counter() - started


def _alike(value: Any) -> Any:
    """A tensor of noise with the same shape and strides; a repeated axis stays repeated."""
    if not isinstance(value, Tensor):
        return value
    storage = sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True)) + 1
    noise = torch.randn(max(1, storage), device=value.device).to(value.dtype)
    return noise.as_strided(value.shape, value.stride()) if value.numel() else torch.empty_like(value)
