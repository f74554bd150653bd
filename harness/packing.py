"""Which trials are trained together: cohorts of neighbouring widths, as cheap in all as was measured, and even enough
that no worker is long alone.

Without measured costs a fixed rule holds: widths up to 4, 5 to 8, 9 to 16, ... together, 48 students at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heapreplace
from itertools import groupby
from typing import Any

from harness.costs import TOGETHER, Costs, How
from harness.spec import StudentSpec

COHORT_STUDENTS = 48
"""Of a cohort at most, where nothing was measured."""
MOST_HALVES = 8
GAIN = 0.97
"""Of two ways the one with more jobs must shorten the whole to this share or less."""


@dataclass(frozen=True)
class Work:
    """A trial to be trained: `kind` is what its students must share with those of a cohort but the width; `steps` how
    long it is trained, in any unit: epochs, for a step of a batch twice as large costs about twice as much."""

    number: int
    width: int
    students: int
    kind: str
    steps: float = 1.0


def work_of(number: int, specs: Sequence[StudentSpec], stage: str = "search", until: int | None = None) -> Work:
    """A trial's students, to be trained to the end of epoch `until`, their own last one where None."""
    lead = specs[0]
    return Work(number, lead.width, len(specs), repr((stage, lead.cohort_key)), until or lead.epochs)


@dataclass(frozen=True)
class Job:
    """Trials for one worker, in order, and how it is to train them."""

    numbers: tuple[int, ...]
    how: How = TOGETHER


def pack(trials: Sequence[Work], costs: Costs | None, workers: int) -> list[Job]:
    """Every trial in one job; the longest jobs come first, so that the last to finish are short."""
    if costs is None:
        return _by_rule(trials)
    jobs = [members for bucket in _buckets(trials, costs) for members in _cut(bucket, costs)]
    even = _halved(jobs, costs, workers)
    return [Job(_numbers(members), costs.plan(_widest(members), _students(members))[1]) for members in even]


def _by_rule(trials: Sequence[Work]) -> list[Job]:
    def group(trial: Work) -> tuple[int, str]:
        return -max(2, (trial.width - 1).bit_length()), trial.kind

    found = []
    for members in _grouped(trials, group):
        size = max(1, COHORT_STUDENTS // members[0].students)
        found += [Job(_numbers(members[start : start + size])) for start in range(0, len(members), size)]
    return found


def _grouped(trials: Sequence[Work], group: Callable[[Work], Any]) -> list[list[Work]]:
    """The trials of each group, the widest first."""
    ordered = sorted(trials, key=lambda trial: (group(trial), -trial.width, trial.number))
    return [list(members) for _, members in groupby(ordered, key=group)]


def _buckets(trials: Sequence[Work], costs: Costs) -> list[list[Work]]:
    """Trials of one kind and of neighbouring widths, so that the steps of all cost the least: by dynamic programming
    over the widths."""
    found: list[list[Work]] = []
    for members in _grouped(trials, lambda trial: trial.kind):
        by_width = [list(own) for _, own in groupby(members[::-1], key=lambda trial: trial.width)]
        if not costs.pads:
            found += by_width
            continue
        best: list[tuple[float, list[list[Work]]]] = [(0.0, [])]
        for stop in range(1, len(by_width) + 1):
            ways = []
            for start in range(stop):
                bucket = [trial for own in by_width[start:stop] for trial in own]
                price = costs.plan(_widest(bucket), _students(bucket))[0]
                ways.append((best[start][0] + price, [*best[start][1], bucket]))
            best.append(min(ways, key=lambda way: way[0]))
        found += best[-1][1]
    return found


def _cut(bucket: list[Work], costs: Costs) -> list[list[Work]]:
    """A bucket in jobs of the size of its cohorts, widths together."""
    size = costs.plan(_widest(bucket), _students(bucket))[1].students
    jobs: list[list[Work]] = []
    for trial in sorted(bucket, key=lambda trial: (-trial.width, trial.number)):
        if not jobs or _students(jobs[-1]) + trial.students > size:
            jobs.append([])
        jobs[-1].append(trial)
    return jobs


def _halved(jobs: list[list[Work]], costs: Costs, workers: int) -> list[list[Work]]:
    """The longest jobs in halves, again and again, where the workers are done sooner for it; the longest first."""
    timed = sorted(((_seconds(members, costs), members) for members in jobs), key=_first, reverse=True)
    ways = [timed]
    while len(ways) <= MOST_HALVES and timed and len(timed[0][1]) > 1:
        longest = timed[0][1]
        middle = (len(longest) + 1) // 2
        halves = [(_seconds(members, costs), members) for members in (longest[:middle], longest[middle:])]
        timed = sorted([*timed[1:], *halves], key=_first, reverse=True)
        ways.append(timed)
    soonest = min(_makespan(way, workers) for way in ways)
    return next([members for _, members in way] for way in ways if GAIN * _makespan(way, workers) <= soonest)


def _first(timed: tuple[float, list[Work]]) -> float:
    return timed[0]


def _makespan(timed: Sequence[tuple[float, list[Work]]], workers: int) -> float:
    """When the last worker is done, each taking the next of these jobs."""
    ends = [0.0] * workers
    for seconds, _ in timed:
        heapreplace(ends, ends[0] + seconds)
    return max(ends)


def _seconds(members: Sequence[Work], costs: Costs) -> float:
    return members[0].steps * costs.plan(_widest(members), _students(members))[0]


def _widest(members: Sequence[Work]) -> int:
    return max(trial.width for trial in members)


def _students(members: Sequence[Work]) -> int:
    return sum(trial.students for trial in members)


def _numbers(members: Sequence[Work]) -> tuple[int, ...]:
    return tuple(trial.number for trial in members)
