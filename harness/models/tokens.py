"""What families of text share: token numbers in, 0 for no token; means over a text's tokens."""

from __future__ import annotations

from torch import Tensor


def as_ids(inputs: Tensor) -> Tensor:
    """Token numbers `[examples, length]`, as they are."""
    return inputs


def mean_of_words(vectors: Tensor, ids: Tensor) -> Tensor:
    """The mean over the places of `vectors` `[batch, length, features]` where `ids` `[batch, length]` has a token."""
    there = (ids != 0).to(vectors.dtype)[..., None]
    return (vectors * there).sum(-2) / there.sum(-2).clamp(min=1)
