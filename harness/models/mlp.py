"""A multi-layer perceptron: two hidden ReLU layers of `width` units.

Activations stand features first, `[features, batch]`: for the narrow layers of a small student that is several times
faster than `[batch, features]` on a CPU, and the products come out the same to the bit alone and fused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.models.family import Back, Family, Layer, Parts, Shape
from harness.models.shared import by_group, product


def layers(width: int, input_shape: Shape, num_classes: int) -> dict[str, Layer]:
    """Two hidden layers and the logits."""
    features = math.prod(input_shape)
    return {
        "hidden_1.weight": Layer((width, features), fan_in=features),
        "hidden_1.bias": Layer((width, 1)),
        "hidden_2.weight": Layer((width, width), fan_in=width),
        "hidden_2.bias": Layer((width, 1)),
        "logits.weight": Layer((num_classes, width), fan_in=width, gain=1.0),
        "logits.bias": Layer((num_classes, 1)),
    }


def prepare(inputs: Tensor) -> Tensor:
    """Inputs `[examples, ...]` -> `[examples, features]`."""
    return inputs.flatten(1).contiguous()


def apply(params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Prepared inputs `[batch, features]` -> logits `[batch, classes]`."""
    return _logits(params, _hidden(params, inputs))


def embed(params: Mapping[str, Tensor], inputs: Tensor) -> dict[str, Tensor]:
    """Prepared inputs `[batch, features]` -> the second hidden layer `[batch, width]`."""
    return {"embedding": _hidden(params, inputs).mT}


def head(params: Mapping[str, Tensor], embedding: Tensor) -> Tensor:
    """Embedding `[batch, width]` -> logits `[batch, classes]`."""
    return _logits(params, embedding.mT)


def _hidden(params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    hidden = F.relu(product(params["hidden_1.weight"], inputs.mT) + params["hidden_1.bias"])
    return F.relu(params["hidden_2.weight"] @ hidden + params["hidden_2.bias"])


def _logits(params: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
    return (params["logits.weight"] @ hidden + params["logits.bias"]).mT


def by_hand(params: Mapping[str, Tensor], inputs: Tensor) -> tuple[Tensor, Back]:
    """`apply` and its backward pass: autograd's numbers to the bit."""
    weight_2, weight_3 = params["hidden_2.weight"], params["logits.weight"]
    first = by_group(params["hidden_1.weight"], inputs.mT).add_(params["hidden_1.bias"]).relu_()
    second = torch.bmm(weight_2, first).add_(params["hidden_2.bias"]).relu_()

    def back(gradient: Tensor) -> list[Tensor]:
        by_logits = gradient.mT
        by_second = torch.ops.aten.threshold_backward(torch.bmm(weight_3.mT, by_logits), second, 0)
        by_first = torch.ops.aten.threshold_backward(torch.bmm(weight_2.mT, by_second), first, 0)
        of_weights = by_group(by_first, inputs), torch.bmm(by_second, first.mT), torch.bmm(by_logits, second.mT)
        of_biases = (by.sum(-1, keepdim=True) for by in (by_first, by_second, by_logits))
        return [found for layer in zip(of_weights, of_biases, strict=True) for found in layer]

    return torch.bmm(weight_3, second).add_(params["logits.bias"]).mT, back


def macs(width: int, input_shape: Shape, num_classes: int) -> int:
    """Multiply-accumulates of one example."""
    return width * math.prod(input_shape) + width * width + num_classes * width


LEAST = 12
"""Units: gradients at the weights of eight columns and fewer round otherwise than those of more."""
PARTS = Parts(embed, head)
MLP = Family("mlp", layers, prepare, apply, macs, PARTS, stacks=True, pads=True, by_hand=by_hand, least=LEAST)
