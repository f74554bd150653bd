"""`python -m harness.sweep`: run a study to its end, or on from where it was.

study file -> space -> sampler.ask -> trial -> student specs -> executor -> cohort.train -> records on disk
-> tracking (MLflow) -> sampler.tell -> analysis -> figures -> report
"""

from __future__ import annotations

import logging
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from harness import __version__, cli, ledger, planning
from harness.costs import Costs, costs_from_json
from harness.driver import Driver, Plan, targets
from harness.driver import Progress as Done
from harness.executors import Executor
from harness.executors.local import Local
from harness.sampler import Sampler
from harness.space import Study, load_study
from harness.spec import StudentSpec, digest, to_json
from harness.stopping import Stop
from harness.tracking import Sweep, Tracker, reachable
from harness.urls import redact, sqlite_file

if TYPE_CHECKING:
    from harness.report import Report

ENDS = {"complete": "FINISHED", "timeout": "KILLED", "failures": "FAILED"}
"""The parent run's status by why a sweep stopped."""
DEVICES = ("auto", "cpu", "cuda")
MOST_NOTE = 8000
"""What MLflow takes of a description."""
app = typer.Typer(add_completion=False, rich_markup_mode="rich")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Where and how a study is run."""

    name: str
    file: Path
    study: Study
    trials: int
    jobs: int
    out: Path
    storage: str | None
    tracking_uri: str | None
    deterministic: bool
    device: str
    timeout: float | None
    quiet: bool
    plan: bool = False
    limit: float = 60.0

    @property
    def study_dir(self) -> Path:
        return self.out / self.name

    @property
    def plans_dir(self) -> Path:
        """Where what was measured of this machine is kept."""
        return self.out / "plans"

    @property
    def storage_url(self) -> str:
        return self.storage or f"sqlite:///{(self.study_dir / 'study.db').absolute()}"

    @property
    def tracking(self) -> str:
        return self.tracking_uri or f"sqlite:///{(self.out / 'mlflow.db').absolute()}"

    @property
    def task(self) -> str:
        """How a worker finds the task: its name, or the study's file."""
        return self.study.task if isinstance(self.study.task, str) else str(self.file)


@app.command()
def main(
    study: Annotated[
        str, typer.Argument(help="A study's name in [b]studies/[/], or a path to a .py file that defines STUDY.")
    ] = cli.DEFAULT_STUDY,
    trials: Annotated[
        int | None,
        typer.Option(help="Search trials to reach, not to add: the same command again resumes, or does nothing."),
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Worker processes. Default: one a core.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the study: of its sampler and of its students.")] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Stop after this many seconds; the same command goes on.")
    ] = None,
    limit: Annotated[
        float, typer.Option(help="Minutes after which a cohort counts as hung: it is stopped, and tried in halves.")
    ] = 60.0,
    out: Annotated[Path, typer.Option(help="Folder of results; a study has a folder of its own in it.")] = cli.OUT,
    storage: Annotated[
        str | None,
        typer.Option(envvar="OPTUNA_STORAGE", help="Optuna storage URL. Default: sqlite in the study's folder."),
    ] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(envvar="MLFLOW_TRACKING_URI", help="MLflow server or database. Default: sqlite in --out."),
    ] = None,
    deterministic: Annotated[
        bool,
        typer.Option("--deterministic", help="Ask, wait and tell in rounds: the same trials whatever finishes first."),
    ] = False,
    device: Annotated[str, typer.Option(help="Where students are trained: auto, cpu or cuda.")] = "auto",
    plan: Annotated[
        bool, typer.Option("--plan", help="Measure what a step costs, print the cohorts that follow, and end.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but warnings and errors.")] = False,
) -> int:
    """Search alpha, temperature, loss form and student width for the best students of every size.

    Trains the task's teacher once, then many students at a time, beside plain-training controls at every width. Every
    trial is an MLflow run; tables and figures are written at the end. Kill it at any moment: the same command goes on.

    [b]Examples[/]

      python -m harness.sweep                         the default study, on 5,000 real digits

      python -m harness.sweep digits --trials 16      a smoke test in seconds

      python -m harness.sweep my_study.py --jobs 8    your own question

      python -m harness.sweep --plan                  how many students are trained together here, and why
    """
    name, file, found = load_study(study, cli.STUDIES)
    if seed is not None:
        found = replace(found, seed=seed)
    options = Options(
        name,
        file,
        found,
        trials if trials is not None else found.trials,
        jobs if jobs is not None else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2,
        out,
        storage,
        tracking_uri,
        deterministic,
        device,
        timeout,
        quiet,
        plan,
        limit,
    )
    check(options)
    return sweep(options)


def check(options: Options) -> None:
    """Raise `ValueError` for options that cannot be; makes nothing."""
    for name, value in (("--trials", options.trials), ("--jobs", options.jobs)):
        if value < 1:
            raise ValueError(f"{name} {value} is out of range; it must be at least 1")
    if options.timeout is not None and not options.timeout > 0:
        raise ValueError(f"--timeout {options.timeout:g} is out of range; it must be above 0 seconds")
    if not 0 < options.limit < math.inf:
        raise ValueError(f"--limit {options.limit:g} is out of range; it must be above 0 minutes")
    if options.device not in DEVICES:
        raise ValueError(f"unknown device {options.device!r}; devices are {', '.join(DEVICES)}")
    if options.plan and options.deterministic:
        raise ValueError("--plan has nothing to show with --deterministic: its cohorts follow from a fixed rule")
    cli.check_writable(options.study_dir)
    reachable(options.tracking)


def sweep(options: Options) -> int:
    """Run a study and give the exit code. Raises `ValueError`, with everything as it was, for what cannot be run."""
    console = Console(quiet=options.quiet)
    said = (options.plans_dir if options.plan else options.study_dir) / "worker.log"
    executor = Local(options.jobs, options.out / "teachers", options.device, said)

    def order() -> None:
        console.show_cursor()
        executor.close()

    stop = Stop(order)
    with stop.listening():
        try:
            return _hold(options, executor, console, stop)
        except KeyboardInterrupt:
            _say_how_to_go_on(options, console)
            return stop.code
        finally:
            executor.close()


def _hold(options: Options, executor: Executor, console: Console, stop: Stop) -> int:
    """Check the study by a worker, and run it as its only driver."""
    started = time.monotonic()
    probes = [to_json(spec) for spec in options.study.probes(options.task)]
    task = _result(executor, "describe", {"specs": probes})
    if options.plan:
        return _show_plan(options, executor, console)
    lock = ledger.lock(options.study_dir / "driver.lock")
    if lock is None:
        raise ValueError(f"another sweep is running study {options.name!r} in {options.out}; wait for it or stop it")
    with lock, _only_driver_of(options.storage):
        return _run(options, executor, task, console, started, stop)


def _run(
    options: Options, executor: Executor, task: Mapping[str, Any], console: Console, started: float, stop: Stop
) -> int:
    config_hash = digest([options.study.identity(), task["hashes"], task["teacher_key"]])
    manifest = _manifest(options, task, config_hash)
    shared = options.storage is not None
    sampler = Sampler(options.storage_url, options.name, options.study, config_hash, shared=shared)
    if not sampler.has_trials and ledger.numbers(options.study_dir):
        ledger.put_aside(options.study_dir / "trials", "the study is new to its storage, and there are trials on disk")
    with ThreadPoolExecutor(1) as pool:  # imports that take seconds, while the teacher is trained
        opening = pool.submit(Tracker, options.tracking, options.name, _artifacts(options))
        reporting = pool.submit(import_module, "harness.report")
        teacher, costs = _prepare(options, executor, console, opening)
        tracker = opening.result()
    manifest["teacher"] = teacher
    manifest["cohorts"] = f"as measured on {costs.where}" if costs else "by a fixed rule"
    _write_manifest(options, manifest, 0.0)
    logged = tracker.begin(_runs_in_common(options, sampler, manifest), _sweep_params(options, teacher))
    plan = Plan(
        options.name,
        options.study,
        options.task,
        config_hash,
        options.study_dir,
        targets(options.study, options.trials),
        options.deterministic,
        started + options.timeout if options.timeout else math.inf,
        costs,
        options.jobs,
        60 * options.limit,
    )
    with _bar(console, "students of every trial") as bar, stop.waits():
        driver = Driver(plan, sampler, tracker, executor, lambda done: _show(bar, done), lambda: bool(stop))
        why = driver.run(logged)
        _write_manifest(options, manifest, time.monotonic() - started)
        if why == "stopped":
            tracker.leave()
            raise KeyboardInterrupt
    report = reporting.result()
    written: Report = report.write(options.study_dir)
    tracker.end(options.study_dir, written.files, _note(options), _sweep_metrics(written, manifest, started), ENDS[why])
    _say_goodbye(options, console, report.front_table(written), why, tracker.page)
    return 1 if why == "failures" else 0


def _prepare(
    options: Options, executor: Executor, console: Console, opening: Future[Tracker]
) -> tuple[Mapping[str, Any], Costs | None]:
    """What `teacher.json` says, once the teacher is there, and meanwhile what a step costs; no costs where cohorts
    follow from a fixed rule. Fails early when tracking cannot be opened."""
    teacher: Mapping[str, Any] | None = None
    costs: Costs | None = None
    executor.submit("teacher", {"specs": [to_json(spec) for spec in _students(options)]})
    if not options.deterministic:
        executor.submit("calibrate", _calibration(options))
    with _bar(console, "teacher") as bar:
        task = bar.add_task("", total=None, note="")
        while executor.num_pending or teacher is None:
            if opening.done() and opening.exception():
                opening.result()
            for event in executor.poll(0.2):
                if event.job.kind == "calibrate":
                    if event.kind == "done":
                        costs = costs_from_json(event.data)
                    elif event.kind != "progress":
                        log.warning("steps could not be measured (%s); cohorts have a fixed size", event.data["reason"])
                elif event.kind == "progress":
                    note = f"val accuracy {event.data['val_accuracy']:.4f}"
                    bar.update(task, completed=event.data["done"], total=event.data["total"], note=note)
                elif event.kind == "done":
                    note = f"val accuracy {event.data['val_accuracy']:.4f}, {event.data['num_params']:,} parameters"
                    bar.update(task, completed=1, total=1, note=note)
                    teacher = event.data
                else:
                    raise ValueError(f"the teacher could not be trained: {event.data['reason']}")
    return teacher, costs


def _show_plan(options: Options, executor: Executor, console: Console) -> int:
    """Measure what a step costs, where it is not known, and print what follows from it."""
    with _bar(console, "widths measured") as bar:
        row = bar.add_task("", total=None, note="")

        def watch(said: Mapping[str, Any]) -> None:
            bar.update(row, completed=said["done"], total=said["total"])

        costs = costs_from_json(_result(executor, "calibrate", _calibration(options), watch))
    console.print(planning.page(options.name, options.study, options.trials, costs, options.jobs))
    return 0


def _calibration(options: Options) -> dict[str, Any]:
    """The body of a `calibrate` job."""
    specs = [to_json(spec) for spec in options.study.probes(options.task)]
    return {"specs": specs, "folder": str(options.plans_dir.absolute()), "workers": options.jobs}


def _students(options: Options) -> list[StudentSpec]:
    """A student for every kind of teacher that the study may need: every combination of choices, under every seed."""
    study = options.study
    return [replace(probe, seed=seed) for probe in study.probes(options.task) for seed in study.student_seeds()]


def _result(
    executor: Executor,
    kind: str,
    body: Mapping[str, Any],
    watch: Callable[[Mapping[str, Any]], None] = lambda _: None,
) -> Mapping[str, Any]:
    """The result of a job that runs before anything of the study is written; `watch` hears of its progress.

    Raises `ValueError` when it has none.
    """
    executor.submit(kind, body)
    while True:
        for event in executor.poll(1.0):
            if event.kind == "done":
                return event.data
            if event.kind != "progress":
                raise ValueError(str(event.data["reason"]))
            watch(event.data)


def _manifest(options: Options, task: Mapping[str, Any], config_hash: str) -> dict[str, Any]:
    """What `study.json` says: what a report needs beside the trials, and what a reader needs to repeat it."""
    study = options.study
    versions = {name: version(name) for name in ("optuna", "mlflow", "numpy", "pandas", "matplotlib")}
    known = ledger.read_manifest(options.study_dir)
    return {
        "study": options.name,
        "file": str(options.file),
        "config_hash": config_hash,
        "identity": study.identity(),
        "budget": {"trials": options.trials, "controls_per_width": study.num_controls(options.trials)},
        "objectives": list(study.objectives),
        "widths": list(study.widths),
        "seeds": list(study.student_seeds()),
        "task": {**{name: value for name, value in task.items() if name != "versions"}, "test_reads": 0},
        "teacher": None,
        "cohorts": None,
        "versions": {"harness": __version__, **task["versions"], **versions, "system": platform.platform()},
        "git_commit": _git_commit(options.file.parent),
        "started_ms": known.get("started_ms", ledger.now_ms()),
        "seconds": known.get("seconds", 0.0),
    }


def _write_manifest(options: Options, manifest: Mapping[str, Any], seconds: float) -> None:
    """Write `study.json`; `seconds` is what this session adds to the wall-clock of those before it."""
    ledger.write_sealed(options.study_dir / "study.json", {**manifest, "seconds": manifest["seconds"] + seconds})


def _runs_in_common(options: Options, sampler: Sampler, manifest: Mapping[str, Any]) -> Sweep:
    task = manifest["task"]
    data_hash = digest(task["hashes"])
    tags = {
        "task": str(task["name"]),
        "config_hash": str(manifest["config_hash"]),
        "data_hash": data_hash,
        "git_commit": str(manifest["git_commit"]),
        "seeds": ", ".join(map(str, manifest["seeds"])),
    } | {f"version.{name}": str(value) for name, value in manifest["versions"].items()}
    dataset = {"name": str(task["name"]), "digest": data_hash, "source": str(task["source"])}
    return Sweep(options.name, sampler.study_id, dataset, tags, str(options.file))


def _sweep_params(options: Options, teacher: Mapping[str, Any]) -> dict[str, Any]:
    """The parent run's parameters: only what cannot change when a sweep goes on."""
    study = options.study
    return {
        "family": study.family,
        "widths": ", ".join(map(str, study.widths)),
        "objectives": ", ".join(study.objectives),
        "sampler": study.sampler,
        "seed": study.seed,
        "seeds_per_trial": study.seeds,
        "teacher": f"{teacher['name']} width={teacher['width']}",
        "teacher_val_accuracy": teacher["val_accuracy"],
        "teacher_num_params": teacher["num_params"],
    }


def _note(options: Options) -> str:
    """The summary as the parent run's description: without its figures, which the UI has among the artifacts."""
    lines = (options.study_dir / "summary.md").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("!["))
    if len(text) <= MOST_NOTE:
        return text
    kept = text[: MOST_NOTE - 60].rpartition("\n\n")[0]
    return f"{kept}\n\nThe rest is in the artifact `summary.md`."


def _sweep_metrics(written: Report, manifest: Mapping[str, Any], started: float) -> dict[str, float]:
    """The parent run's figures."""
    trials, front = written.data.trials, written.front
    found = {"num_trials": float(len(trials)), "num_on_front": float(len(front))}
    found |= {f"num_{name}": float((trials["state"] == name).sum()) for name in ("complete", "failed")}
    if (trials["state"] == "pruned").any():
        found["num_pruned"] = float((trials["state"] == "pruned").sum())
    found["seconds"] = manifest["seconds"] + time.monotonic() - started
    return found | ({"best_val_accuracy": float(front["val_accuracy"].max())} if len(front) else {})


def _artifacts(options: Options) -> Path | None:
    """The embedded store's artifact folder; a tracking server keeps its own."""
    return None if options.tracking.startswith(("http://", "https://")) else (options.out / "mlartifacts").absolute()


def _git_commit(folder: Path) -> str:
    """The commit of the study's repository, with `+` when it has changes; `unknown` outside of one."""
    try:
        git = ["git", "-C", str(folder)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        status = [*git, "status", "--porcelain", "--untracked-files=no"]
        changes = subprocess.run(status, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+" if changes else "")


def _bar(console: Console, title: str) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn(f"[b]{title}[/]"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=console.quiet,
    )


def _show(bar: Progress, done: Done) -> None:
    task = bar.task_ids[0] if bar.task_ids else bar.add_task("", note="")
    failed = f", {done.failed} failed" if done.failed else ""
    failed = (f", {done.pruned} pruned" if done.pruned else "") + failed
    note = f"best val accuracy {done.best:.4f}{failed}" if done.best else "first trials are being trained"
    bar.update(task, completed=done.done, total=done.total, note=note)


def _command(options: Options) -> str:
    """The command that goes on with this sweep; stores beside the embedded ones are named without their passwords."""
    study = options.name if options.file.parent in [place.resolve() for place in cli.STUDIES] else str(options.file)
    said = [f"python -m harness.sweep {study} --trials {options.trials} --seed {options.study.seed}"]
    said += [] if options.out == cli.OUT else [f"--out {options.out}"]
    said += [f"--storage {redact(options.storage)}"] if options.storage else []
    said += [f"--tracking-uri {redact(options.tracking_uri)}"] if options.tracking_uri else []
    said += ["--deterministic"] if options.deterministic else []
    return " ".join([*said, "--plan"] if options.plan else said)


def _say_how_to_go_on(options: Options, console: Console) -> None:
    if not options.plan:
        console.print("\nstopped; nothing is lost. It goes on from here with")
    else:
        console.print("\nstopped; what was not yet measured is measured by the same command")
    console.print(f"[b]{_command(options)}[/]", soft_wrap=True)


def _say_goodbye(options: Options, console: Console, front: Table, why: str, page: str) -> None:
    """The front as a table, and what to do next."""
    console.print(front)
    if why == "timeout":
        console.print(f"the time was up before the budget. It goes on with\n[b]{_command(options)}[/]", soft_wrap=True)
    if why == "failures":
        console.print(f"[red]stopped: too many trials failed; see {options.study_dir / 'worker.log'}[/]")
    out = "" if options.out == cli.OUT else f" --out {options.out}"
    console.print(f"report   {options.study_dir / 'summary.md'}, figures beside it", highlight=False)
    console.print(f"again    python -m harness.report {options.name}{out}", highlight=False)
    uri = redact(options.tracking)
    if uri.startswith("http"):
        console.print(f"runs     {uri}{page}", highlight=False, soft_wrap=True)
    else:
        console.print(f"runs     mlflow ui --backend-store-uri {uri}", highlight=False, soft_wrap=True)
        console.print(f"         then http://127.0.0.1:5000{page}", highlight=False, soft_wrap=True)


@contextmanager
def _only_driver_of(storage: str | None) -> Iterator[None]:
    """Hold the lock of a SQLite storage that other folders may use too. Raises `ValueError` where it is taken."""
    file = sqlite_file(storage or "")
    if file is None or not file.parent.is_dir():
        yield  # the study's own folder is locked already; what cannot be opened is said so on opening
        return
    lock = ledger.lock(file.with_name(f".{file.name}.driver.lock"))
    if lock is None:
        raise ValueError(f"another sweep is using the storage {storage}; wait for it or stop it")
    with lock:
        yield


if __name__ == "__main__":
    cli.run(app)
