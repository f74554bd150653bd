"""Small transformers of `width`, two blocks deep: decoders over tokens, and encoders that answer once a text.

Normalised before each part (Xiong 2020, arXiv:2002.04745), learned positions, heads of up to 16 units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.models.family import Family, Layer, Parts, Shape
from harness.models.tokens import as_ids, mean_of_words

BLOCKS = 2
HEAD = 16


def num_heads(width: int) -> int:
    """As many heads as 16 units each leave room for, and the width is a multiple of."""
    return max(heads for heads in range(1, max(1, width // HEAD) + 1) if width % heads == 0)


def transformer(vocabulary: int, *, pooled: bool) -> Family:
    """Networks over so many tokens; `pooled` gives one answer a text, else one a token, from the tokens up to it.

    Inputs are token numbers `[examples, length]`; in a pooled network 0 fills up, and is not attended to.
    """

    def layers(width: int, input_shape: Shape, num_classes: int) -> dict[str, Layer]:
        found = {
            "table": Layer((vocabulary, width), fan_in=width, gain=1.0),
            "places": Layer((input_shape[0], width), fan_in=width, gain=1.0),
        }
        for block in range(1, BLOCKS + 1):
            found |= _block_layers(f"block_{block}", width)
        return found | {
            "norm.bias": Layer((width,)),
            "logits.weight": Layer((num_classes, width), fan_in=width, gain=1.0),
            "logits.bias": Layer((num_classes,)),
        }

    def embed(params: Mapping[str, Tensor], inputs: Tensor) -> dict[str, Tensor]:
        hidden = F.embedding(inputs, params["table"]) + params["places"]
        seen = _seen(inputs, pooled)
        for block in range(1, BLOCKS + 1):
            hidden = _block(params, f"block_{block}", hidden, seen)
        hidden = _norm(hidden) + params["norm.bias"]
        return {"embedding": mean_of_words(hidden, inputs) if pooled else hidden}

    def apply(params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        return head(params, embed(params, inputs)["embedding"])

    def macs(width: int, input_shape: Shape, num_classes: int) -> int:
        length = input_shape[0]
        block = 12 * length * width * width + 2 * length * length * width
        return BLOCKS * block + (1 if pooled else length) * width * num_classes

    name = f"transformer{'' if pooled else '_lm'}{vocabulary}"
    return Family(name, layers, as_ids, apply, macs, Parts(embed, head))


def _block_layers(name: str, width: int) -> dict[str, Layer]:
    """Queries, keys and values; what joins the heads; two layers of 4 width and width. The last of each start small."""
    small = 0.5 / BLOCKS
    return {
        f"{name}.attend.bias": Layer((width,)),
        f"{name}.qkv.weight": Layer((3 * width, width), fan_in=width, gain=1.0),
        f"{name}.join.weight": Layer((width, width), fan_in=width, gain=small),
        f"{name}.think.bias": Layer((width,)),
        f"{name}.wide.weight": Layer((4 * width, width), fan_in=width),
        f"{name}.wide.bias": Layer((4 * width,)),
        f"{name}.narrow.weight": Layer((width, 4 * width), fan_in=4 * width, gain=small),
        f"{name}.narrow.bias": Layer((width,)),
    }


def _seen(inputs: Tensor, pooled: bool) -> Tensor:
    """What each place attends to, True where it does: `[batch, 1, length, length]`, or the same for all texts."""
    length = inputs.shape[-1]
    if not pooled:
        return torch.ones(length, length, dtype=torch.bool, device=inputs.device).tril()
    there = inputs != 0
    itself = torch.eye(length, dtype=torch.bool, device=inputs.device)  # so that no row of the softmax is empty
    return (there[:, None, None, :] | itself).expand(-1, 1, length, length)


def _block(params: Mapping[str, Tensor], name: str, hidden: Tensor, seen: Tensor) -> Tensor:
    batch, length, width = hidden.shape
    heads = num_heads(width)
    normal = _norm(hidden) + params[f"{name}.attend.bias"]
    qkv = F.linear(normal, params[f"{name}.qkv.weight"]).view(batch, length, 3, heads, width // heads)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    scores = (query @ key.mT / math.sqrt(width // heads)).masked_fill(~seen, -math.inf)
    read = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, length, width)
    hidden = hidden + F.linear(read, params[f"{name}.join.weight"])
    normal = _norm(hidden) + params[f"{name}.think.bias"]
    wide = F.gelu(F.linear(normal, params[f"{name}.wide.weight"], params[f"{name}.wide.bias"]))
    return hidden + F.linear(wide, params[f"{name}.narrow.weight"], params[f"{name}.narrow.bias"])


def _norm(hidden: Tensor) -> Tensor:
    """Zero mean and unit variance over the units; scales are left to the matrices that read it."""
    return F.layer_norm(hidden, hidden.shape[-1:])


def head(params: Mapping[str, Tensor], embedding: Tensor) -> Tensor:
    """Embedding `[batch, ..., width]` -> logits `[batch, ..., classes]`."""
    return F.linear(embedding, params["logits.weight"], params["logits.bias"])
