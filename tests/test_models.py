"""The families: sizes counted two ways, and the same numbers as ordinary networks of the same weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from harness.models import CNN, CONV, MLP, Family, init, num_params
from harness.models.cnn import patch_size
from harness.models.family import Shape

NUM_CLASSES = 10
every_family = pytest.mark.parametrize("family", [MLP, CNN, CONV], ids=lambda family: family.name)
every_shape = pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)], ids=str)
every_width = pytest.mark.parametrize("width", [1, 3, 8])


def network(family: Family, width: int, shape: Shape, seed: int = 0) -> dict[str, Tensor]:
    return init(family, width, shape, NUM_CLASSES, torch.Generator().manual_seed(seed))


def images(count: int, shape: Shape) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def with_biases(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Biases start at 0, which would hide an error in them."""
    noise = torch.Generator().manual_seed(9)
    return {name: p + torch.randn(p.shape, generator=noise, dtype=p.dtype) * 0.1 for name, p in params.items()}


@every_family
@every_shape
@every_width
def test_num_params_is_the_count_of_the_tensors(family: Family, shape: Shape, width: int) -> None:
    counted = sum(param.numel() for param in network(family, width, shape).values())
    assert num_params(family, width, shape, NUM_CLASSES) == counted


@every_family
@every_shape
@every_width
def test_macs_are_half_the_flops_that_the_library_counts(family: Family, shape: Shape, width: int) -> None:
    params, inputs = network(family, width, shape), family.prepare(images(1, shape))
    with FlopCounterMode(display=False) as counter:
        family.apply(params, inputs)
    assert 2 * family.macs(width, shape, NUM_CLASSES) == counter.get_total_flops()


@every_family
@every_shape
def test_logits_are_one_row_an_example_whatever_its_neighbours(family: Family, shape: Shape) -> None:
    params, inputs = with_biases(network(family, 3, shape)), family.prepare(images(5, shape))
    logits = family.apply(params, inputs)
    assert logits.shape == (5, NUM_CLASSES)
    alone = torch.cat([family.apply(params, inputs[i : i + 1]) for i in range(5)])
    assert (logits - alone).abs().max().item() < 1e-12


@every_shape
@every_width
def test_the_cnn_is_an_ordinary_convolutional_network(shape: Shape, width: int) -> None:
    params, inputs = with_biases(network(CNN, width, shape)), images(4, shape)
    patch = patch_size(shape)
    padded = F.pad(inputs, (0, -shape[2] % patch, 0, -shape[1] % patch))
    stem = params["stem.weight"].view(width, shape[0], patch, patch)
    hidden = F.relu(F.conv2d(padded, stem, params["stem.bias"][:, 0], stride=patch))
    conv = params["conv.weight"].view(2 * width, 3, 3, width).permute(0, 3, 1, 2)
    hidden = F.relu(F.conv2d(hidden, conv, params["conv.bias"][:, 0], stride=2, padding=1))
    wanted = F.linear(hidden.flatten(1), params["logits.weight"], params["logits.bias"][:, 0])
    assert (CNN.apply(params, CNN.prepare(inputs)) - wanted).abs().max().item() < 1e-10


@every_shape
def test_the_mlp_is_an_ordinary_perceptron(shape: Shape) -> None:
    params, inputs = with_biases(network(MLP, 6, shape)), images(4, shape)
    hidden = inputs.flatten(1)
    for name in ("hidden_1", "hidden_2"):
        hidden = F.relu(F.linear(hidden, params[f"{name}.weight"], params[f"{name}.bias"][:, 0]))
    wanted = F.linear(hidden, params["logits.weight"], params["logits.bias"][:, 0])
    assert (MLP.apply(params, MLP.prepare(inputs)) - wanted).abs().max().item() < 1e-12


@every_family
def test_the_same_seed_starts_the_same_network_and_another_seed_another(family: Family) -> None:
    first, again, other = (network(family, 4, (1, 8, 8), seed) for seed in (1, 1, 2))
    for name, param in first.items():
        assert torch.equal(param, again[name])
        assert param.dtype == torch.float64
        if name.endswith("weight"):
            assert not torch.equal(param, other[name])


@every_family
def test_weights_start_with_the_variance_of_their_fan_in_and_biases_at_zero(family: Family) -> None:
    for name, layer in family.layers(32, (1, 28, 28), NUM_CLASSES).items():
        param = network(family, 32, (1, 28, 28))[name]
        if name.endswith("bias"):
            assert not param.any()
            continue
        assert layer.fan_in == math.prod(layer.shape[1:])
        gain = 1.0 if name == "logits.weight" else 2.0
        assert param.var().item() == pytest.approx(gain / layer.fan_in, rel=6 / math.sqrt(param.numel()))
