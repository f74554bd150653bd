"""MiniLM-L6 (Wang 2020, arXiv:2002.10957) as a sentence encoder: BERT's layers on plain tensors, mean over tokens.

Made to read published weights; nothing here trains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Encoder:
    """Weights by their published names, and how many heads and layers they make."""

    weights: Mapping[str, Tensor]
    heads: int
    layers: int
    epsilon: float

    @property
    def num_params(self) -> int:
        """How many numbers it has."""
        return sum(tensor.numel() for name, tensor in self.weights.items() if "position_ids" not in name)

    def macs(self, length: int) -> int:
        """Multiply-accumulates of one text of so many tokens."""
        matrices = sum(
            tensor.numel() for name, tensor in self.weights.items() if tensor.ndim == 2 and name.startswith("encoder.")
        )
        width = self.weights["embeddings.word_embeddings.weight"].shape[1]
        return length * matrices + self.layers * 2 * length * length * width


@torch.no_grad()
def encode(encoder: Encoder, ids: Tensor, there: Tensor) -> Tensor:
    """Sentence vectors of unit length `[texts, features]`, of token numbers and a mask of tokens `[texts, length]`."""
    weights = encoder.weights
    kinds = weights["embeddings.token_type_embeddings.weight"][0]
    places = weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
    hidden = F.embedding(ids, weights["embeddings.word_embeddings.weight"]) + places + kinds
    hidden = _norm(encoder, "embeddings.LayerNorm", hidden)
    for layer in range(encoder.layers):
        hidden = _layer(encoder, f"encoder.layer.{layer}", hidden, there)
    mask = there[..., None].to(hidden.dtype)
    return F.normalize((hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9), dim=-1)


def _layer(encoder: Encoder, name: str, hidden: Tensor, there: Tensor) -> Tensor:
    batch, length, width = hidden.shape

    def split(part: str) -> Tensor:
        own = _linear(encoder, f"{name}.attention.self.{part}", hidden)
        return own.view(batch, length, encoder.heads, -1).transpose(1, 2)

    query, key, value = split("query"), split("key"), split("value")
    scores = (query @ key.mT / math.sqrt(width // encoder.heads)).masked_fill(~there[:, None, None, :], -math.inf)
    read = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, length, width)
    joined = _linear(encoder, f"{name}.attention.output.dense", read)
    hidden = _norm(encoder, f"{name}.attention.output.LayerNorm", hidden + joined)
    wide = F.gelu(_linear(encoder, f"{name}.intermediate.dense", hidden))
    return _norm(encoder, f"{name}.output.LayerNorm", hidden + _linear(encoder, f"{name}.output.dense", wide))


def _linear(encoder: Encoder, name: str, inputs: Tensor) -> Tensor:
    return F.linear(inputs, encoder.weights[f"{name}.weight"], encoder.weights[f"{name}.bias"])


def _norm(encoder: Encoder, name: str, inputs: Tensor) -> Tensor:
    weight, bias = encoder.weights[f"{name}.weight"], encoder.weights[f"{name}.bias"]
    return F.layer_norm(inputs, weight.shape, weight, bias, encoder.epsilon)
