"""The trial directories: what survives a kill at any moment.

    <out>/<study>/study.json            what the study is, its task, its teacher
    <out>/<study>/trials/<number>/      spec.json, lock, attempts.json, result.json or failed.json; with pruning also
                                        rung-<epoch>.safetensors (until told), rung-<epoch>.json; until published
                                        also begun.json, student-<place>.safetensors, student-<place>.json

A file is written whole or not at all. `result.json` is the worker's last word on a trial; the driver's own last word is
Optuna's `tell`. A new fact about a trial is a new key of one of these files.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from harness.spec import Record, StudentSpec, digest, record_from_json, spec_from_json, to_json


@dataclass(frozen=True)
class TrialSpec:
    """A trial as the driver hands it to a worker: `specs` are its students, one a seed.

    `arm` is `"search"` or `"control"`; `started_ms` is the trial's first moment, in milliseconds since 1970, kept over
    reruns so that tracking repeats itself exactly. `round` is that of asking, from 1, in a study that prunes; else 0.
    """

    study: str
    number: int
    arm: str
    params: Mapping[str, Any]
    specs: tuple[StudentSpec, ...]
    config_hash: str
    started_ms: int
    round: int = 0

    @property
    def key(self) -> str:
        """`<study>/<number>`: the trial's name in every store."""
        return f"{self.study}/{self.number}"

    @property
    def hash(self) -> str:
        """Stands for what is to be trained; a result for another hash is not this trial's."""
        return digest([to_json(spec) for spec in self.specs])


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def write_json(path: Path, data: Any) -> None:
    """Write JSON so that a reader, or a restart after a power cut, sees the old file or the new one, never a part."""
    with _whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        json.dump(_finite(data), file, allow_nan=False, separators=(",", ":"))
        file.flush()
        os.fsync(file.fileno())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, as `write_json` does."""
    with _whole(path) as temporary, temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A place to write to, which takes the place of `path` once it is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    yield temporary
    temporary.replace(path)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read_json(path: Path) -> Any:
    """The JSON data in a file, or None where there is no file. Raises `ValueError` for a file that is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None


def trial_dir(study_dir: Path, number: int) -> Path:
    """The directory of one trial."""
    return study_dir / "trials" / str(number)


def numbers(study_dir: Path) -> list[int]:
    """The trials that have a directory, in order."""
    return sorted(int(p.name) for p in (study_dir / "trials").glob("*") if p.name.isdecimal())


def write_spec(study_dir: Path, trial: TrialSpec) -> Path:
    """Write a trial's `spec.json` and return its directory. A directory of another trial is put aside."""
    folder = trial_dir(study_dir, trial.number)
    try:
        known = read_spec(folder)
    except ValueError:
        known = None
    if known is not None and known.hash == trial.hash and known.key == trial.key:
        return folder
    if folder.exists():
        put_aside(folder)
    specs = [to_json(spec) for spec in trial.specs]
    write_json(folder / "spec.json", {**trial.__dict__, "params": dict(trial.params), "specs": specs})
    return folder


def read_spec(folder: Path) -> TrialSpec | None:
    """The trial of a directory, or None where it has no `spec.json`. Raises `ValueError` for a file that is not one."""
    data = read_json(folder / "spec.json")
    if data is None:
        return None
    try:
        return TrialSpec(**{**data, "specs": tuple(spec_from_json(spec) for spec in data["specs"])})
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'spec.json'} is not a trial: {error!r}") from None


def publish(folder: Path, trial: TrialSpec, records: Sequence[Record], **facts: Any) -> None:
    """Write a trial's `result.json`: its students' records, and facts of where and when they were trained."""
    data = {"hash": trial.hash, "records": [to_json(record) for record in records], **facts}
    write_json(folder / "result.json", data)


def publish_failure(folder: Path, trial: TrialSpec, reason: str) -> None:
    """Write a trial's `failed.json`: it was given up, and why."""
    write_json(folder / "failed.json", {"hash": trial.hash, "reason": reason})


def publish_rung(folder: Path, trial: TrialSpec, epoch: int, records: Sequence[Record]) -> None:
    """Write a trial's `rung-<epoch>.json`: its students' records as they stand after so many epochs."""
    data = {"hash": trial.hash, "records": [to_json(record) for record in records]}
    write_json(folder / f"rung-{epoch}.json", data)


def read_result(folder: Path, trial: TrialSpec) -> tuple[Record, ...] | None:
    """The records of a trial, or None where there are none. A file that is not whole, or not its own, is put aside."""
    return _read_records(folder / "result.json", trial, trial.specs)


def read_rung(folder: Path, trial: TrialSpec, epoch: int) -> tuple[Record, ...] | None:
    """The records of a trial at a rung, as `read_result`."""
    return _read_records(folder / f"rung-{epoch}.json", trial, trial.specs)


def checkpoint(folder: Path, epoch: int) -> Path:
    """Where the checkpoint of a trial's students after so many epochs is kept."""
    return folder / f"rung-{epoch}.safetensors"


def checkpoints(folder: Path) -> dict[int, Path]:
    """A trial's checkpoints by epoch, the latest first."""
    found = {int(path.stem[5:]): path for path in folder.glob("rung-*.safetensors") if path.stem[5:].isdecimal()}
    return dict(sorted(found.items(), reverse=True))


def drop_checkpoints(folder: Path, before: float = math.inf) -> None:
    """Delete a trial's checkpoints of fewer than `before` epochs: nothing is trained from them any more."""
    for epoch, path in checkpoints(folder).items():
        if epoch < before:
            path.unlink(missing_ok=True)


def student_checkpoint(folder: Path, place: int) -> Path:
    """Where is kept how far a student is, the one at `place` among the trial's."""
    return folder / f"student-{place}.safetensors"


def publish_student(folder: Path, trial: TrialSpec, place: int, record: Record) -> None:
    """Write `student-<place>.json`: a student that is done, while others of its trial are not."""
    write_json(folder / f"student-{place}.json", {"hash": trial.hash, "records": [to_json(record)]})


def read_student(folder: Path, trial: TrialSpec, place: int) -> Record | None:
    """The record of a trial's student, or None, as `read_result`."""
    records = _read_records(folder / f"student-{place}.json", trial, [trial.specs[place]])
    return records[0] if records else None


def drop_students(folder: Path) -> None:
    """Delete what is kept of single students: their trial has published more."""
    for path in folder.glob("student-*"):
        path.unlink(missing_ok=True)


def _read_records(path: Path, trial: TrialSpec, specs: Sequence[StudentSpec]) -> tuple[Record, ...] | None:
    try:
        return _look_at_records(path, trial, specs)
    except ValueError:
        put_aside(path)
        return None


def look_at_result(folder: Path, trial: TrialSpec) -> tuple[Record, ...] | None:
    """As `read_result`, for a reader: nothing is put aside. Raises `ValueError` that says what is wrong with a file."""
    return _look_at_records(folder / "result.json", trial, trial.specs)


def _look_at_records(path: Path, trial: TrialSpec, specs: Sequence[StudentSpec]) -> tuple[Record, ...] | None:
    data = read_json(path)
    if data is None:
        return None
    try:
        known, records = data["hash"], tuple(record_from_json(record) for record in data["records"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no records: {error!r}") from None
    if known != trial.hash or [record.spec for record in records] != list(specs):
        raise ValueError(f"{path} holds the records of other students")
    return records


def read_failure(folder: Path, trial: TrialSpec) -> str | None:
    """Why a trial was given up, or None. A file that is not whole is none."""
    try:
        data = read_json(folder / "failed.json")
        return str(data["reason"]) if data is not None and data["hash"] == trial.hash else None
    except (ValueError, KeyError, TypeError):
        return None


def count_attempt(folder: Path) -> int:
    """Note one more attempt at a trial and return how many there were with it."""
    count = attempts(folder) + 1
    write_json(folder / "attempts.json", count)
    return count


def attempts(folder: Path) -> int:
    """How often a trial was handed to a worker."""
    try:
        return int(read_json(folder / "attempts.json") or 0)
    except (ValueError, TypeError):
        return 0


def begin(folder: Path) -> None:
    """Note that a trial's training begins."""
    count = begun(folder) + 1
    (folder / "begun.json").write_text(str(count), encoding="utf-8")  # not worth waiting for the disk


def begun(folder: Path) -> int:
    """How often a trial's training was begun since it last got anywhere."""
    try:
        return int(read_json(folder / "begun.json") or 0)
    except (ValueError, TypeError):
        return 0


def got_somewhere(folder: Path) -> None:
    """Note that a trial's training has not been for nothing: what was begun counts no more."""
    (folder / "begun.json").unlink(missing_ok=True)


def lock(path: Path) -> FileLock | None:
    """The lock at `path`, taken, or None where another process holds it. It goes when its holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(path)
    try:
        held.acquire(timeout=0)
    except Timeout:
        return None
    return held


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock at `path`. Makes nothing: where there is no file, nobody does."""
    if os.name != "posix":  # there the lock cannot be looked at but by taking it
        held = lock(path) if path.exists() else None
        if held is not None:
            held.release()
        return path.exists() and held is None
    import fcntl

    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def put_aside(path: Path) -> Path:
    """Rename what is in the way, and give its new place; nothing is deleted."""
    return path.rename(path.with_name(f"{path.name}.aside-{time.time_ns()}"))


def _finite(data: Any) -> Any:
    """JSON has no infinities: a number that is not finite becomes null."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return data
