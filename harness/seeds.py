"""Where randomness comes from: one generator for each seed and purpose, never the global one."""

from __future__ import annotations

import hashlib

import torch


def derive(seed: int, purpose: str) -> int:
    """A 63-bit seed for one purpose; neighbouring seeds and different purposes give unrelated ones."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8], "big") >> 1


def generator(seed: int, purpose: str) -> torch.Generator:
    """A CPU generator for one purpose (`"init"`, `"order"`), the same numbers whatever the training device."""
    return torch.Generator().manual_seed(derive(seed, purpose))
