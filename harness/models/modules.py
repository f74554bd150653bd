"""Families made of a user's own modules: `module_family("mine", lambda width: MyNet(width))`.

Any `nn.Module` that takes a batch of inputs and returns logits, or something with `.logits`, as Hugging Face's do.
Those that are pure functions of parameters and inputs are fused like built-in families. Batch norm, dropout and control
flow on values are found out by trying (see `alone_because`), and such a module is trained one at a time.
"""

from __future__ import annotations

import logging
import random
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.parameter import is_lazy
from torch.utils.flop_counter import FlopCounterMode

from harness.models.family import Family, Layer, Shape

log = logging.getLogger(__name__)
Make = Callable[[int], nn.Module]
NEAR = 1e-2
"""How far from 1 the sum of probabilities may be: a file may have them rounded."""


def module_family(name: str, make: Make, prepare: Callable[[Tensor], Tensor] = lambda inputs: inputs) -> Family:
    """The family of the modules that `make(width)` gives, called `name`.

    A module's first parameters are its constructor's own, drawn from the student's seed. `prepare` lays out a whole
    split once, `[examples, ...]` -> `[examples, ...]`. Buffers of real numbers, as batch norm's, belong to the network:
    they are kept, exported and restored with its parameters, but not counted as such. A module is given copies of its
    inputs, for it may write into them.
    """

    @cache
    def skeleton(width: int) -> nn.Module:
        return _made(make, width, torch.Generator().manual_seed(0)).eval()

    by_shapes: dict[frozenset[tuple[str, Shape]], tuple[int, nn.Module]] = {}

    def layers(width: int, _: Shape, __: int) -> dict[str, Layer]:
        module = skeleton(width)
        found = {
            key: Layer(tuple(values.shape), frozen=not values.requires_grad)
            for key, values in module.named_parameters()
        }
        found |= {key: Layer(tuple(values.shape), buffer=True) for key, values in _buffers(module)}
        shapes = frozenset((key, layer.shape) for key, layer in found.items())
        known = by_shapes.setdefault(shapes, (width, module))[0]
        if known != width:
            raise ValueError(
                f"students {name!r} of widths {known} and {width} have the same shapes; leave one width out"
            )
        return found

    def first(width: int, generator: torch.Generator) -> dict[str, Tensor]:
        layers(width, (), 0)  # which is how its functions know the module by its parameters
        module = _made(make, width, generator)
        own = (*module.named_parameters(), *_buffers(module))
        return {key: values.detach().double().clone() for key, values in own}

    def called(params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        module = _of(params)
        return logits_of(functional_call(module, _with_counters(module, params), (inputs.clone(),)))

    def _of(params: Mapping[str, Tensor]) -> nn.Module:
        shapes = frozenset((key, tuple(values.shape)) for key, values in params.items())
        if shapes not in by_shapes:
            raise ValueError(f"these are no parameters of {name!r} at a width that was asked for")
        return by_shapes[shapes][1]

    def learn(params: dict[str, Tensor], inputs: Tensor) -> Tensor:
        module = _of(params).train()
        own = _with_counters(module, params)
        try:
            return logits_of(functional_call(module, own, (inputs.clone(),)))
        finally:
            module.eval()
            params.update({key: own[key].detach().to(params[key].dtype) for key, _ in _buffers(module)})

    @cache
    def macs(width: int, input_shape: Shape, _: int) -> int:
        return _macs(skeleton(width), prepare, input_shape)

    @cache
    def alone(width: int, inputs: _Sample) -> str:
        def made() -> nn.Module:
            return _made(make, width, torch.Generator().manual_seed(0))

        _check_logits(made(), name, width, inputs.inputs)
        return _alone_because(made, inputs.inputs)

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
    if any(map(is_lazy, module.parameters())):
        raise ValueError(f"the student of width {width} has lazy layers, whose sizes must be known from the start")
    return module


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Global randomness from this seed, torch's on the CPU and on accelerators, Python's and numpy's; put back
    afterwards."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def _buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The buffers that a module keeps with its weights: those of real numbers, and counters, a whole number each."""
    kept = module.state_dict(keep_vars=True)
    own = ((key, values) for key, values in module.named_buffers() if key in kept)
    return ((key, values) for key, values in own if values.is_floating_point() or _counts(values))


def _counts(values: Tensor) -> bool:
    """Whether a buffer is a counter, as batch norm has one of its batches."""
    return values.ndim == 0 and values.dtype in (torch.int32, torch.int64)


def _with_counters(module: nn.Module, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same parameters, counters as the module has them: among the others they stand as real numbers."""
    counters = {key: values.dtype for key, values in module.named_buffers() if key in params and _counts(values)}
    return {key: values.to(counters.get(key, values.dtype)) for key, values in params.items()}


def logits_of(found: Any) -> Tensor:
    """A module's output, or the logits in it."""
    logits = getattr(found, "logits", found)
    if not isinstance(logits, Tensor):
        raise ValueError(f"the student's module gives {type(found).__name__}, not logits")
    return logits


def of_other_kind(inputs: Tensor, call: Callable[[Tensor], Any], error: Exception) -> str:
    """What to do about an error where inputs are whole numbers and real ones are taken, or the other way round; empty
    where that is not why."""
    real = inputs.is_floating_point()
    try:
        call(inputs.long() if real else inputs.float())
    except Exception:  # it is the user's own, and may be wrong in two ways
        if not re.search(r"\b[Ll]ong\b", str(error)):  # torch's word for int64
            return ""
    if real:
        return "; inputs are real numbers: for tokens give x.astype('int64')"
    return "; inputs are whole numbers: give x.astype('float32'), and of images x.astype('float32') / 255"


def are_probabilities(said: Tensor) -> bool:
    """Whether what should be logits `[examples, ..., classes]` looks like probabilities: none below 0, all sum to 1."""
    return said.numel() > 0 and bool((said >= 0).all() and (said.sum(-1) - 1).abs().max() < NEAR)


@torch.no_grad()
def _macs(module: nn.Module, prepare: Callable[[Tensor], Tensor], input_shape: Shape) -> int:
    """The multiply-accumulates of one example in matrix products and convolutions, as torch counts them."""
    for dtype in (torch.float32, torch.int64):
        counter = FlopCounterMode(display=False)
        try:
            inputs = prepare(torch.zeros(1, *input_shape, dtype=dtype))
            with counter, _recurrent(module) as steps:
                module(inputs)
        except (RuntimeError, TypeError, IndexError, ValueError):
            continue  # a module of tokens takes no real numbers, and the other way round
        return counter.get_total_flops() // 2 + sum(steps)
    return 0


@contextmanager
def _recurrent(module: nn.Module) -> Iterator[list[int]]:
    """The multiply-accumulates of LSTMs, which torch does not count: each step reads every matrix once."""
    found: list[int] = []

    def count(layer: nn.LSTM, inputs: tuple[Any, ...], _: Any) -> None:
        steps = inputs[0].numel() // layer.input_size  # of all texts
        found.append(steps * sum(matrix.numel() for matrix in layer.parameters() if matrix.ndim == 2))

    hooks = [layer.register_forward_hook(count) for layer in module.modules() if isinstance(layer, nn.LSTM)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _tried(module: nn.Module, inputs: Tensor) -> Any:
    """What a module gives for a few inputs. Raises `ValueError` in one line where it does not take them."""
    try:
        return module(inputs)
    except Exception as error:  # it is the user's own
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        mend = of_other_kind(inputs, module, error)
        raise ValueError(
            f"the student does not take inputs {list(inputs.shape)} {inputs.dtype} ({said}){mend}"
        ) from error


def _check_logits(module: nn.Module, name: str, width: int, inputs: Tensor) -> None:
    """Raise `ValueError` for a module whose first logits are no finite numbers, and warn of probabilities."""
    with torch.no_grad(), seeded(1):
        found = logits_of(_tried(module.train(), inputs.clone()))
    if not found.isfinite().all():
        raise ValueError(
            f"the student of width {width} gives logits that are not finite on {len(inputs)} training examples"
        )
    if are_probabilities(found):
        log.warning("students %r give what look like probabilities: leave their softmax out, or give its log", name)


def _alone_because(make: Callable[[], nn.Module], inputs: Tensor) -> str:
    """Why the module is not fused, in words; empty where it is a pure function that maps over students."""
    module, given = make().train(), inputs
    inputs = given.clone()
    before = {key: values.clone() for key, values in module.named_buffers()}
    with torch.no_grad():
        with seeded(1):
            state = torch.get_rng_state()
            one = logits_of(_tried(module, inputs))
            draws = not torch.equal(torch.get_rng_state(), state)
        if not torch.equal(inputs, given):
            return "it changes its inputs in place"
        moved = [key for key, values in module.named_buffers() if not torch.equal(values, before[key])]
        if moved:
            return f"its {moved[0]} changes as it is trained"
        with seeded(2):
            two = logits_of(module(inputs))
        if draws or not torch.equal(one, two):
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
            vmap(call)(stacked, torch.stack([inputs, inputs]))  # as students of several seeds, who see other inputs
            found = vmap(call, in_dims=(0, None))(stacked, inputs)
        torch.autograd.grad(found.sum(), list(stacked.values()), allow_unused=True)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        return f"it does not map over students ({' '.join(str(error).split())[:120]})"
    with torch.no_grad():
        alone = [call({key: values[k] for key, values in stacked.items()}, inputs) for k in (0, 1)]
    if not torch.allclose(found, torch.stack(alone), rtol=1e-3, atol=1e-4):
        return "mapped over students it gives other numbers"
    return ""
