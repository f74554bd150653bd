"""Networks over tokens: the library's own of the same weights, what they may not see, sizes, and many side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap
from torch.utils.flop_counter import FlopCounterMode

from harness.models import Family, init, num_params
from harness.models.family import pad
from harness.models.transformer import num_heads
from tests.small_texts import CLASSES, DECODERS, LENGTH, POOLED, VOCABULARY, study, texts
from tests.students import assert_alone_as_together, assert_same, student, train

SHAPE = (LENGTH,)
EVERY = {f"{name}-pooled": family for name, family in POOLED.items()} | {
    f"{name}-lm": family for name, family in DECODERS.items()
}
every_family = pytest.mark.parametrize("family", EVERY.values(), ids=EVERY)
every_pooled = pytest.mark.parametrize("family", POOLED.values(), ids=POOLED)
every_decoder = pytest.mark.parametrize("family", DECODERS.values(), ids=DECODERS)
PADDED = {name: family for name, family in EVERY.items() if family.pads}
EXACT = 1e-12
"""Of float64 numbers near 1 that are computed in another order: some thousand roundings of 1e-16 at most."""


def network(family: Family, width: int = 6, seed: int = 0) -> dict[str, Tensor]:
    """Parameters away from their start, where biases are 0 and would hide an error in them."""
    noise = torch.Generator().manual_seed(seed)
    first = init(family, width, SHAPE, CLASSES, noise)
    return {name: p + torch.randn(p.shape, generator=noise, dtype=p.dtype) * 0.3 for name, p in first.items()}


def near(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape and bool((found - wanted).abs().max() < EXACT)


@pytest.mark.parametrize("width", [1, 5])
def test_a_gru_is_the_librarys_own_of_the_same_weights(width: int) -> None:
    params, inputs = network(DECODERS["gru"], width), texts(7)
    library = torch.nn.GRU(width, width, batch_first=True).double()
    names = {"weight_ih_l0": "input.weight", "weight_hh_l0": "state.weight",
             "bias_ih_l0": "input.bias", "bias_hh_l0": "state.bias"}  # fmt: skip
    library.load_state_dict({theirs: params[ours] for theirs, ours in names.items()})
    states, _ = library(params["table"][inputs])
    wanted = F.linear(states, params["logits.weight"], params["logits.bias"])
    assert near(DECODERS["gru"].apply(params, inputs), wanted)
    there = (inputs != 0).double()[..., None]
    mean = (states * there).sum(1) / there.sum(1)
    assert near(POOLED["gru"].apply(params, inputs), F.linear(mean, params["logits.weight"], params["logits.bias"]))


def test_a_bag_is_the_mean_of_its_words_by_hand() -> None:
    params = network(POOLED["bag"])
    mean = (2 * params["table"][5] + params["table"][3]) / 3
    wanted = params["logits.weight"] @ mean + params["logits.bias"]
    assert near(POOLED["bag"].apply(params, torch.tensor([[5, 3, 5, 0, 0, 0]])), wanted[None])


@pytest.mark.parametrize("pooled", [True, False], ids=["pooled", "lm"])
@pytest.mark.parametrize("width", [6, 32])
def test_a_transformer_is_the_librarys_own_of_the_same_weights(width: int, pooled: bool) -> None:
    """The library scales and shifts after each norm, and has biases at the attention: ones, our shift, and zeros."""
    family = (POOLED if pooled else DECODERS)["transformer"]
    params, inputs = network(family, width), texts(7)
    layer = torch.nn.TransformerEncoderLayer(
        width, num_heads(width), 4 * width, 0.0, "gelu", batch_first=True, norm_first=True, dtype=torch.float64
    )
    there = inputs != 0
    mask = None if pooled else torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    hidden = params["table"][inputs] + params["places"]
    for block in ("block_1", "block_2"):
        own = {name.removeprefix(f"{block}."): p for name, p in params.items() if name.startswith(block)}
        zero, one = torch.zeros(3 * width, dtype=torch.float64), torch.ones(width, dtype=torch.float64)
        layer.load_state_dict({
            "self_attn.in_proj_weight": own["qkv.weight"], "self_attn.in_proj_bias": zero,
            "self_attn.out_proj.weight": own["join.weight"], "self_attn.out_proj.bias": zero[:width],
            "linear1.weight": own["wide.weight"], "linear1.bias": own["wide.bias"],
            "linear2.weight": own["narrow.weight"], "linear2.bias": own["narrow.bias"],
            "norm1.weight": one, "norm1.bias": own["attend.bias"],
            "norm2.weight": one, "norm2.bias": own["think.bias"],
        })  # fmt: skip
        hidden = layer(hidden, src_mask=mask, src_key_padding_mask=~there if pooled else None)
    hidden = F.layer_norm(hidden, (width,)) + params["norm.bias"]
    if pooled:
        hidden = torch.stack([own[seen].mean(0) for own, seen in zip(hidden, there, strict=True)])
    assert near(family.apply(params, inputs), F.linear(hidden, params["logits.weight"], params["logits.bias"]))


@pytest.mark.parametrize("width", range(1, 200))
def test_a_transformers_heads_divide_its_width(width: int) -> None:
    heads = num_heads(width)
    assert width % heads == 0 and (width // heads >= 16 or heads == 1)


@every_decoder
def test_what_a_decoder_says_does_not_depend_on_later_tokens(family: Family) -> None:
    params, inputs = network(family), texts(5)
    said = family.apply(params, inputs)
    assert said.shape == (5, LENGTH, CLASSES)
    for place in range(LENGTH):
        other = inputs.clone()
        other[:, place] = (other[:, place] + 1) % VOCABULARY
        again = family.apply(params, other)
        assert torch.equal(again[:, :place], said[:, :place])
        assert ((again - said)[:, place:].abs().amax((0, 2)) > 0).all()  # every later one does see it


@every_pooled
def test_what_fills_a_text_up_counts_for_nothing(family: Family) -> None:
    """Whatever the row of 0 says, of the table as of the places behind the text."""
    params, inputs = network(family), texts(9)
    said = family.apply(params, inputs)
    changed = dict(params) | {"table": params["table"].clone()}
    changed["table"][0] += 5.0
    assert near(family.apply(changed, inputs), said)
    short = inputs * (torch.arange(LENGTH) < 3)
    if "places" in params:
        changed = dict(params) | {"places": params["places"].clone()}
        changed["places"][3:] -= 5.0
        assert near(family.apply(changed, short), family.apply(params, short))
        cut = dict(params) | {"places": params["places"][:3]}
    else:
        cut = params
        assert near(family.apply(params, F.pad(inputs, (0, 4))), said)
    assert near(family.apply(params, short), family.apply(cut, short[:, :3]))
    assert family.apply(params, torch.zeros_like(inputs)).isfinite().all()  # a text without a word


@every_family
@pytest.mark.parametrize("width", [1, 3, 32])
def test_sizes_are_those_of_the_tensors_and_of_a_count_by_hand(family: Family, width: int) -> None:
    params, inputs = init(family, width, SHAPE, CLASSES, torch.Generator()), texts(1)
    assert num_params(family, width, SHAPE, CLASSES) == sum(param.numel() for param in params.values())
    macs = family.macs(width, SHAPE, CLASSES)
    with FlopCounterMode(display=False) as counter:
        family.apply(params, inputs)
    counted = counter.get_total_flops() // 2
    if family.name.startswith("gru"):  # it reads the table once for all words of a batch; a text alone reads its own
        counted -= (VOCABULARY - LENGTH) * 3 * width * width
    if family.name.startswith("bag"):  # sums are additions, which the library does not count
        counted += LENGTH * width
    assert macs == counted


@every_family
def test_logits_are_the_networks_own_whatever_its_neighbours_and_its_batch(family: Family) -> None:
    networks, inputs = [network(family, seed=seed) for seed in range(4)], texts(5)
    stacked = {name: torch.stack([one[name] for one in networks]) for name in networks[0]}
    if family.stacks:
        found = family.apply(stacked, inputs[None])
    else:
        found = vmap(family.apply, in_dims=(0, None))(stacked, inputs)
    for own, said in zip(networks, found, strict=True):
        assert near(said, family.apply(own, inputs))
        assert near(said[2:3], family.apply(own, inputs[2:3]))
        assert family.parts is not None
        assert torch.equal(
            family.apply(own, inputs), family.parts.head(own, family.parts.embed(own, inputs)["embedding"])
        )


@pytest.mark.parametrize("family", PADDED.values(), ids=PADDED)
def test_a_network_inside_a_wider_one_says_the_same_and_its_padding_gets_no_gradient(family: Family) -> None:
    own, inputs = network(family, 3), texts(6)
    layers, wider = (family.layers(width, SHAPE, CLASSES) for width in (3, 8))
    padded = {name: param.requires_grad_() for name, param in pad(own, layers, wider).items()}
    there = pad({name: torch.ones_like(param) for name, param in own.items()}, layers, wider)
    logits = family.apply(padded, inputs)
    assert near(logits, family.apply(own, inputs))
    grads = torch.autograd.grad(logits.square().sum(), list(padded.values()))
    for (name, param), grad in zip(padded.items(), grads, strict=True):
        assert int(there[name].sum()) == own[name].numel()
        assert not param[there[name] == 0].any() and not grad[there[name] == 0].any(), name


def test_the_families_whose_norms_are_over_units_are_not_padded() -> None:
    assert sorted(PADDED) == ["bag-pooled", "gru-lm", "gru-pooled"]


@pytest.mark.parametrize(
    ("call", "family"), [("pooled()", name) for name in POOLED] + [("decoded()", n) for n in DECODERS]
)
@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_a_student_among_others_of_other_widths_is_the_student_alone(
    optimiser: str, call: str, family: str, tmp_path: Path
) -> None:
    common: dict[str, Any] = {"task": study(tmp_path / "own.py", call), "family": family, "batch_size": 32}
    common |= {"optimiser": optimiser, "lr": 0.01}
    specs = [
        student("kl", width=2, seed=1, **common), student("mse", width=5, seed=2, **common),
        student("ce", width=9, seed=1, **common), student("kl", width=6, seed=1, teacher="self", **common),
        student("dist", width=6, seed=2, label_smoothing=0.1, **common),
    ]  # fmt: skip
    sizes = set()
    for spec, record in zip(specs, train(specs, tmp_path / "cache"), strict=True):
        sizes.add(record.cost.cohort_size)
        (alone,) = train([spec], tmp_path / "cache")
        assert record.status == "ok"
        assert_same(record, alone, 1e-10)  # as elsewhere: rounding of float64, grown over some six steps
    assert sizes == ({1, 2} if family == "transformer" else {5})


@pytest.mark.parametrize("family", DECODERS)
def test_what_is_dropped_or_compared_at_every_position_is_a_students_own(family: str, tmp_path: Path) -> None:
    common: dict[str, Any] = {"task": study(tmp_path / "own.py", "decoded()"), "family": family, "batch_size": 32}
    specs = [student("kl", dropout=rate, seed=seed, **common) for rate, seed in ((0.1, 1), (0.5, 1), (0.5, 2))]
    specs += [student("mse", feature=name, **common) for name in ("hint", "similarity")]
    records = assert_alone_as_together(specs, tmp_path / "cache")
    assert len({record.metrics["val_loss"] for record in records}) == len(specs)
