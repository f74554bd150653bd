"""The loss of the labels."""

from __future__ import annotations

from torch import Tensor

from harness.losses.softened import log_softmax, wide


def cross_entropy(student_logits: Tensor, labels: Tensor, smoothing: Tensor | None = None) -> Tensor:
    """Cross-entropy with the labels, in nats, mean over the batch: `[..., batch, classes]` -> `[...]`.

    `smoothing` `[...]` is the share of each label that is spread evenly over all classes (Szegedy 2016,
    arXiv:1512.00567), as in `torch.nn.CrossEntropyLoss(label_smoothing=...)`.
    """
    log_probs = log_softmax(wide(student_logits))
    hard = -log_probs.gather(-1, labels[..., None])[..., 0].mean(-1)
    if smoothing is None:
        return hard
    return (1 - smoothing) * hard - smoothing * log_probs.mean((-2, -1))
