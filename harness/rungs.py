"""Which trials of a bracket go on at a rung: successive halving (Jamieson & Talwalkar 2016, arXiv:1502.07943).

A bracket is what is compared: trials of one round of asking, one arm and one width. It is synchronous: nothing is
decided at a rung before every trial of the bracket has reached it. So a verdict depends on the bracket's own numbers,
never on what finished first, and a restart comes to the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Halving:
    """At each of `rungs`, epochs counted from 1, the best 1 / `reduction_factor` of a bracket go on, rounded up.

    Raises `ValueError` for rungs that do not increase, and for a factor that prunes nothing.
    """

    rungs: tuple[int, ...]
    reduction_factor: float = 2

    def __post_init__(self) -> None:
        rungs, factor = self.rungs, self.reduction_factor
        whole = isinstance(rungs, tuple) and all(type(epoch) is int and epoch > 0 for epoch in rungs)
        if not whole or not rungs or list(rungs) != sorted(set(rungs)):
            raise ValueError(f"rungs {rungs!r} must be a tuple of increasing whole numbers of epochs, as (4, 12)")
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 1 < factor < math.inf:
            raise ValueError(f"reduction_factor {factor!r} is out of range; it must be a number above 1")


@dataclass(frozen=True)
class Member:
    """A trial of a bracket: its `scores` at the rungs that it has reached, higher is better, -inf where it diverged.

    `over` says that it was told or given up: nobody waits for it, and what it had reached before still counts.
    """

    scores: tuple[float, ...] = ()
    over: bool = False


@dataclass(frozen=True)
class Train:
    """The trial is to be trained up to the end of epoch `until`, or to its own end where that is None."""

    until: int | None


@dataclass(frozen=True)
class Wait:
    """The trial has reached a rung that others of its bracket have not."""


@dataclass(frozen=True)
class Prune:
    """The trial was not among the best at the rung `epoch`."""

    epoch: int


Verdict = Train | Wait | Prune


def verdicts(members: Mapping[int, Member], halving: Halving) -> dict[int, Verdict]:
    """What is to become of each trial of a bracket that is not over, by number.

    A trial that was over before a rung is left out of the ranking there. One that was later keeps its place in it: a
    decision once taken stays what it was, as long as nobody joins the bracket after it.
    """
    found: dict[int, Verdict] = {}
    alive = dict(members)
    for place, epoch in enumerate(halving.rungs):
        reached = {number: member.scores[place] for number, member in alive.items() if len(member.scores) > place}
        missing = [number for number, member in alive.items() if number not in reached and not member.over]
        if missing:
            found |= dict.fromkeys(missing, Train(epoch)) | dict.fromkeys(reached, Wait())
            break
        kept = best(reached, halving.reduction_factor)
        found |= {number: Prune(epoch) for number in reached if number not in kept}
        alive = {number: alive[number] for number in reached if number in kept}
    else:
        found |= dict.fromkeys(alive, Train(None))
    return {number: verdict for number, verdict in found.items() if not members[number].over}


def best(scores: Mapping[int, float], reduction_factor: float) -> frozenset[int]:
    """The numbers of the best 1 / `reduction_factor` of `scores`, rounded up; of equal ones the lower number."""
    ordered = sorted(scores, key=lambda number: (-scores[number], number))
    return frozenset(ordered[: math.ceil(len(ordered) / reduction_factor)])
