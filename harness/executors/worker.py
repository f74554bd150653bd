"""A worker process: reads jobs as JSON lines from standard input, writes events as JSON lines to standard output.

Its input ends when the driver dies, even by kill -9; it then finishes the cohort at hand, publishes, and leaves. It
touches neither Optuna nor MLflow.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import platform
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from harness import cohort, targets, tasks, teacher
from harness.cohort import State, calibrate, checkpoint
from harness.costs import How
from harness.executors.signals import leave_stopping_to_the_driver
from harness.executors.trials import Keep, Training, run_cohort
from harness.files import cannot_be_written, keep_private
from harness.models import init, num_params
from harness.problems import one_line, words_of
from harness.records import Record
from harness.seeds import generator
from harness.spec import StudentSpec, spec_from_json
from harness.study_files import place_in_study
from harness.tasks import LockedSplit, Split, Task
from harness.urls import redact

Report = Callable[[str, Mapping[str, Any]], None]
log = logging.getLogger("harness.executors.worker")  # as a program it is called `__main__`


def describe(specs: list[Mapping[str, Any]], device: str) -> dict[str, Any]:
    """Check the students and tell about their task, without reading the test split; `alone` says why students of a
    width are trained one at a time, where they are, and `warned` what was logged meanwhile. Raises `ValueError`."""
    probes = [spec_from_json(spec) for spec in specs]
    with _warnings() as warned:
        for probe in probes:
            cohort.check(probe)
        task = tasks.load(probes[0].task)
        teacher.try_out(task)
        _warn_of_absent_classes(task)
    splits: dict[str, Split | LockedSplit] = {"train": task.train, "val": task.val, "test": task.test}
    family = task.families[probes[0].family]
    widths = sorted({probe.width for probe in probes})
    return {
        "name": task.name,
        "source": task.source,
        "num_classes": task.num_classes,
        "classes": list(task.train.classes),
        "characters_a_label": task.characters_a_label,
        "vocabulary": list(task.vocabulary),
        "input_shape": list(task.input_shape),
        "sizes": {name: len(split) for name, split in splits.items()},
        "unlabelled": int((task.train.labels == tasks.UNLABELLED).sum()),
        "hashes": {name: split.hash for name, split in splits.items()},
        "num_params": {str(w): num_params(family, w, task.input_shape, task.num_classes) for w in widths},
        "alone": {str(w): why for w in widths if (why := cohort.alone(family, w, task))},
        "teacher_key": teacher.key(task),
        "warned": warned,
        "device": device,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """The warnings that the harness logs meanwhile, each once: the driver shows them, for nobody reads a worker's."""
    said: dict[str, None] = {}

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.setdefault(one_line(redact(record.getMessage())))

    found: list[str] = []
    keeper, logger = Keeper(logging.WARNING), logging.getLogger("harness")
    logger.addHandler(keeper)
    try:
        yield found
    finally:
        logger.removeHandler(keeper)
        found.extend(said)


def _warn_of_absent_classes(task: Task) -> None:
    """Warn of classes that train has and val does not, where an example has one label."""
    if task.train.labels.ndim > 1:
        return
    own, chosen_by = (set(split.labels.tolist()) for split in (task.train, task.val))
    if absent := sorted(own - chosen_by - {tasks.UNLABELLED}):
        log.warning(
            "val has no example of %d of the %d classes of train (the first: %d): it chooses without them",
            len(absent), len(own - {tasks.UNLABELLED}), absent[0],
        )  # fmt: skip


def pick_device(wanted: str) -> str:
    """`auto` is cuda where there is one. Raises `ValueError` for a device that is not here."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' is not available here; use --device cpu or auto")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def work(kind: str, body: Mapping[str, Any], cache: Path, wanted_device: str, report: Report) -> dict[str, Any]:
    """Do one job and return its result."""
    device = pick_device(wanted_device)
    if kind == "describe":
        return describe(body["specs"], device)
    if kind == "calibrate":
        specs = [spec_from_json(spec) for spec in body["specs"]]

        def measured(done: int, total: int) -> None:
            report("progress", {"done": done, "total": total})

        return calibrate(specs, Path(body["folder"]), device, body["workers"], measured).to_json()
    if kind == "teacher":

        def progress(epoch: int, epochs: int, val_accuracy: float) -> None:
            report("progress", {"done": epoch, "total": epochs, "val_accuracy": val_accuracy})

        return targets.prepare([spec_from_json(spec) for spec in body["specs"]], cache, device, progress)
    if kind == "latency":
        return _latencies([spec_from_json(spec) for spec in body["specs"]], body["seconds"], device)
    assert kind == "cohort"
    folders, how = [Path(folder) for folder in body["folders"]], How(**body["how"])
    torch.set_num_threads(how.threads)
    stage = body.get("stage", "search")
    run_cohort(folders, body.get("until"), _training(cache, device, how, body.get("limit"), report, stage), stage)
    return {}


def _latencies(specs: Sequence[StudentSpec], seconds: float, device: str) -> dict[str, Any]:
    """How long students of each width take for an answer; that depends on their shapes, so their weights are new."""
    from harness.export import Student  # torch's exporters take seconds to import
    from harness.latency import measure, to_json

    students = {}
    for spec in specs:
        task = tasks.load(spec.task)
        family = task.families[spec.family]
        first = init(family, spec.width, task.input_shape, task.num_classes, generator(spec.seed, "init"))
        params = {name: values.float() for name, values in first.items()}
        students[str(spec.width)] = Student(task, family, spec.width, params)
    found = measure(students, device, seconds=seconds)
    return {"widths": {width: to_json(latency) for width, latency in found.items()}}


@contextmanager
def _limited(seconds: float | None) -> Iterator[None]:
    """Leave the process, its stack in the log, when this takes longer: whatever hangs, and whether or not there is
    still a driver that could end it."""
    if seconds is None:
        yield
        return
    faulthandler.dump_traceback_later(seconds, exit=True, file=2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _training(cache: Path, device: str, how: How, limit: float | None, report: Report, stage: str) -> Training[State]:
    def train(
        specs: Sequence[StudentSpec], until: int | None, states: Mapping[StudentSpec, State], keep: Keep[State]
    ) -> Iterator[tuple[list[Record], list[State]]]:
        """Train students, and first whatever of their teachers is not in the cache: the probes of a study with very
        many combinations of choices do not meet them all."""
        report("begun", {})  # what came before was waiting for an orphan, which has a limit of its own
        with _limited(limit):
            targets.prepare(specs, cache, device, lambda *_: None)
            yield from cohort.train_each(
                specs, cache=cache, device=device, until=until, states=states, how=how, keep=keep, stage=stage
            )

    return Training(train, checkpoint.save, checkpoint.load)


def outcome(
    kind: str, body: Mapping[str, Any], cache: Path, wanted_device: str, report: Report
) -> tuple[str, dict[str, Any]]:
    """Do one job, whatever it raises: the event that ends it, `done`, `refused` or `failed`, and its data."""
    torch.set_num_threads(1)  # small operations are slower with more, and far slower when cores are shared
    try:
        return "done", work(kind, body, cache, wanted_device, report)
    except ValueError as error:
        _log_traceback()
        return "refused", {"reason": one_line(redact(str(error))) + place_in_study(error)}
    except OSError as error:
        _log_traceback()
        return "failed", said_of(error)
    except (Exception, SystemExit) as error:  # a study's own form may raise anything: it costs a trial, not the worker
        _log_traceback()
        return "failed", {"reason": _with_kind(error)}


def share_gpu(index: int, share: float) -> str:
    """The device of a GPU of which this process takes no more memory than its share, from 0 to 1.

    Raises `ValueError` where torch does not see that GPU.
    """
    if index >= torch.cuda.device_count():
        raise ValueError(f"torch sees {torch.cuda.device_count()} GPUs on {platform.node()}, so none to use as {index}")
    torch.cuda.set_per_process_memory_fraction(share, index)
    return f"cuda:{index}"


def _write_to(log: Path) -> None:
    """Send what is printed to the log file from now on, but where its disk is full: the driver hears of that when
    results are written."""
    with suppress(OSError):
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)


@contextmanager
def printing_to(log: Path) -> Iterator[None]:
    """Send what is printed to the log file, in a process whose output is somebody else's otherwise."""
    before = [os.dup(1), os.dup(2)]
    try:
        _write_to(log)
        yield
    finally:
        for own, kept in zip((1, 2), before, strict=True):
            (sys.stdout if own == 1 else sys.stderr).flush()
            os.dup2(kept, own)
            os.close(kept)


def _log_traceback() -> None:
    with suppress(OSError):  # the log's disk may be full
        traceback.print_exc()


def said_of(error: OSError) -> dict[str, Any]:
    """What is said of a job that failed by a file: why, `No space left on device: /its/path` where it cannot be written
    to, and whether it is that."""
    full = cannot_be_written(error)
    return {"reason": f"{error.strerror}: {error.filename}" if full else _with_kind(error), "full": full}


def _with_kind(error: BaseException) -> str:
    """`NameError: name 'x' is not defined (mine.py:31)`: where a study's own code raised it, with the place."""
    return one_line(redact(words_of(error))) + place_in_study(error)


def _die_first() -> None:
    """Where memory runs out, let the system kill a worker, which costs a cohort, and not the driver."""
    with suppress(OSError):  # only Linux has it
        Path("/proc/self/oom_score_adj").write_text("500")


def main() -> None:
    """Serve jobs until the input ends. Arguments: the teachers' folder, the log file, the device."""
    cache, log, device = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    keep_private()  # a worker may have no driver's umask
    _die_first()
    leave_stopping_to_the_driver()
    with suppress(BrokenPipeError), os.fdopen(os.dup(1), "w") as channel:  # which it would raise again on closing
        channel.write(json.dumps({"id": 0, "event": "ready", "data": {}}) + "\n")
        channel.flush()
        with Path(os.devnull).open("w") as nowhere:  # the driver listens to standard error no more
            os.dup2(nowhere.fileno(), 2)
        os.dup2(2, 1)  # whatever a study's own code prints goes to the log
        for line in sys.stdin:
            job = json.loads(line)
            if job["kind"] != "describe":
                _write_to(log)

            def report(event: str, data: Mapping[str, Any], job_id: int = job["id"]) -> None:
                channel.write(json.dumps({"id": job_id, "event": event, "data": data}) + "\n")
                channel.flush()

            try:
                report(*outcome(job["kind"], job["body"], cache, device, report))
            except BrokenPipeError:
                return  # the driver is gone; the results are on disk


if __name__ == "__main__":
    main()
