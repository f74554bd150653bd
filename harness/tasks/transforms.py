"""Random changes of inputs that keep the label: `transform(inputs, noise) -> inputs`, both `[examples, ...]`.

All randomness is the generator's, and inputs are a split's, not yet prepared for a family. Add one by writing its
function here and naming it where a task lists its transforms.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Transform = Callable[[Tensor, torch.Generator], Tensor]

NOISE_SD = 0.1


def shifted(images: Tensor, most: int, noise: torch.Generator) -> Tensor:
    """Images `[batch, channels, height, width]`, each moved by up to `most` pixels either way; the edge repeats."""
    batch, channels, height, width = images.shape
    padded = F.pad(images, (most,) * 4, mode="replicate")
    offsets = torch.randint(0, 2 * most + 1, (2, batch, 1), generator=noise, device=noise.device).to(images.device)
    rows = (offsets[0] + _count(height, images))[:, None, :, None]
    columns = (offsets[1] + _count(width, images))[:, None, None, :]
    examples, all_channels = _count(batch, images)[:, None, None, None], _count(channels, images)[:, None, None]
    return padded[examples, all_channels, rows, columns]


def flipped(images: Tensor, noise: torch.Generator) -> Tensor:
    """Images `[batch, channels, height, width]`, each mirrored left to right or not, evenly."""
    drawn = torch.rand((images.shape[0], 1, 1, 1), generator=noise, device=noise.device).to(images.device)
    return torch.where(drawn < 0.5, images.flip(3), images)


def shifted_along(signals: Tensor, most: int, noise: torch.Generator) -> Tensor:
    """Signals `[batch, channels, length]`, each moved by up to `most` samples either way; the edge repeats."""
    batch, channels, length = signals.shape
    padded = F.pad(signals, (most, most), mode="replicate")
    offsets = torch.randint(0, 2 * most + 1, (batch, 1, 1), generator=noise, device=noise.device).to(signals.device)
    return padded.gather(2, (offsets + _count(length, signals)).expand(batch, channels, length))


def noisy(inputs: Tensor, noise: torch.Generator) -> Tensor:
    """Inputs scaled to unit variance `[examples, ...]` with Gaussian noise of SD 0.1 added."""
    drawn = torch.randn(inputs.shape, generator=noise, dtype=inputs.dtype, device=noise.device)
    return inputs + NOISE_SD * drawn.to(inputs.device)


def _count(size: int, like: Tensor) -> Tensor:
    return torch.arange(size, device=like.device)
