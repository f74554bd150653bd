"""What the hand-written loop trains: ordinary modules equal to the harness's families, and the library's own losses.

A new family or loss form needs a branch in `network` or `distillation`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.models import Family
from harness.spec import StudentSpec
from harness.tasks import Split

FORMS = ("kl", "soft_ce", "mse", "squared_norm")
CHANNELS_LAST = torch.channels_last
Metrics = dict[str, float]


def network(family: str, width: int, input_shape: tuple[int, ...], num_classes: int) -> nn.Sequential:
    """A student as an ordinary module, its weights normal as He 2015 (arXiv:1502.01852), its biases 0."""
    if family == "mlp":
        sizes = (math.prod(input_shape), width, width)
        hidden = [part for pair in pairwise(sizes) for part in (nn.Linear(*pair), nn.ReLU())]
        net = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, num_classes))
    elif family == "cnn":
        channels, height, across = input_shape
        patch = max(2, min(height, across) // 7)
        rows, columns = -(-height // patch), -(-across // patch)
        stem: list[nn.Module] = [nn.Conv2d(channels, width, patch, stride=patch), nn.ReLU()]
        if (rows * patch, columns * patch) != (height, across):
            stem.insert(0, nn.ZeroPad2d((0, columns * patch - across, 0, rows * patch - height)))
        conv = [nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten()]
        features = 2 * width * ((rows + 1) // 2) * ((columns + 1) // 2)
        net = nn.Sequential(*stem, *conv, nn.Linear(features, num_classes))
    elif family == "cnn1d":
        channels, length = input_shape
        stem = [nn.Conv1d(channels, width, 5, stride=2, padding=2), nn.ReLU()]
        for inside in (width, 2 * width):
            stem += [nn.Conv1d(inside, 2 * width, 3, stride=2, padding=1), nn.ReLU()]
        for _ in range(3):
            length = (length + 1) // 2
        net = nn.Sequential(*stem, nn.Flatten(), nn.Linear(2 * width * length, num_classes))
    else:
        raise ValueError(f"the plain loop has no network of family {family!r}; it has cnn, cnn1d, mlp")
    layers = [layer for layer in net if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d)]
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            layer.to(memory_format=CHANNELS_LAST)  # type: ignore[call-overload]
        nn.init.kaiming_normal_(layer.weight, nonlinearity="linear" if layer is layers[-1] else "relu")
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
    return net


def distillation(spec: StudentSpec, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """The distillation loss of one student's batch, logits `[batch, classes]`, with the library's own functions."""
    if spec.form == "mse":
        return F.mse_loss(student_logits, teacher_logits)
    if spec.form == "squared_norm":
        return F.mse_loss(student_logits, teacher_logits, reduction="sum") / len(student_logits)
    assert spec.temperature is not None
    soft_student, soft_teacher = student_logits / spec.temperature, teacher_logits / spec.temperature
    if spec.form == "soft_ce":
        return F.cross_entropy(soft_student, soft_teacher.softmax(1)) * spec.temperature**2
    log_q, log_p = soft_student.log_softmax(1), soft_teacher.log_softmax(1)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * spec.temperature**2


def make_optimiser(spec: StudentSpec, net: nn.Module) -> torch.optim.Optimizer:
    """The library's optimiser, in its fused form: on these networks it saves a tenth of a step."""
    if spec.optimiser == "sgd":
        return torch.optim.SGD(net.parameters(), spec.lr, spec.momentum, weight_decay=spec.weight_decay, fused=True)
    kind = torch.optim.AdamW if spec.optimiser == "adamw" else torch.optim.Adam
    return kind(net.parameters(), lr=spec.lr, weight_decay=spec.weight_decay, fused=True)


@torch.no_grad()
def run_teacher(family: Family, weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """The teacher's logits of a batch."""
    if inputs.ndim == 4:
        inputs = inputs.contiguous(memory_format=CHANNELS_LAST)
    return family.apply(weights, family.prepare(inputs))


@torch.no_grad()
def validate(net: nn.Module, split: Split) -> Metrics:
    """Accuracy and cross-entropy on a split."""
    logits = net(split.inputs)
    accuracy = (logits.argmax(1) == split.labels).float().mean().item()
    return {"val_accuracy": accuracy, "val_loss": F.cross_entropy(logits, split.labels).item()}
