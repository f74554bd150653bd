"""The rule by which a claim of the literature is judged: differences paired over seeds in, a verdict out.

A part of a claim says that an effect d is above zero, and has a smallest effect of interest, delta, fixed beforehand.
`reproduced`: d is shown to be above 0. Else `contradicted`: d is shown to be below delta, so that an effect as large as
delta is excluded. Else `underpowered`: the seeds at hand cannot tell. Shown is what a two-sided t test over seeds finds
at 5%, by Holm's p where a claim has several parts: with one part, that its 95% t interval lies on that side. The
claim's own verdict is that of its first part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.analysis.statistics import LEVEL, Paired, holm, minimum_detectable, paired

REPRODUCED, CONTRADICTED, UNDERPOWERED = "reproduced", "contradicted", "underpowered"
VERDICTS = (REPRODUCED, CONTRADICTED, UNDERPOWERED)


@dataclass(frozen=True)
class Part:
    """One statement of a claim: that the effect `d`, in words, is above zero.

    `delta` is the smallest effect of interest, in `unit`, and `why` its reason.
    """

    name: str
    d: str
    delta: float
    why: str
    unit: str = "points"

    def __post_init__(self) -> None:
        if not 0 < self.delta < math.inf:
            raise ValueError(f"part {self.name!r}: delta {self.delta!r} must be a number above 0")


@dataclass(frozen=True)
class Finding:
    """What the seeds say of a part: statistics of d, Holm's p of d = 0 and of d = delta, and the verdict.

    `detectable` is the effect that as many seeds find with 80% power.
    """

    part: Part
    differences: tuple[float, ...]
    effect: Paired
    p_zero: float
    p_delta: float
    detectable: float
    verdict: str


def judge(parts: Sequence[Part], differences: Mapping[str, Sequence[float]]) -> list[Finding]:
    """A finding for each part, in order, given one difference a seed by the part's name.

    Raises `ValueError` where the names are not those of the parts, or a part has no differences.
    """
    if [part.name for part in parts] != list(differences):
        raise ValueError(
            f"effects {', '.join(differences)} are not those of the parts {', '.join(p.name for p in parts)}"
        )
    found = [paired(differences[part.name]) for part in parts]
    below = [paired([d - part.delta for d in differences[part.name]]) for part in parts]
    p_zero, p_delta = holm([one.p_t for one in found]), holm([one.p_t for one in below])
    return [
        Finding(
            part,
            tuple(differences[part.name]),
            own,
            p_zero[place],
            p_delta[place],
            minimum_detectable(own.sd, own.num_seeds),
            _verdict(own.mean, part.delta, p_zero[place], p_delta[place]),
        )
        for place, (part, own) in enumerate(zip(parts, found, strict=True))
    ]


def _verdict(mean: float, delta: float, p_zero: float, p_delta: float) -> str:
    """A p that is not known, as from one seed, shows nothing."""
    if mean > 0 and p_zero < LEVEL:
        return REPRODUCED
    return CONTRADICTED if mean < delta and p_delta < LEVEL else UNDERPOWERED
