"""Gated recurrent units of `width` (Cho 2014, arXiv:1406.1078) over tokens: one answer a text, or one a position.

Made to be fused: the library's recurrence takes one network at a time, and one written in its operations spends two
thirds of a step on its way back, adding up the weights' gradient position by position. Here each position costs a
product and a few operations on the way there and back, and that gradient is one product over all positions in the end.
The reset gate stands as in torch, on the product with the state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
        if not pooled:
            return {"embedding": states}
        each = len(states) // len(inputs) if states.ndim == 4 else 1
        return {"embedding": mean_of_words(states, inputs.repeat_interleave(each, 0) if each > 1 else inputs)}

    def apply(params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        return head(params, embed(params, inputs)["embedding"])

    def macs(width: int, input_shape: Shape, num_classes: int) -> int:
        answers = 1 if pooled else input_shape[0]
        return input_shape[0] * 6 * width * width + answers * width * num_classes

    name = f"gru{'' if pooled else '_lm'}{vocabulary}"
    return Family(name, layers, as_ids, apply, macs, Parts(embed, head), stacks=True, pads=True)


def head(params: Mapping[str, Tensor], embedding: Tensor) -> Tensor:
    """Embedding `[batch, ..., width]` -> logits `[batch, ..., classes]`."""
    weight, bias = params["logits.weight"], params["logits.bias"]
    if weight.ndim == 2:
        return F.linear(embedding, weight, bias)
    rows = embedding.flatten(1, -2)
    return torch.baddbmm(bias[:, None], rows, weight.mT).view(*embedding.shape[:-1], -1)


def _states(params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """The state after every token, `[batch, length, width]`, or `[students, batch, length, width]` of many."""
    weight, bias = params["state.weight"], params["state.bias"]
    if weight.ndim == 2:
        by_token = F.linear(params["table"], params["input.weight"], params["input.bias"])
        return _run(F.embedding(inputs.T[:, None], by_token), weight[None], bias[None])[:, 0].transpose(0, 1)
    by_token = torch.baddbmm(params["input.bias"][:, None], params["table"], params["input.weight"].mT)
    students, tokens, _ = by_token.shape
    first = tokens * torch.arange(students, device=inputs.device)
    ids = inputs.repeat_interleave(students // len(inputs), 0) + first[:, None, None]
    read = F.embedding(ids.permute(2, 0, 1), by_token.flatten(0, 1))  # [length, students, batch, 3 width]
    return _run(read, weight, bias).permute(1, 2, 0, 3)


def _run(read: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """States `[length, students, batch, width]` of what the gates read, `[length, students, batch, 3 width]`."""
    if torch.is_grad_enabled():
        found: Tensor = _Recurrence.apply(read, weight, bias)  # type: ignore[no-untyped-call]
        return found
    state, states, back = torch.zeros_like(read[0, :, :, : weight.shape[-1]]), [], weight.mT
    for now in read.unbind(0):
        state = _step(now, torch.baddbmm(bias[:, None], state, back), state)[0]
        states.append(state)
    return torch.stack(states)


def _step(now: Tensor, held: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The next state, the gates for reset and keep side by side, and the new value, of one position."""
    width = state.shape[-1]
    gates = torch.sigmoid(now[..., : 2 * width] + held[..., : 2 * width])
    new = torch.tanh(torch.addcmul(now[..., 2 * width :], gates[..., :width], held[..., 2 * width :]))
    return torch.lerp(new, state, gates[..., width:]), gates, new


class _Recurrence(torch.autograd.Function):
    """`_run` with its way back written out."""

    @staticmethod
    def forward(ctx: Any, read: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        width, back = weight.shape[-1], weight.mT
        state = torch.zeros_like(read[0, :, :, :width])
        states, rest = [state], list[tuple[Tensor, Tensor, Tensor]]()
        for now in read.unbind(0):
            held = torch.baddbmm(bias[:, None], state, back)
            state, gates, new = _step(now, held, state)
            states.append(state)
            rest.append((gates, new, held[..., 2 * width :]))
        whole = torch.stack(states)
        ctx.save_for_backward(whole, *(torch.stack(own) for own in zip(*rest, strict=True)), weight)
        return whole[1:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        states, gates, news, kept, weight = ctx.saved_tensors
        width = weight.shape[-1]
        reset, keep = gates[..., :width], gates[..., width:]
        # What the gradient of a state is multiplied by on its way to each gate, for all positions at once.
        to_new = (1 - keep) * (1 - news.square())
        to_keep = (states[:-1] - news) * keep * (1 - keep)
        to_reset = to_new * kept * reset * (1 - reset)
        to_held = torch.cat([to_reset, to_keep, to_new * reset], dim=-1)
        later, flowing, held = torch.zeros_like(states[0]), [], []
        for own, kept_share, onward in zip(*(part.flip(0) for part in (grads[0], keep, to_held)), strict=True):
            now = own + later
            flowing.append(now)
            held.append(onward * now.repeat(1, 1, 3))
            later = torch.baddbmm(now * kept_share, held[-1], weight)
        flowed = torch.stack(flowing[::-1])
        onto_read = torch.cat([to_reset * flowed, to_keep * flowed, to_new * flowed], dim=-1)
        by_student = torch.stack(held[::-1], dim=1).flatten(1, 2)  # [students, length x batch, 3 width]
        before = states[:-1].transpose(0, 1).flatten(1, 2)
        return onto_read, by_student.mT @ before, by_student.sum(1)
