"""Which students share a cohort, and how many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from harness import tasks
from harness.cohort.stack import alone
from harness.losses.gradients import made_of
from harness.spec import StudentSpec


def cohorts(specs: Sequence[StudentSpec]) -> list[list[StudentSpec]]:
    """The distinct students, those of one cohort together: seed by seed, in a seed those of one form, of one feature.

    Students of several widths share a cohort where their family pads.
    """

    def key(spec: StudentSpec) -> str:
        task = tasks.load(spec.task)
        family = task.families[spec.family]
        lone = spec if alone(family, spec.width, task) else None
        return repr((spec.cohort_key, 0 if family.pads else spec.width, lone))

    def order(spec: StudentSpec) -> tuple[str, int, str, str, bool, str, int, str]:
        kind = made_of(spec), spec.form, spec.teacher == "online", spec.feature, spec.width
        return key(spec), spec.seed, *kind, repr(replace(spec, seed=0))

    return [list(found) for _, found in groupby(sorted(set(specs), key=order), key=key)]


def split(members: Sequence[StudentSpec], most: int) -> list[list[StudentSpec]]:
    """A cohort's students in cohorts of `most` at most, 0 for any number: as even as may be, and those that differ in
    nothing but their seed together where that is possible."""
    if not 0 < most < len(members):
        return [list(members)]
    twins: dict[StudentSpec, list[StudentSpec]] = {}
    for spec in members:
        twins.setdefault(replace(spec, seed=0), []).append(spec)
    if most < max(map(len, twins.values())):
        units = [[spec] for own in twins.values() for spec in own]
    else:
        units = list(twins.values())
    room = max(1, most // max(map(len, units)))
    count = -(-len(units) // room)
    even = [units[len(units) * part // count : len(units) * (part + 1) // count] for part in range(count)]
    return [own for part in even for own in cohorts([spec for unit in part for spec in unit])]
