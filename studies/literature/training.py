"""Trains a claim's students seed by seed and keeps each seed's records at once, so that a killed run goes on.

    <out>/literature/<name>/tune-<seed>.json    records of the tuning seeds, val alone
    <out>/literature/<name>/seed-<seed>.json    records of the seeds that test the claim, test read
    <out>/literature/<name>/tasks/              each seed's task as a study file
    <out>/teachers/                             what teachers say, as for a sweep

A file is used again when its key fits: that of the students, the teachers' recipes and the data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from harness import cohort, targets, tasks, teacher
from harness.cohort.run import train_each
from harness.files import put_aside, read_sealed, write_sealed
from harness.records import Record, record_from_json
from harness.spec import StudentSpec
from harness.values import digest, to_json
from studies.literature.claim import FIRST_TUNING_SEED, Arm, Claim, Knobs, Results, chosen, task_file

Tell = Callable[[str, int], None]
"""Told what was trained last, and how many students that were."""
Wanted = list[tuple[Arm, Knobs, StudentSpec]]


def run(claim: Claim, out: Path, seeds: int, tell: Tell) -> Results:
    """Train what is not there yet and give all that the claim is judged by.

    The knobs are chosen on val under the tuning seeds; the test split is read under other seeds, at these knobs alone.
    """
    first = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + claim.tuning_seeds)
    tuning = pd.concat([_of_seed(claim, out, seed, claim.tuning(), "search", tell) for seed in first])
    best = chosen(claim, tuning)["knobs"]
    pairs = [(arm, best[arm.name]) for arm in claim.arms]
    tested = [
        _of_seed(claim, out, seed, pairs, "confirm", tell) for seed in range(claim.first_seed, claim.first_seed + seeds)
    ]
    return Results(claim, tuning.reset_index(drop=True), pd.concat(tested, ignore_index=True))


def num_students(claim: Claim, seeds: int) -> int:
    """How many students a run of the claim has in all, assistants not counted."""
    return claim.repeats * (len(claim.tuning()) * claim.tuning_seeds + len(claim.arms) * seeds)


def students(claim: Claim, seed: int, pairs: Sequence[tuple[Arm, Knobs]], folder: Path) -> Wanted:
    """The students of one seed, each checked. Raises `ValueError` for one that cannot be trained, or is there twice."""
    files = {word: str(task_file(claim, word, seed, folder)) for word in claim.tasks}
    found = [(arm, knobs, s) for arm, knobs in pairs for s in claim.students(arm, knobs, seed, files[arm.task])]
    count = Counter(spec for _, _, spec in found)
    for arm, _, spec in found:
        cohort.check(spec)
        if count[spec] > 1:
            raise ValueError(f"claim {claim.name!r}: the arm {arm.name!r} has a student that another arm has too")
    return found


def _of_seed(
    claim: Claim, out: Path, seed: int, pairs: Sequence[tuple[Arm, Knobs]], stage: str, tell: Tell
) -> pd.DataFrame:
    """One row a student of a seed, read from its file or trained."""
    folder = out / "literature" / claim.name
    path = folder / f"{'tune' if stage == 'search' else 'seed'}-{seed}.json"
    wanted = students(claim, seed, pairs, folder)
    key = _key(claim, wanted)
    records = _kept(path, key, len(wanted))
    if records is None:
        records = list(_trained(wanted, out / "teachers", stage, lambda n: tell(path.stem, n)))
        write_sealed(path, {"key": key, "records": [to_json(record) for record in records]})
    else:
        tell(path.stem, len(records))
    rows = [_row(arm, knobs, record) for (arm, knobs, _), record in zip(wanted, records, strict=True)]
    return pd.DataFrame(rows).assign(seed=seed)


def _trained(wanted: Wanted, cache: Path, stage: str, tell: Callable[[int], None]) -> Iterator[Record]:
    """The records, in order; the students of one task after those of another."""
    found: dict[StudentSpec, Record] = {}
    for task in dict.fromkeys(spec.task for _, _, spec in wanted):
        specs = [spec for _, _, spec in wanted if spec.task == task]
        targets.prepare(specs, cache, "cpu", lambda *_: None)
        for records, _ in train_each(specs, cache=cache, device="cpu", until=None, states={}, stage=stage):
            found |= {record.spec: record for record in records}
            tell(len(records))
    return iter([found[spec] for _, _, spec in wanted])


def _key(claim: Claim, wanted: Wanted) -> str:
    """Stands for the students, their teachers' recipes and the data; not for where the task's file lies."""
    files = {arm.task: spec.task for arm, _, spec in wanted}
    made = {word: [teacher.key(tasks.load(file)), tasks.load(file).test.hash] for word, file in files.items()}
    return digest([claim.name, made, [to_json(replace(spec, task=arm.task)) for arm, _, spec in wanted]])


def _kept(path: Path, key: str, count: int) -> list[Record] | None:
    """The records in a file; None where it is not there, or is put aside: damaged, or of a grid of before."""
    try:
        data = read_sealed(path)
        if data is None:
            return None
        if data.get("key") != key or len(data["records"]) != count:
            raise ValueError(f"{path} is of other students, teachers or data; they are trained anew")
        return [record_from_json(record) for record in data["records"]]
    except ValueError as error:
        put_aside(path, str(error))
        return None


def _row(arm: Arm, knobs: Knobs, record: Record) -> dict[str, Any]:
    facts = {"arm": arm.name, "knobs": knobs, "status": record.status}
    return {**facts, "num_params": record.num_params, **record.metrics}
