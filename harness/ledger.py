"""The trial directories: what survives a kill at any moment.

    <out>/<study>/study.json            what the study is, its task, its teacher
    <out>/<study>/trials/<number>/      spec.json, lock, attempts.json, result.json or failed.json; with pruning also
                                        rung-<epoch>.safetensors (until told), rung-<epoch>.json; in the confirm
                                        stage confirmed.safetensors; until published
                                        also begun.json, student-<place>.safetensors, student-<place>.json

A file is written whole or not at all, and sealed with a digest (see `harness.files`). One that is damaged, or another
trial's, is put aside, and its trial is trained again. `result.json` is the worker's last word on a trial; the driver's
own last word is Optuna's `tell`. A new fact about a trial is a new key of one of these files. `attempts.json` and
`begun.json` are those of `harness.tries`.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.files import (
    put_aside,
    read_sealed,
    write_sealed,
)
from harness.records import Record, check_record, record_from_json
from harness.spec import StudentSpec, spec_from_json
from harness.values import Range, digest, is_number, to_json

STAGES = ("search", "confirm")
COUNT = Range(0, 2**53, whole=True)


@dataclass(frozen=True)
class TrialSpec:
    """A trial as the driver hands it to a worker: `specs` are its students, one a seed.

    `arm` is the kind of its arm, as `"search"` or `"control"` (see `harness.arms`), `stage` `"search"` or `"confirm"`:
    in the latter the test split is read, and `source` is the trial whose configuration it has. `started_ms` is the
    trial's first moment, in milliseconds since 1970, kept over reruns so that tracking repeats itself exactly. `round`
    is that of asking, from 1, in a study that prunes; else 0.
    """

    study: str
    number: int
    arm: str
    params: Mapping[str, Any]
    specs: tuple[StudentSpec, ...]
    config_hash: str
    started_ms: int
    round: int = 0
    stage: str = "search"
    source: int = -1

    @property
    def key(self) -> str:
        """`<study>/<number>`: the trial's name in every store."""
        return f"{self.study}/{self.number}"

    @cached_property
    def hash(self) -> str:
        """Stands for what is to be trained; a result for another hash is not this trial's."""
        return digest([to_json(spec) for spec in self.specs])


def trial_dir(study_dir: Path, number: int) -> Path:
    """The directory of one trial."""
    return study_dir / "trials" / str(number)


def numbers(study_dir: Path) -> list[int]:
    """The trials that have a directory, in order."""
    names = (path.name for path in (study_dir / "trials").glob("*"))
    return sorted(int(name) for name in names if re.fullmatch(r"0|[1-9][0-9]{0,14}", name))


def write_spec(study_dir: Path, trial: TrialSpec) -> Path:
    """Write a trial's `spec.json` and return its directory. A directory of another trial is put aside.

    A damaged `spec.json` is put aside alone: what else is in the directory says itself whose it is.
    """
    folder = trial_dir(study_dir, trial.number)
    for place in (folder.parent, folder):
        if os.path.lexists(place) and not place.is_dir():
            put_aside(place, f"{place} is no folder")
    known = find_spec(folder)
    if known is not None and dataclasses.replace(known, started_ms=trial.started_ms) == trial:
        return folder
    if known is not None:
        put_aside(folder, f"{folder} holds another trial than number {trial.number} of this study")
    data = {f.name: getattr(trial, f.name) for f in dataclasses.fields(trial)}
    specs = [to_json(spec) for spec in trial.specs]
    write_sealed(folder / "spec.json", {**data, "params": dict(trial.params), "specs": specs})
    return folder


def read_spec(folder: Path) -> TrialSpec | None:
    """The trial of a directory, or None where it has no `spec.json`. Raises `ValueError` for a file that is not one."""
    path = folder / "spec.json"
    data = read_sealed(path)
    if data is None:
        return None
    try:
        found = TrialSpec(**{**data, "specs": tuple(spec_from_json(spec) for spec in data["specs"])})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a trial: {error!r}") from None
    if problem := _trial_problem(found):
        raise ValueError(f"{path} is not a trial: {problem}")
    return found


def _trial_problem(trial: TrialSpec) -> str | None:
    words = {name: getattr(trial, name) for name in ("study", "arm", "config_hash", "stage")}
    counts = {name: getattr(trial, name) for name in ("number", "started_ms")}
    if odd := [name for name, value in words.items() if not isinstance(value, str)]:
        return f"its {odd[0]} is no text"
    if odd := [name for name, value in counts.items() if not COUNT.admits(value)]:
        return f"its {odd[0]} must be {COUNT}"
    for name in ("round", "source"):
        if isinstance(getattr(trial, name), bool) or not isinstance(getattr(trial, name), int):
            return f"its {name} is no whole number"
    if trial.stage not in STAGES:
        return f"its stage is {trial.stage!r}"
    if not isinstance(trial.params, Mapping):
        return "its params are no mapping"
    if odd := [name for name, value in trial.params.items() if not (isinstance(value, str | bool) or is_number(value))]:
        return f"its parameter {odd[0]!r} is neither text nor a number"
    return None if trial.specs else "it has no students"


def find_spec(folder: Path) -> TrialSpec | None:
    """As `read_spec`, but a file that is not one is put aside."""
    try:
        return read_spec(folder)
    except ValueError as error:
        put_aside(folder / "spec.json", str(error))
        return None


def read_manifest(study_dir: Path) -> dict[str, Any]:
    """What `study.json` says; empty where there is none. A damaged one is put aside: a sweep writes it anew."""
    try:
        found = read_sealed(study_dir / "study.json") or {}
        if not (Range(0).admits(found.get("seconds", 0)) and COUNT.admits(found.get("started_ms", 0))):
            raise ValueError(f"{study_dir / 'study.json'} has no time")
        kept = {"searches": int | None, "at_least": bool | None, "ended": bool | None}  # what the next one takes over
        for name, kind in kept.items():
            if not isinstance(found.get(name), kind):
                raise ValueError(f"{study_dir / 'study.json'} has the {name} {found[name]!r:.80}")
        return found
    except ValueError as error:
        put_aside(study_dir / "study.json", str(error))
        return {}


def publish(folder: Path, trial: TrialSpec, records: Sequence[Record], **facts: Any) -> None:
    """Write a trial's `result.json`: its students' records, and facts of where and when they were trained.

    Raises `ValueError` for records that would not be believed when they are read.
    """
    for record in records:
        check_record(record)
    data = {"hash": trial.hash, "records": [to_json(record) for record in records], **facts}
    write_sealed(folder / "result.json", data)


def publish_failure(folder: Path, trial: TrialSpec, reason: str) -> None:
    """Write a trial's `failed.json`: it was given up, and why."""
    write_sealed(folder / "failed.json", {"hash": trial.hash, "reason": reason})


def publish_rung(folder: Path, trial: TrialSpec, epoch: int, records: Sequence[Record]) -> None:
    """Write a trial's `rung-<epoch>.json`: its students' records as they stand after so many epochs, as `publish`."""
    for record in records:
        check_record(record)
    data = {"hash": trial.hash, "records": [to_json(record) for record in records]}
    write_sealed(folder / f"rung-{epoch}.json", data)


def result_of(folder: Path, trial: TrialSpec) -> tuple[tuple[Record, ...], Mapping[str, Any]] | None:
    """The records of a trial, and the file's other facts, or None where there are none. Changes nothing.

    Raises `ValueError` for a file that is damaged, or not its own.
    """
    found = _records_in(folder / "result.json", trial, trial.specs)
    if found is not None and not Range(1, whole=True).admits(found[1].get("pruned_at", 1)):
        raise ValueError(f"{folder / 'result.json'}: pruned_at is no epoch")
    return found


def read_result(folder: Path, trial: TrialSpec) -> tuple[Record, ...] | None:
    """The records of a trial, or None where there are none. A file that is damaged, or not its own, is put aside."""
    try:
        found = result_of(folder, trial)
    except ValueError as error:
        put_aside(folder / "result.json", str(error))
        return None
    return found[0] if found else None


def pruned_at(folder: Path, trial: TrialSpec) -> int:
    """After how many epochs a trial was pruned, as its result says; 0 where it was not."""
    found = result_of(folder, trial)
    return int(found[1].get("pruned_at", 0)) if found else 0


def read_rung(folder: Path, trial: TrialSpec, epoch: int) -> tuple[Record, ...] | None:
    """The records of a trial at a rung, as `read_result`."""
    return _read_records(folder / f"rung-{epoch}.json", trial, trial.specs)


def checkpoint(folder: Path, epoch: int) -> Path:
    """Where the checkpoint of a trial's students after so many epochs is kept."""
    return folder / f"rung-{epoch}.safetensors"


def checkpoints(folder: Path) -> dict[int, Path]:
    """A trial's checkpoints by epoch, the latest first."""
    paths = [path for path in folder.glob("rung-*.safetensors") if re.fullmatch(r"[0-9]{1,9}", path.stem[5:])]
    found = {int(path.stem[5:]): path for path in paths}
    return dict(sorted(found.items(), reverse=True))


def drop_checkpoints(folder: Path, before: float = math.inf) -> None:
    """Delete a trial's checkpoints of fewer than `before` epochs: nothing is trained from them any more."""
    for epoch, path in checkpoints(folder).items():
        if epoch < before:
            path.unlink(missing_ok=True)


def student_checkpoint(folder: Path, place: int) -> Path:
    """Where is kept how far a student is, the one at `place` among the trial's."""
    return folder / f"student-{place}.safetensors"


def confirmed_file(folder: Path) -> Path:
    """Where a trial of the confirm stage keeps its students' networks, and what they answered on the test split."""
    return folder / "confirmed.safetensors"


def publish_student(folder: Path, trial: TrialSpec, place: int, record: Record) -> None:
    """Write `student-<place>.json`: a student that is done, while others of its trial are not."""
    write_sealed(folder / f"student-{place}.json", {"hash": trial.hash, "records": [to_json(record)]})


def read_student(folder: Path, trial: TrialSpec, place: int) -> Record | None:
    """The record of a trial's student, or None, as `read_result`."""
    records = _read_records(folder / f"student-{place}.json", trial, [trial.specs[place]])
    return records[0] if records else None


def drop_students(folder: Path) -> None:
    """Delete what is kept of single students: their trial has published more."""
    for kind in ("json", "safetensors"):
        for path in folder.glob(f"student-*.{kind}"):
            path.unlink(missing_ok=True)


def _read_records(path: Path, trial: TrialSpec, specs: Sequence[StudentSpec]) -> tuple[Record, ...] | None:
    try:
        found = _records_in(path, trial, specs)
    except ValueError as error:
        put_aside(path, str(error))
        return None
    return found[0] if found else None


def _records_in(
    path: Path, trial: TrialSpec, specs: Sequence[StudentSpec]
) -> tuple[tuple[Record, ...], Mapping[str, Any]] | None:
    data = read_sealed(path)
    if data is None:
        return None
    try:
        records = tuple(record_from_json(record) for record in data["records"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no records: {error!r}") from None
    if data.get("hash") != trial.hash or [record.spec for record in records] != list(specs):
        raise ValueError(f"{path} is another trial's")
    return records, data


def failure_of(folder: Path, trial: TrialSpec) -> str | None:
    """Why a trial was given up, or None where it was not. Changes nothing. Raises `ValueError` as `result_of`."""
    data = read_sealed(folder / "failed.json")
    if data is None:
        return None
    if data.get("hash") != trial.hash or not isinstance(data.get("reason"), str):
        raise ValueError(f"{folder / 'failed.json'} is damaged, or another trial's")
    return str(data["reason"]).encode(errors="replace").decode()


def read_failure(folder: Path, trial: TrialSpec) -> str | None:
    """Why a trial was given up, or None. A file that is damaged, or not its own, is put aside."""
    try:
        return failure_of(folder, trial)
    except ValueError as error:
        put_aside(folder / "failed.json", str(error))
        return None
