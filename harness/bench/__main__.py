"""`python -m harness.bench`: how fast the harness is, beside a plain hand-written loop, in one run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from harness import cli, files, tasks
from harness.bench import driving, figure, front, measure, shares, steps, tables
from harness.bench.measure import AT_LEAST, Question
from harness.bench.plain import check
from harness.executors.worker import pick_device
from harness.machine import cores
from harness.options import DEVICES
from harness.study_files import load_study

PARTS = tuple(tables.TABLES)
FIGURES = (".png", ".pdf", ".svg")
app = cli.program()


@cli.command(app)
def main(
    parts: Annotated[
        list[str] | None, typer.Argument(help=f"What to measure: {', '.join(PARTS)}, or all.", show_default="sweep")
    ] = None,
    study: Annotated[
        str, typer.Option(help="A study's name in [b]studies/[/], or a path to a .py file that defines STUDY.")
    ] = cli.DEFAULT_STUDY,
    trials: Annotated[
        int | None, typer.Option(help="Search trials of the harness; its controls come on top. Default: the study's.")
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(help=f"sweep: how long the loop may run in a repeat; it trains at least {AT_LEAST} trials."),
    ] = 30.0,
    minutes: Annotated[float, typer.Option(help="front: how long the loop runs.")] = 10.0,
    counts: Annotated[str, typer.Option(help="driver: trials at which it is measured, parted by commas.")] = ",".join(
        map(str, driving.COUNTS)
    ),
    repeats: Annotated[int, typer.Option(help="sweep, steps: how often both sides are measured, in turns.")] = 3,
    device: Annotated[str, typer.Option(help=f"Where both sides train, but for driver: {', '.join(DEVICES)}.")] = "cpu",
    jobs: Annotated[int | None, typer.Option(help="Worker processes of the harness. Default: one a core.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write all that was measured to this file.")] = None,
    figure_file: Annotated[
        Path | None, typer.Option("--figure", help="Draw what was measured to this file: .png, .pdf or .svg.")
    ] = None,
) -> None:
    """Measure the harness beside the loop that a careful user would write by hand for the same study.

    [b]sweep[/]: trials an hour of both, the same study, networks, epochs, seeds, controls and stores

    [b]steps[/]: what a training step costs a student: three tasks, widths and sizes of cohorts, and its products alone

    [b]shares[/]: where the time of a sweep goes

    [b]driver[/]: what a trial costs besides its training, up to 5,000 trials

    [b]front[/]: how soon the harness has a front as good as the loop's after ten minutes

    The loop ([b]harness/bench/plain.py[/]) trains one student at a time in one process, with a DataLoader, and runs the
    teacher on every batch. Start-up, imports and the teacher's training count on neither side. Everything happens in a
    temporary folder. Timings are worth only as much as the machine is idle.

    [b]Examples[/]

      python -m harness.bench
          the default study, about five minutes

      python -m harness.bench --study digits --json b.json
          the smoke test's, with every figure in a file

      python -m harness.bench steps driver --figure b.png
          two other parts, and a figure of them

      python -m harness.bench --jobs 1
          one process against one process

      python -m harness.bench steps --device cuda
          the loop and cohorts of up to 256, all on a GPU
    """
    wanted = _parts(parts or ["sweep"])
    name, file, found = load_study(study, cli.STUDIES)
    numbers = {
        "--trials": found.trials if trials is None else trials,
        "--repeats": repeats,
        "--jobs": cores() if jobs is None else jobs,
    }
    for option, number in numbers.items():
        if number < 1:
            raise ValueError(f"{option} {number} is out of range; it must be at least 1")
    for option, length, unit in (("--seconds", seconds, "seconds"), ("--minutes", minutes, "minutes")):
        if not 0 < length < float("inf"):
            raise ValueError(f"{option} {length:g} is out of range; it must be above 0 {unit}")
    sizes = _counts(counts)
    for option, path in (("--json", json), ("--figure", figure_file)):
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise ValueError(f"{option} {str(path)!r} is no place for a file; its folder must exist")
    if figure_file is not None and figure_file.suffix not in FIGURES:
        raise ValueError(f"--figure {str(figure_file)!r} ends in none of {', '.join(FIGURES)}")
    if device not in DEVICES:
        raise ValueError(f"unknown device {device!r}; devices are {', '.join(DEVICES)}")
    device = pick_device(device)
    task = tasks.load(found.task if isinstance(found.task, str) else str(file))
    question = Question(name, file, found, task, numbers["--trials"], numbers["--jobs"], seconds, device)
    if needs_teacher(wanted):
        check(found, task)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, Console(stderr=True).status("") as status:

        def tell(what: str) -> None:
            status.update(f"measuring: {what}")

        data = run(question, wanted, repeats, minutes, sizes, Path(folder), tell)
    if json is not None:
        files.write_json(json, data)
    if figure_file is not None:
        figure.save(data, figure_file)
    tables.show(Console(), data)


def run(
    question: Question,
    parts: Sequence[str],
    repeats: int,
    minutes: float,
    counts: Sequence[int],
    folder: Path,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """What each of the parts gives, by name, and what was measured on."""
    data: dict[str, Any] = {"machine": measure.machine(question.device)}
    if needs_teacher(parts):
        tell("nothing yet; the teacher is trained")
        cache = measure.make_teacher(question, folder)
    for part in parts:
        if part == "sweep":
            data[part] = measure.as_json(question, measure.compare(question, repeats, folder, cache, tell))
        elif part == "steps":
            rows = steps.measure(repeats, folder / "steps", tell, device=question.device)
            data[part] = [row.as_json() for row in rows]
        elif part == "shares":
            data[part] = shares.measure(question, folder, cache, tell)
        elif part == "driver":
            own = folder / "driver"
            own.mkdir()
            said = driving.measure(str(question.file), own, counts, lambda done: tell(f"driver, {done} trials"))
            data[part] = [asdict(driven) for driven in said]
        else:
            data[part] = front.measure(question, minutes, 1, folder, cache, tell)
    return data


def needs_teacher(parts: Sequence[str]) -> bool:
    """Whether one of them runs a sweep."""
    return bool({"sweep", "shares", "front"} & set(parts))


def _parts(said: Sequence[str]) -> list[str]:
    """The parts in order."""
    for part in said:
        if part not in (*PARTS, "all"):
            raise ValueError(f"unknown part {part!r}; parts are {', '.join(PARTS)}, all")
    return [part for part in PARTS if part in said or "all" in said]


def _counts(said: str) -> list[int]:
    try:
        found = [int(count) for count in said.split(",")]
    except ValueError:
        raise ValueError(f"--counts {said!r} must be whole numbers parted by commas, as 10,100") from None
    for count in found:
        driving.check(count)
    return found


if __name__ == "__main__":
    cli.run(app)
