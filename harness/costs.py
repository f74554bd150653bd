"""What a training step costs on this machine, as `harness.cohort.calibrate` measured it: read by the driver.

A cost is the seconds that one step of a cohort takes, by the width that its networks stand at and by the number of its
students. Between the sizes that were measured it is a straight line; beyond the largest a student costs what it costs
there. More students never cost less: where a moment's disturbance measured that, the dearer size is believed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any

from harness.values import Range


@dataclass(frozen=True)
class How:
    """How a worker is to train a job: `students` of a cohort at most (0: any number), networks that do not stack
    mapped over the students or `looped` one after the other, and `threads` of the worker."""

    students: int = 0
    looped: bool = False
    threads: int = 1


TOGETHER = How()


@dataclass(frozen=True)
class Timing:
    """Seconds that one step of so many students took, their networks at one width."""

    width: int
    students: int
    seconds: float
    looped: bool = False
    threads: int = 1

    @property
    def each(self) -> float:
        """Seconds a student."""
        return self.seconds / self.students


@dataclass(frozen=True)
class Costs:
    """The timings of one task, family, batch size, dtype and device.

    Only where the family `pads` may a network stand inside a wider one. `bytes_each` is the memory that a student
    needs while it is trained, by width, and `memory` what a worker may fill: 0 where that is not known.
    """

    timings: tuple[Timing, ...]
    bytes_each: Mapping[int, int]
    pads: bool
    memory: int = 0
    where: str = ""

    def stands_at(self, width: int) -> int:
        """The width at which a student of this width stands: the least that was measured, if one is wide enough."""
        wide_enough = [known for known in self.bytes_each if known >= width]
        return min(wide_enough, default=max(self.bytes_each))

    def most(self, width: int) -> int:
        """How many students fit into the memory, or so many that they bound nothing."""
        return max(1, self.memory // self.bytes_each[self.stands_at(width)]) if self.memory else 10**9

    @cached_property
    def ways(self) -> dict[int, list[list[Timing]]]:
        """The timings at every width, those of each way of training together, by number of students."""
        found = {}
        for width in self.bytes_each:
            own = [timing for timing in self.timings if timing.width == width]
            kinds = sorted({(timing.looped, timing.threads) for timing in own})
            found[width] = [_rising([t for t in own if (t.looped, t.threads) == kind]) for kind in kinds]
        return found

    def seconds(self, width: int, students: int) -> float:
        """What a step of one cohort of so many students costs, trained as is fastest for so many."""
        return min(_seconds(curve, students) for curve in self.ways[self.stands_at(width)])

    def plan(self, width: int, students: int) -> tuple[float, How]:
        """The least seconds a step of so many students in any number of cohorts, and how they are trained then.

        Training them one at a time is one of the ways that are compared.
        """
        fewest = -(-students // self.most(width))
        sizes = sorted({-(-students // count) for count in range(fewest, students + 1)}, reverse=True)
        plans = []
        for curve in self.ways[self.stands_at(width)]:
            for size in sizes:
                whole, rest = divmod(students, size)
                price = whole * _seconds(curve, size) + (_seconds(curve, rest) if rest else 0.0)
                plans.append((price, How(size, curve[0].looped, curve[0].threads)))
        return min(plans, key=lambda plan: (plan[0], plan[1].students))

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {**asdict(self), "bytes_each": {str(width): count for width, count in self.bytes_each.items()}}


def _rising(curve: list[Timing]) -> list[Timing]:
    """The timings of a way by number of students, none less than one of fewer."""
    ordered = sorted(curve, key=lambda timing: timing.students)
    highest = accumulate((timing.seconds for timing in ordered), max)
    return [replace(timing, seconds=most) for timing, most in zip(ordered, highest, strict=True)]


def _seconds(curve: list[Timing], students: int) -> float:
    """What a step of so many students costs by the timings of a way."""
    if len(curve) == 1 or students > curve[-1].students:
        return curve[-1].each * students
    below = [timing for timing in curve[:-1] if timing.students <= students]
    first = below[-1] if below else curve[0]
    second = curve[curve.index(first) + 1]
    slope = (second.seconds - first.seconds) / (second.students - first.students)
    return first.seconds + slope * (students - first.students)


def costs_from_json(data: Any) -> Costs:
    """The costs that `Costs.to_json` gave. Raises `ValueError` for other data."""
    try:
        timings = tuple(Timing(**timing) for timing in data["timings"])
        bytes_each = {int(width): count for width, count in data["bytes_each"].items()}
        found = Costs(timings, bytes_each, data["pads"], data["memory"], data["where"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"not what a step costs: {error!r}") from None
    for problem in _problems(found):
        raise ValueError(f"not what a step costs: {problem}")
    return found


def _problems(costs: Costs) -> Iterator[str]:
    whole, ways = Range(1, whole=True), set()
    for timing in costs.timings:
        if not all(whole.admits(count) for count in (timing.width, timing.students, timing.threads)):
            yield f"{timing} is of no student, width or thread"
        if not Range(0, open_low=True).admits(timing.seconds) or not isinstance(timing.looped, bool):
            yield f"{timing} is of no time"
        ways.add((timing.width, timing.students, timing.looped, timing.threads))
    if not ways or len(ways) < len(costs.timings):
        yield "there are no timings, or two of the same"
    if set(costs.bytes_each) != {timing.width for timing in costs.timings}:
        yield "timings and widths do not fit together"
    if not all(whole.admits(count) for count in costs.bytes_each.values()) or not Range(0, whole=True).admits(
        costs.memory
    ):
        yield "memory is no number of bytes"
    if not isinstance(costs.pads, bool) or not isinstance(costs.where, str):
        yield "it does not say where it was measured"
