"""The families: sizes counted two ways, and the same numbers as ordinary networks of the same weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap
from torch.utils.flop_counter import FlopCounterMode

from harness.models import CNN, CNN1D, CONV, CONV1D, MLP, RESIDUAL, Family, Parts, init, num_params, residual, strided
from harness.models.cnn import patch_size
from harness.models.cnn1d import PATCH
from harness.models.family import Shape, pad
from harness.models.neighbourhoods import neighbourhoods
from harness.models.residual import RESIDUAL_1D

NUM_CLASSES = 10
IMAGES: tuple[Shape, ...] = ((1, 8, 8), (1, 28, 28), (3, 32, 32))
SIGNALS: tuple[Shape, ...] = ((1, 40), (2, 17), (3, 64))
RESIDUALS = (RESIDUAL["resnet8"], RESIDUAL["resnet14"])
ALONG = (RESIDUAL_1D["resnet8"], RESIDUAL_1D["resnet14"])
IMAGE_FAMILIES, SIGNAL_FAMILIES = (MLP, CNN, CONV, *RESIDUALS), (MLP, CNN1D, CONV1D, *ALONG)


def cases(images: tuple[Family, ...], signals: tuple[Family, ...]) -> pytest.MarkDecorator:
    """Every family with every shape that it takes."""
    found = [(family, shape) for family in images for shape in IMAGES]
    found += [(family, shape) for family in signals for shape in SIGNALS]
    return pytest.mark.parametrize(
        ("family", "shape"), found, ids=[f"{family.name}-{shape}" for family, shape in found]
    )


every_case = cases(IMAGE_FAMILIES, SIGNAL_FAMILIES)
every_student = cases((MLP, CNN, *RESIDUALS), (MLP, CNN1D, *ALONG))
every_stacked_student = cases((MLP, CNN), (MLP, CNN1D))
every_width = pytest.mark.parametrize("width", [1, 3, 8])
every_image = pytest.mark.parametrize("shape", IMAGES, ids=str)
every_signal = pytest.mark.parametrize("shape", SIGNALS, ids=str)


def network(family: Family, width: int, shape: Shape, seed: int = 0) -> dict[str, Tensor]:
    return init(family, width, shape, NUM_CLASSES, torch.Generator().manual_seed(seed))


def examples(count: int, shape: Shape) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def with_biases(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Biases start at 0, which would hide an error in them."""
    noise = torch.Generator().manual_seed(9)
    return {name: p + torch.randn(p.shape, generator=noise, dtype=p.dtype) * 0.1 for name, p in params.items()}


@every_case
@every_width
def test_num_params_is_the_count_of_the_tensors(family: Family, shape: Shape, width: int) -> None:
    counted = sum(param.numel() for param in network(family, width, shape).values())
    assert num_params(family, width, shape, NUM_CLASSES) == counted


@every_case
@every_width
def test_macs_are_half_the_flops_that_the_library_counts(family: Family, shape: Shape, width: int) -> None:
    params, inputs = network(family, width, shape), family.prepare(examples(1, shape))
    with FlopCounterMode(display=False) as counter:
        family.apply(params, inputs)
    assert 2 * family.macs(width, shape, NUM_CLASSES) == counter.get_total_flops()


@every_case
def test_logits_are_one_row_an_example_whatever_its_neighbours(family: Family, shape: Shape) -> None:
    params, inputs = with_biases(network(family, 3, shape)), family.prepare(examples(5, shape))
    logits = family.apply(params, inputs)
    assert logits.shape == (5, NUM_CLASSES)
    alone = torch.cat([family.apply(params, inputs[i : i + 1]) for i in range(5)])
    assert (logits - alone).abs().max().item() < 1e-12


@every_image
@every_width
def test_the_cnn_is_an_ordinary_convolutional_network(shape: Shape, width: int) -> None:
    params, inputs = with_biases(network(CNN, width, shape)), examples(4, shape)
    patch = patch_size(shape)
    padded = F.pad(inputs, (0, -shape[2] % patch, 0, -shape[1] % patch))
    stem = params["stem.weight"].view(width, shape[0], patch, patch)
    hidden = F.relu(F.conv2d(padded, stem, params["stem.bias"][:, 0], stride=patch))
    conv = params["conv.weight"].view(2 * width, 3, 3, width).permute(0, 3, 1, 2)
    hidden = F.relu(F.conv2d(hidden, conv, params["conv.bias"][:, 0], stride=2, padding=1))
    wanted = F.linear(hidden.flatten(1), params["logits.weight"], params["logits.bias"][:, 0])
    assert (CNN.apply(params, CNN.prepare(inputs)) - wanted).abs().max().item() < 1e-10


@every_signal
@every_width
def test_the_cnn1d_is_an_ordinary_convolutional_network(shape: Shape, width: int) -> None:
    params, inputs = with_biases(network(CNN1D, width, shape)), examples(4, shape)
    stem = params["stem.weight"].view(width, shape[0], PATCH)
    hidden = F.relu(F.conv1d(inputs, stem, params["stem.bias"][:, 0], stride=2, padding=PATCH // 2))
    for name in ("conv_1", "conv_2"):
        conv = params[f"{name}.weight"].view(2 * width, 3, -1).permute(0, 2, 1)
        hidden = F.relu(F.conv1d(hidden, conv, params[f"{name}.bias"][:, 0], stride=2, padding=1))
    wanted = F.linear(hidden.flatten(1), params["logits.weight"], params["logits.bias"][:, 0])
    assert (CNN1D.apply(params, CNN1D.prepare(inputs)) - wanted).abs().max().item() < 1e-10


@pytest.mark.parametrize("shape", [*IMAGES, *SIGNALS], ids=str)
def test_the_mlp_is_an_ordinary_perceptron(shape: Shape) -> None:
    params, inputs = with_biases(network(MLP, 6, shape)), examples(4, shape)
    hidden = inputs.flatten(1)
    for name in ("hidden_1", "hidden_2"):
        hidden = F.relu(F.linear(hidden, params[f"{name}.weight"], params[f"{name}.bias"][:, 0]))
    wanted = F.linear(hidden, params["logits.weight"], params["logits.bias"][:, 0])
    assert (MLP.apply(params, MLP.prepare(inputs)) - wanted).abs().max().item() < 1e-12


class Block(torch.nn.Module):
    """A block of a residual network as it is commonly written, its branch scaled."""

    def __init__(self, params: Mapping[str, Tensor], name: str, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        conv = torch.nn.Conv2d
        self.conv_1, self.conv_2 = conv(inside, outside, 3, stride, 1), conv(outside, outside, 3, 1, 1)
        self.past = conv(inside, outside, 1, stride, bias=False) if inside != outside else torch.nn.Identity()
        self.scale = torch.nn.Parameter(torch.zeros(1))
        own = {key.removeprefix(f"{name}."): p for key, p in params.items() if key.startswith(f"{name}.")}
        self.double().load_state_dict(own)

    def forward(self, maps: Tensor) -> Tensor:
        branch: Tensor = self.conv_2(self.conv_1(maps).relu())
        out: Tensor = (self.past(maps) + self.scale * branch).relu()
        return out


@every_image
@every_width
@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_a_residual_network_is_an_ordinary_one(shape: Shape, width: int, blocks: int) -> None:
    family = residual(blocks)
    params, inputs = with_biases(network(family, width, shape)), examples(4, shape)
    maps, inside = F.conv2d(inputs, params["stem.weight"], params["stem.bias"], padding=1).relu(), width
    for stage, outside in enumerate((width, 2 * width, 4 * width), start=1):
        for place in range(1, blocks + 1):
            stride = 2 if stage > 1 and place == 1 else 1
            maps = Block(params, f"block_{stage}_{place}", inside, outside, stride)(maps)
            inside = outside
    pooled = F.adaptive_avg_pool2d(maps, 1).flatten(1)
    wanted = F.linear(pooled, params["logits.weight"], params["logits.bias"])
    assert (family.apply(params, inputs) - wanted).abs().max().item() < 1e-10


def test_residual_families_are_called_by_their_layers_and_start_as_their_shortcuts() -> None:
    assert list(RESIDUAL) == [family.name for family in RESIDUAL.values()] == ["resnet8", "resnet14", "resnet20"]
    for name, family in RESIDUAL.items():
        params, inputs = network(family, 3, (1, 8, 8)), examples(4, (1, 8, 8))
        weights = [key for key in params if key.endswith(("conv_1.weight", "conv_2.weight"))]
        assert len(weights) + 2 == int(name.removeprefix("resnet"))  # and the stem and the logits
        cut = {key: torch.zeros_like(param) if key in weights else param for key, param in params.items()}
        assert torch.equal(family.apply(params, inputs), family.apply(cut, inputs))


@every_case
def test_the_same_seed_starts_the_same_network_and_another_seed_another(family: Family, shape: Shape) -> None:
    first, again, other = (network(family, 4, shape, seed) for seed in (1, 1, 2))
    for name, param in first.items():
        assert torch.equal(param, again[name])
        assert param.dtype == torch.float64
        if name.endswith("weight"):
            assert not torch.equal(param, other[name])


@every_case
def test_weights_start_with_the_variance_of_their_fan_in_and_biases_and_scales_at_zero(
    family: Family, shape: Shape
) -> None:
    params = network(family, 32, shape)
    for name, layer in family.layers(32, shape, NUM_CLASSES).items():
        param = params[name]
        if name.endswith(("bias", "scale")):
            assert not param.any()
            continue
        assert layer.fan_in == math.prod(layer.shape[1:])
        gain = 1.0 if name.endswith(("logits.weight", "past.weight")) else 2.0
        assert param.var().item() == pytest.approx(gain / layer.fan_in, rel=6 / math.sqrt(param.numel()))


def parts_of(family: Family) -> Parts:
    assert family.parts is not None
    return family.parts


def stack(networks: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([params[name] for params in networks]) for name in networks[0]}


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_parts_make_the_same_logits_to_the_bit_alone_and_mapped(
    family: Family, shape: Shape, dtype: torch.dtype
) -> None:
    parts, inputs = parts_of(family), family.prepare(examples(6, shape)).to(dtype)
    params = [{k: v.to(dtype) for k, v in with_biases(network(family, 4, shape, seed)).items()} for seed in (0, 1)]
    points = parts.embed(params[0], inputs)
    assert torch.equal(parts.head(params[0], points["embedding"]), family.apply(params[0], inputs))
    both = stack(params)
    mapped = vmap(parts.embed, in_dims=(0, None))(both, inputs)
    logits = vmap(parts.head)(both, mapped["embedding"])
    assert torch.equal(logits, vmap(family.apply, in_dims=(0, None))(both, inputs))


@every_case
def test_the_points_are_the_ones_named_batch_first_and_features_last(family: Family, shape: Shape) -> None:
    parts, params = parts_of(family), with_biases(network(family, 4, shape))
    points = parts.embed(params, family.prepare(examples(6, shape)))
    assert tuple(points) == parts.points
    features = params["logits.weight"].shape[1]
    assert points["embedding"].shape == (6, features)
    assert ("map" in points) == (family is not MLP)
    if "map" in points:
        assert points["map"].shape[:2] == (6, 16 if family in (*RESIDUALS, *ALONG) else 8)
        assert points["map"].ndim == 1 + len(shape)


@every_case
def test_the_embedding_is_made_of_the_map(family: Family, shape: Shape) -> None:
    if family is MLP:
        assert parts_of(family).points == ("embedding",)
        return
    params = with_biases(network(family, 4, shape))
    points = parts_of(family).embed(params, family.prepare(examples(6, shape)))
    wanted = points["map"].flatten(2).mean(-1) if family in (*RESIDUALS, *ALONG) else points["map"].flatten(1)
    if family in (CONV, CONV1D):
        wanted = points["map"].mean(-1) if family is CONV1D else wanted
        wanted = F.relu(F.linear(wanted, params["hidden.weight"], params["hidden.bias"]))
    assert (points["embedding"] - wanted).abs().max().item() < 1e-12


def test_a_family_needs_no_parts() -> None:
    assert Family("own", MLP.layers, MLP.prepare, MLP.apply, MLP.macs).parts is None


@every_student
def test_a_fused_student_and_its_gradients_are_those_of_the_student_alone(family: Family, shape: Shape) -> None:
    networks = [with_biases(network(family, 4, shape, seed)) for seed in range(3)]
    inputs = family.prepare(examples(15, shape))
    inputs = inputs.view(3, 5, *inputs.shape[1:])
    fused = {name: param.requires_grad_() for name, param in stack(networks).items()}
    logits = vmap(family.apply)(fused, inputs)
    grads = torch.autograd.grad(logits.square().sum(), list(fused.values()))
    for student, params in enumerate(networks):
        own = {name: param.requires_grad_() for name, param in params.items()}
        alone = family.apply(own, inputs[student])
        assert (logits[student] - alone).abs().max().item() < 1e-12
        for grad, wanted in zip(grads, torch.autograd.grad(alone.square().sum(), list(own.values())), strict=True):
            assert torch.allclose(grad[student], wanted, rtol=1e-12, atol=1e-12)


@every_stacked_student
def test_a_stacked_network_and_its_gradients_are_those_mapped_over_students(family: Family, shape: Shape) -> None:
    assert family.stacks
    networks = [with_biases(network(family, 4, shape, seed)) for seed in range(6)]
    params = {name: param.requires_grad_() for name, param in stack(networks).items()}
    inputs = family.prepare(examples(15, shape))
    for groups in (1, 3):  # all see the same, or neighbours do
        seen = inputs[: 5 * groups].view(groups, 5, *inputs.shape[1:])
        logits, mapped = family.apply(params, seen), vmap(family.apply)(params, seen.repeat_interleave(6 // groups, 0))
        assert (logits - mapped).abs().max().item() < 1e-12
        found, wanted = (torch.autograd.grad(v.square().sum(), list(params.values())) for v in (logits, mapped))
        assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-12) for a, b in zip(found, wanted, strict=True))


@every_stacked_student
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_backward_pass_by_hand_is_autograds_to_the_bit(
    family: Family, shape: Shape, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many students it takes at once. Of batches of 16: how a product of five columns is rounded depends on
    where in memory it lies."""
    assert family.by_hand is not None
    networks = [with_biases(network(family, 4, shape, seed)) for seed in range(6)]
    params = {name: param.to(dtype).requires_grad_() for name, param in stack(networks).items()}
    inputs = family.prepare(examples(96, shape)).to(dtype)
    for groups, at_once in product((1, 3, 6), (1, 4, 100)):  # all see the same, neighbours do, or each has its own
        monkeypatch.setattr(strided, "_at_once", lambda *_, most=at_once: most)
        seen = inputs[: 16 * groups].view(groups, 16, *inputs.shape[1:])
        logits = family.apply(params, seen)
        with torch.no_grad():
            found, back = family.by_hand(params, seen)
            assert torch.equal(family.apply(params, seen), logits)
        assert torch.equal(found, logits)
        for by in (torch.randn_like(logits), torch.zeros_like(logits)):  # more than once, of the same pass
            wanted = torch.autograd.grad(logits, list(params.values()), by, retain_graph=True)
            with torch.no_grad():
                assert all(torch.equal(a, b) for a, b in zip(back(by), wanted, strict=True))


@every_student
def test_a_network_inside_a_wider_one_says_the_same_and_its_padding_gets_no_gradient(
    family: Family, shape: Shape
) -> None:
    assert family.pads
    own = with_biases(network(family, 3, shape, 0))
    layers, wider = family.layers(3, shape, 10), family.layers(8, shape, 10)
    padded = {name: param.requires_grad_() for name, param in pad(own, layers, wider).items()}
    inputs = family.prepare(examples(15, shape))
    logits = family.apply(padded, inputs)
    assert (logits - family.apply(own, inputs)).abs().max().item() < 1e-12
    there = pad({name: torch.ones_like(param) for name, param in own.items()}, layers, wider)
    grads = torch.autograd.grad(logits.square().sum(), list(padded.values()))
    for (name, param), grad in zip(padded.items(), grads, strict=True):
        assert int(there[name].sum()) == own[name].numel()
        assert not param[there[name] == 0].any(), name
        assert not grad[there[name] == 0].any(), name


@pytest.mark.parametrize("places", [(7,), (4,), (5, 4)], ids=str)
def test_neighbourhoods_are_what_a_strided_convolution_sees_and_their_gradient_is_exact(places: Shape) -> None:
    maps = torch.randn(2, *places, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    maps.requires_grad_()
    found = neighbourhoods(maps, axes=len(places))
    images = maps.movedim(-1, 0).reshape(3, 2, -1, places[-1])  # a signal is an image of one row
    rows = (3, 1, 2) if len(places) == 2 else (1, 0, 1)  # kernel, padding, stride
    unfolded = F.unfold(images, (rows[0], 3), padding=(rows[1], 1), stride=(rows[2], 2))
    wanted = unfolded.view(3, 2, -1, unfolded.shape[-1]).permute(
        2, 1, 3, 0
    )  # [place in the kernel, channel, place, batch]
    assert torch.equal(found, wanted.reshape(found.shape))
    assert torch.autograd.gradcheck(lambda inside: neighbourhoods(inside, len(places)), (maps,))
