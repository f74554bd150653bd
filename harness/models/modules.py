"""Families made of a user's own modules: `module_family("mine", lambda width: MyNet(width))`.

Any `nn.Module` that takes a batch of inputs and returns logits, or something with `.logits`, as Hugging Face's do.
Those that are pure functions of parameters and inputs are fused like built-in families. Batch norm, dropout and control
flow on values are found out by trying (see `alone_because`), and such a module is trained one at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils.flop_counter import FlopCounterMode

from harness.models.family import Family, Layer, Shape

Make = Callable[[int], nn.Module]


def module_family(name: str, make: Make, prepare: Callable[[Tensor], Tensor] = lambda inputs: inputs) -> Family:
    """The family of the modules that `make(width)` gives, called `name`.

    A module's first parameters are its constructor's own, drawn from the student's seed. `prepare` lays out a whole
    split once, `[examples, ...]` -> `[examples, ...]`. Buffers of real numbers, as batch norm's, belong to the network:
    they are kept, exported and restored with its parameters, but not counted as such.
    """

    @cache
    def skeleton(width: int) -> nn.Module:
        return _made(make, width, torch.Generator().manual_seed(0)).eval()

    by_shapes: dict[tuple[tuple[str, Shape], ...], nn.Module] = {}

    def layers(width: int, _: Shape, __: int) -> dict[str, Layer]:
        module = skeleton(width)
        found = {
            key: Layer(tuple(values.shape), frozen=not values.requires_grad)
            for key, values in module.named_parameters()
        }
        found |= {key: Layer(tuple(values.shape), buffer=True) for key, values in _buffers(module)}
        by_shapes[tuple((key, layer.shape) for key, layer in found.items())] = module
        return found

    def first(width: int, generator: torch.Generator) -> dict[str, Tensor]:
        module = _made(make, width, generator)
        own = (*module.named_parameters(), *_buffers(module))
        return {key: values.detach().double().clone() for key, values in own}

    def called(params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        return logits_of(functional_call(_of(params), dict(params), (inputs,)))

    def _of(params: Mapping[str, Tensor]) -> nn.Module:
        return by_shapes[tuple((key, tuple(values.shape)) for key, values in params.items())]

    def learn(params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        module = _of(params)
        module.train()
        try:
            return called(params, inputs)
        finally:
            module.eval()

    def macs(width: int, input_shape: Shape, _: int) -> int:
        return _macs(skeleton(width), input_shape)

    @cache
    def alone(width: int, inputs: _Sample) -> str:
        return _alone_because(lambda: _made(make, width, torch.Generator().manual_seed(0)), inputs.inputs)

    return Family(
        name,
        layers,
        prepare,
        called,
        macs,
        first=first,
        learn=learn,
        alone=lambda width, inputs: alone(width, _Sample(inputs)),
    )


class _Sample:
    """A few inputs as a key of a cache: all samples are alike, for one family is one task's."""

    def __init__(self, inputs: Tensor) -> None:
        self.inputs = inputs

    def __hash__(self) -> int:
        return hash(self.inputs.shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Sample) and self.inputs.shape == other.inputs.shape


def _made(make: Make, width: int, generator: torch.Generator) -> nn.Module:
    """A module of its own randomness: constructors draw from the global state, which is put back."""
    seed = int(torch.randint(2**62, (), generator=generator))
    with seeded(seed):
        module = make(width)
    if not isinstance(module, nn.Module):
        raise ValueError(f"the student function gives {type(module).__name__} for width {width}, not an nn.Module")
    return module


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Global randomness from this seed, on the CPU and on accelerators; put back afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The buffers of real numbers that a module keeps with its weights."""
    kept = module.state_dict(keep_vars=True)
    return ((key, values) for key, values in module.named_buffers() if key in kept and values.is_floating_point())


def logits_of(found: Any) -> Tensor:
    """A module's output, or the logits in it."""
    logits = getattr(found, "logits", found)
    if not isinstance(logits, Tensor):
        raise ValueError(f"the student's module gives {type(found).__name__}, not logits")
    return logits


@torch.no_grad()
def _macs(module: nn.Module, input_shape: Shape) -> int:
    """The multiply-accumulates of one example in matrix products and convolutions, as torch counts them."""
    for dtype in (torch.float32, torch.int64):
        inputs = torch.zeros(1, *input_shape, dtype=dtype)
        counter = FlopCounterMode(display=False)
        try:
            with counter:
                module(inputs)
        except (RuntimeError, TypeError, IndexError, ValueError):
            continue  # a module of tokens takes no real numbers, and the other way round
        return counter.get_total_flops() // 2
    return 0


def _alone_because(make: Callable[[], nn.Module], inputs: Tensor) -> str:
    """Why the module is not fused, in words; empty where it is a pure function that maps over students."""
    module = make().train()
    before = {key: values.clone() for key, values in module.named_buffers()}
    with torch.no_grad():
        with seeded(1):
            one = logits_of(module(inputs))
        moved = [key for key, values in module.named_buffers() if not torch.equal(values, before[key])]
        if moved:
            return f"its {moved[0]} changes as it is trained"
        with seeded(2):
            two = logits_of(module(inputs))
        if not torch.equal(one, two):
            return "it draws random numbers as it is trained"
        if not torch.equal(one, logits_of(module.eval()(inputs))):
            return "it is another function as it is trained"
    params = {key: values.detach() for key, values in module.named_parameters()}
    stacked = {key: torch.stack([values, values + 0.01]).requires_grad_() for key, values in params.items()}

    def call(own: Mapping[str, Tensor], seen: Tensor) -> Tensor:
        return logits_of(functional_call(module, dict(own), (seen,)))

    try:
        with warnings.catch_warnings():  # that an operation maps slowly: what is faster is measured
            warnings.simplefilter("ignore", UserWarning)
            found = vmap(call, in_dims=(0, None))(stacked, inputs)
        torch.autograd.grad(found.sum(), list(stacked.values()), allow_unused=True)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        return f"it does not map over students ({' '.join(str(error).split())[:120]})"
    with torch.no_grad():
        alone = [call({key: values[k] for key, values in stacked.items()}, inputs) for k in (0, 1)]
    if not torch.allclose(found, torch.stack(alone), rtol=1e-3, atol=1e-4):
        return "mapped over students it gives other numbers"
    return ""
