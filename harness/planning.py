"""`--plan`: what was measured of a study's steps, and the cohorts that follow from it, as tables.

The cohorts are those of the study's first round: its trials are asked for as a sweep does, in a storage that is thrown
away.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Group
from rich.table import Table

from harness.arms import quota, students, targets
from harness.costs import Costs, Timing
from harness.packing import Job, Work, pack, work_of
from harness.sampler import Sampler
from harness.space import Study
from harness.urls import sqlite_url

MICRO = 1e6


def page(name: str, study: Study, task: str, trials: int, costs: Costs, workers: int) -> Group:
    """The costs of a step by width, and the first round of a sweep of so many `trials` as it is handed out to so many
    `workers`."""
    return Group(_measured(name, study, costs), "", _handed_out(_first_round(study, task, trials), costs, workers))


def _measured(name: str, study: Study, costs: Costs) -> Table:
    sizes = sorted({timing.students for timing in costs.timings})
    title = f"{name}: microseconds that a step takes each student of a cohort of ..."
    table = Table(title=title, caption=f"measured on {costs.where}", caption_justify="left")
    for heading in ("widths", "stand at", "networks", "threads", *map(str, sizes), "fit into memory"):
        table.add_column(heading, justify="right")
    for stands_at, ways in sorted(costs.ways.items()):
        own = _list([width for width in study.widths if costs.stands_at(width) == stands_at])
        most = f"{costs.most(stands_at):,}" if costs.memory else "unknown"
        for way in ways:
            table.add_row(own, str(stands_at), *_way(way[0]), *_each(way, sizes), most)
    return table


def _way(timing: Timing) -> tuple[str, str]:
    return "one by one" if timing.looped else "together", str(timing.threads)


def _each(way: Sequence[Timing], sizes: Sequence[int]) -> list[str]:
    found = {timing.students: f"{MICRO * timing.each:,.0f}" for timing in way}
    return [found.get(size, "-") for size in sizes]


def _first_round(study: Study, task: str, trials: int) -> list[Work]:
    wanted = targets(study, trials)
    with TemporaryDirectory() as folder:
        sampler = Sampler(sqlite_url(Path(folder) / "plan.db"), "plan", study, "", shared=False)
        arms = [arm for arm in wanted for _ in range(min(wanted[arm], quota(study, wanted, arm)))]
        asked = [sampler.ask(arm) for arm in arms]
    until = study.pruning.rungs[0] if study.pruning else None
    return [work_of(one.number, students(study, one.arm, one.params, task), until=until) for one in asked]


def _handed_out(work: Sequence[Work], costs: Costs, workers: int) -> Table:
    jobs = pack(work, costs, workers)
    seconds = [_seconds(job, work, costs) for job in jobs]
    kinds = list(dict.fromkeys(one.kind for one in work))
    title = f"the first round, {len(work)} trials, for {workers} {'worker' if workers == 1 else 'workers'}"
    table = Table(title=title, caption_justify="left")
    for heading in ("job", "widths", "trials", "students", "trained together", "networks", "share of the time"):
        table.add_column(heading, justify="right")
    for number, (job, own) in enumerate(zip(jobs, seconds, strict=True), 1):
        members = [work[index] for index in job.numbers]
        count = sum(member.students for member in members)
        widths = _list(sorted({member.width for member in members}))
        together, way = str(min(job.how.students, count)), "one by one" if job.how.looped else "together"
        table.add_row(str(number), widths, str(len(members)), str(count), together, way, f"{own / sum(seconds):.0%}")
    alone = sum(member.steps * member.students * costs.seconds(member.width, 1) for member in work)
    table.caption = f"as jobs {alone / sum(seconds):.1f} times faster than one student at a time"
    if len(kinds) > 1:
        table.caption += f"; of {len(kinds)} kinds, of which no two are trained together"
    return table


def _seconds(job: Job, work: Sequence[Work], costs: Costs) -> float:
    members = [work[number] for number in job.numbers]
    widest, count = max(one.width for one in members), sum(one.students for one in members)
    return members[0].steps * costs.plan(widest, count)[0]


def _list(widths: list[int]) -> str:
    return ", ".join(map(str, widths))
