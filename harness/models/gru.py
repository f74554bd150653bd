"""Gated recurrent units of `width` (Cho 2014, arXiv:1406.1078) over tokens: one answer a text, or one a position.

Written out step by step, for the library's fused recurrence takes one network at a time. The reset gate stands as in
torch, on the product with the state.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.models.family import Family, Layer, Parts, Shape
from harness.models.tokens import as_ids, mean_of_words


def gru(vocabulary: int, *, pooled: bool) -> Family:
    """Networks over so many tokens; `pooled` gives one answer a text, from the mean of its states, else one a token.

    Inputs are token numbers `[examples, length]`; in a pooled network 0 fills up, and counts for nothing.
    """

    def layers(width: int, _: Shape, num_classes: int) -> dict[str, Layer]:
        gates = ((3, width), (width,))
        return {
            "table": Layer((vocabulary, width), fan_in=1, gain=1.0),
            "input.weight": Layer((3 * width, width), fan_in=width, gain=1.0, axes=gates),
            "input.bias": Layer((3 * width,), axes=((3, width),)),
            "state.weight": Layer((3 * width, width), fan_in=width, gain=1.0, axes=gates),
            "state.bias": Layer((3 * width,), axes=((3, width),)),
            "logits.weight": Layer((num_classes, width), fan_in=width, gain=1.0),
            "logits.bias": Layer((num_classes,)),
        }

    def embed(params: Mapping[str, Tensor], inputs: Tensor) -> dict[str, Tensor]:
        states = _states(params, inputs)
        return {"embedding": mean_of_words(states, inputs) if pooled else states}

    def apply(params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        return head(params, embed(params, inputs)["embedding"])

    def macs(width: int, input_shape: Shape, num_classes: int) -> int:
        answers = 1 if pooled else input_shape[0]
        return input_shape[0] * 6 * width * width + answers * width * num_classes

    name = f"gru{'' if pooled else '_lm'}{vocabulary}"
    return Family(name, layers, as_ids, apply, macs, Parts(embed, head), pads=True)


def head(params: Mapping[str, Tensor], embedding: Tensor) -> Tensor:
    """Embedding `[batch, ..., width]` -> logits `[batch, ..., classes]`."""
    return F.linear(embedding, params["logits.weight"], params["logits.bias"])


def _states(params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """The state after every token, `[batch, length, width]`."""
    by_token = F.linear(params["table"], params["input.weight"], params["input.bias"])
    read = F.embedding(inputs.T, by_token)  # [length, batch, 3 width]
    width = params["state.weight"].shape[-1]
    state = torch.zeros_like(read[0, :, :width])
    states = []
    for now in read.unbind(0):
        held = F.linear(state, params["state.weight"], params["state.bias"])
        gates = torch.sigmoid(now[:, : 2 * width] + held[:, : 2 * width])
        reset, keep = gates[:, :width], gates[:, width:]
        new = torch.tanh(now[:, 2 * width :] + reset * held[:, 2 * width :])
        state = new + keep * (state - new)
        states.append(state)
    return torch.stack(states, dim=1)
