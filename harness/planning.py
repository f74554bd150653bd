"""`--plan`: what was measured of a study's steps, and the cohorts that follow from it, as tables."""

from __future__ import annotations

import math
from itertools import cycle, islice

from rich.console import Group
from rich.table import Table

from harness.costs import Costs
from harness.packing import Job, Work, pack
from harness.space import Study

MICRO = 1e6


def page(name: str, study: Study, trials: int, costs: Costs, workers: int) -> Group:
    """The costs of a step by width, and a round of trials as it would be handed out to so many `workers`."""
    return Group(_measured(name, study, costs), "", _handed_out(study, trials, costs, workers))


def _measured(name: str, study: Study, costs: Costs) -> Table:
    sizes = sorted({timing.students for timing in costs.timings})
    title = f"{name}: microseconds that a step takes each student of a cohort of ..."
    table = Table(title=title, caption=f"measured on {costs.where}", caption_justify="left")
    for heading in ("widths", "stand at", *map(str, sizes), "networks", "threads", "fit into memory"):
        table.add_column(heading, justify="right")
    for stands_at, curve in sorted(costs.curves.items()):
        own = [width for width in study.widths if costs.stands_at(width) == stands_at]
        each = {timing.students: f"{MICRO * timing.each:,.0f}" for timing in curve}
        way = "one by one" if curve[-1].looped else "together"
        most = f"{costs.most(stands_at):,}" if costs.memory else "unknown"
        threads = str(curve[-1].threads)
        table.add_row(_list(own), str(stands_at), *(each.get(size, "-") for size in sizes), way, threads, most)
    return table


def _handed_out(study: Study, trials: int, costs: Costs, workers: int) -> Table:
    work = _round(study, trials)
    jobs = pack(work, costs, workers)
    seconds = [_seconds(job, work, costs) for job in jobs]
    title = (
        f"a round of {len(work)} trials, widths drawn evenly, for {workers} {'worker' if workers == 1 else 'workers'}"
    )
    table = Table(title=title, caption_justify="left")
    for heading in ("job", "widths", "trials", "students", "trained together", "share of the time"):
        table.add_column(heading, justify="right")
    for number, (job, own) in enumerate(zip(jobs, seconds, strict=True), 1):
        members = [work[index] for index in job.numbers]
        students = sum(member.students for member in members)
        widths = _list(sorted({member.width for member in members}))
        together = str(min(job.how.students, students))
        table.add_row(str(number), widths, str(len(members)), str(students), together, f"{own / sum(seconds):.0%}")
    alone = sum(member.students * costs.seconds(member.width, 1) for member in work)
    table.caption = f"as jobs {alone / sum(seconds):.1f} times faster than one student at a time"
    return table


def _round(study: Study, trials: int) -> list[Work]:
    """As many search trials as the study asks for at a time, and its controls."""
    batch = min(study.batch, trials)
    controls = math.ceil(study.num_controls(trials) * batch / trials)
    widths = [*islice(cycle(study.widths), batch), *(width for width in study.widths for _ in range(controls))]
    return [Work(number, width, study.seeds, "") for number, width in enumerate(widths)]


def _seconds(job: Job, work: list[Work], costs: Costs) -> float:
    members = [work[number] for number in job.numbers]
    return costs.plan(max(one.width for one in members), sum(one.students for one in members))[0]


def _list(widths: list[int]) -> str:
    return ", ".join(map(str, widths))
