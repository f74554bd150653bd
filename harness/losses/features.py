"""The feature forms: how far what a student computes inside is from what its teacher does.

A form is a plain function of student and teacher features that returns `[...]`, one number a student. An embedding is
`[..., batch, features]`, a map `[..., batch, channels, places]`; the two may differ in features and channels, and the
teacher may lack leading axes, or have them of size 1. Forms compute in float32 or better, and stay finite where
embeddings are all nought, as a ReLU's may be. Add one by writing the function and its line in `FEATURES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness.forms import FEATURE_KNOBS, Knob
from harness.losses.logits import huber
from harness.losses.softened import gram, kl_terms, unit, wide
from harness.models.family import Layer


@dataclass(frozen=True)
class FeatureForm:
    """A feature form: `function(student, teacher, **knobs, **learned) -> [...]`.

    `point` is what it compares, `"embedding"` or `"map"`. Every knob is a tensor `[...]`, one number a student.
    `learned(student channels, teacher channels)` names the layers that are learned with the student; each reaches the
    function under the last part of its name, with the leading axes: `hint.weight` as `weight`.
    """

    function: Callable[..., Tensor]
    point: str
    knobs: Mapping[str, Knob] = field(default_factory=dict)
    learned: Callable[[int, int], Mapping[str, Layer]] | None = None


def hint(student: Tensor, teacher: Tensor, *, weight: Tensor, bias: Tensor) -> Tensor:
    """Mean over batch and teacher features of `(W s + b - t)^2`, a linear guess at the teacher's embedding t.

    Embeddings `[..., batch, features]`, weight `[..., features_t, features_s]`, bias `[..., features_t]` -> `[...]`.
    FitNets, arXiv:1412.6550.
    """
    guess = wide(student) @ wide(weight).mT + wide(bias)[..., None, :]
    return (guess - wide(teacher)).square().mean(-1).mean(-1)


def attention(student: Tensor, teacher: Tensor, *, power: Tensor) -> Tensor:
    """Mean over batch and places of the squared difference of attention: `mean_c |a|^power`, over its L2 length.

    Maps `[..., batch, channels, places]`, power `[...]` of at least 1 (default 2) -> `[...]`. The mean over places
    is RepDistiller's. A map of noughts has attention 0. Zagoruyko & Komodakis 2017, arXiv:1612.03928.
    """
    of_student, of_teacher = (_attention(wide(maps), power) for maps in (student, teacher))
    return (of_student - of_teacher).square().mean(-1).mean(-1)


def similarity(student: Tensor, teacher: Tensor) -> Tensor:
    """`||G_s - G_t||^2 / B^2`, Frobenius's norm; G is an embedding's Gram matrix, B x B, each row over its L2 length.

    Embeddings `[..., batch, features]` -> `[...]`. The row of an embedding of noughts is 0. Tung & Mori 2019,
    arXiv:1907.09682.
    """
    embeddings = _scaled(wide(student)), _scaled(wide(teacher))
    of_student, of_teacher = (unit(gram(one))[0] for one in embeddings)
    return (of_student - of_teacher).square().mean(-1).mean(-1)


def rkd(student: Tensor, teacher: Tensor, *, distance: Tensor, angle: Tensor) -> Tensor:
    """`distance mean_ij h(d_ij - d'_ij) + angle mean_ijk h(a_ijk - a'_ijk)`, h Huber's loss with beta 1.

    d is the distance of two examples over the mean of those above 0, a the cosine of the angle at i between j and k,
    the primes the teacher's; the means are over all B^2 and B^3, i = j too. Embeddings `[..., batch, features]`, knobs
    `[...]` (defaults 25 and 50) -> `[...]`. Examples that coincide have distance 0, cosine 0, and no gradient. Keeps
    `B^2 (B + features)` numbers a student. Park 2019, arXiv:1904.05068.
    """
    (d_s, a_s), (d_t, a_t) = _relations(wide(student)), _relations(wide(teacher))
    of_pairs = huber(d_s - d_t, 1.0).mean(-1).mean(-1)
    of_triples = huber(a_s - a_t, 1.0).mean(-1).mean(-1).mean(-1)
    return distance * of_pairs + angle * of_triples


def pkt(student: Tensor, teacher: Tensor) -> Tensor:
    """`sum_ij p_ij log(p_ij / q_ij) / B^2`: row i holds the similarities `(1 + cos(i, j)) / 2` over their sum.

    p is the teacher's, q the student's; the mean over all B^2 pairs, not over rows, is that of the authors' code, which
    adds 1e-7 inside the logarithm where this has similarities of at least 1e-7. Embeddings `[..., batch, features]` ->
    `[...]`, in nats over B. An embedding of noughts has cosine 0 with all, itself too. Passalis & Tefas 2018,
    arXiv:1803.10837.
    """
    log_q, log_p = (_neighbours(wide(embeddings)) for embeddings in (student, teacher))
    return kl_terms(log_p, log_q, log_p - log_q).mean(-1).mean(-1)


FEATURES: Mapping[str, FeatureForm] = {
    "hint": FeatureForm(
        hint,
        "embedding",
        FEATURE_KNOBS["hint"],
        learned=lambda features_s, features_t: {
            "hint.weight": Layer((features_t, features_s), fan_in=features_s, gain=1.0),
            "hint.bias": Layer((features_t,)),
        },
    ),
    "attention": FeatureForm(attention, "map", FEATURE_KNOBS["attention"]),
    "similarity": FeatureForm(similarity, "embedding", FEATURE_KNOBS["similarity"]),
    "rkd": FeatureForm(rkd, "embedding", FEATURE_KNOBS["rkd"]),
    "pkt": FeatureForm(pkt, "embedding", FEATURE_KNOBS["pkt"]),
}


def _scaled(values: Tensor) -> Tensor:
    """Values over the largest of the last two axes: for what does not depend on scale, so that no square overflows."""
    largest = values.detach().abs().amax((-1, -2), keepdim=True)
    return values / torch.where(largest > torch.finfo(values.dtype).tiny ** 0.5, largest, 1)


def _attention(maps: Tensor, power: Tensor) -> Tensor:
    """Where an example's activations are strong, of L2 length 1: maps -> `[..., batch, places]`."""
    return unit(_scaled(maps).abs().pow(power[..., None, None, None]).mean(-2))[0]


def _relations(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Distances over their mean, `[..., B, B]`, and cosines at i between j and k, `[..., B, B, B]`."""
    scaled = _scaled(embeddings)
    steps = scaled[..., None, :, :] - scaled[..., :, None, :]
    squares = steps.square().sum(-1)
    apart = squares > torch.finfo(squares.dtype).tiny
    lengths = torch.where(apart, squares, 1).sqrt()
    towards = steps / lengths[..., None]
    distances = torch.where(apart, lengths, 0)
    mean = distances.sum((-1, -2), keepdim=True) / apart.sum((-1, -2), keepdim=True).clamp(min=1)
    return distances / torch.where(mean > 0, mean, 1), towards @ towards.mT


def _neighbours(embeddings: Tensor) -> Tensor:
    """The logarithm of how likely each example picks each other by cosine, `[..., B, B]`; rows sum to 1."""
    towards, _ = unit(embeddings)
    alike = ((1 + gram(towards)) / 2).clamp(min=1e-7)
    return alike.log() - alike.sum(-1, keepdim=True).log()
