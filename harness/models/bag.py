"""Bags of embeddings for text: the mean of a text's word vectors, and logits (Joulin 2017, arXiv:1607.01759).

Linear in its words, and small but for its table, which is nearly all of its parameters.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from harness.models.family import Family, Layer, Parts, Shape
from harness.models.tokens import as_ids, mean_of_words


def bag(vocabulary: int) -> Family:
    """Bags over so many words. Inputs are word numbers `[examples, length]`; 0 fills up, and counts for nothing."""

    def layers(width: int, _: Shape, num_classes: int) -> dict[str, Layer]:
        return {
            "table": Layer((vocabulary, width), fan_in=1, gain=1.0),
            "logits.weight": Layer((num_classes, width), fan_in=width, gain=1.0),
            "logits.bias": Layer((num_classes,)),
        }

    def macs(width: int, input_shape: Shape, num_classes: int) -> int:
        return width * num_classes + input_shape[0] * width

    return Family(f"bag{vocabulary}", layers, as_ids, apply, macs, Parts(embed, head), pads=True)


def embed(params: Mapping[str, Tensor], inputs: Tensor) -> dict[str, Tensor]:
    """Word numbers `[batch, length]` -> the mean of their vectors `[batch, width]`."""
    return {"embedding": mean_of_words(F.embedding(inputs, params["table"]), inputs)}


def head(params: Mapping[str, Tensor], embedding: Tensor) -> Tensor:
    """Embedding `[batch, width]` -> logits `[batch, classes]`."""
    return F.linear(embedding, params["logits.weight"], params["logits.bias"])


def apply(params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Word numbers `[batch, length]` -> logits `[batch, classes]`."""
    return head(params, embed(params, inputs)["embedding"])
