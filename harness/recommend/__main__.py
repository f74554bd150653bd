"""`python -m harness.recommend`: which student to take within a budget, and the student as files."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from harness import cli
from harness.urls import DATABASES, SERVERS, check_url, redact, sqlite_url, storage_of

if TYPE_CHECKING:
    from harness.analysis.load import StudyData
    from harness.recommend.choose import Recommendation

SEEDS = 10
"""Fresh seeds to go on with where nothing says how many."""
app = cli.program()


@cli.command(app)
def main(
    study: Annotated[str, typer.Argument(help="A study's name, or the path of its .py file.")] = cli.DEFAULT_STUDY,
    max_params: Annotated[float | None, typer.Option(help="At most so many parameters.")] = None,
    max_macs: Annotated[float | None, typer.Option(help="At most so many multiply-accumulates an example.")] = None,
    max_latency_ms: Annotated[
        float | None, typer.Option(help="At most so many milliseconds for one example: the measured median.")
    ] = None,
    max_kib: Annotated[float | None, typer.Option(help="At most so many KiB of weights on disk.")] = None,
    min_accuracy: Annotated[
        float | None, typer.Option(help="The smallest student of at least this val accuracy, a fraction such as 0.95.")
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(help="A folder for the student: weights, ONNX, torch.export program, model card; checked."),
    ] = None,
    register: Annotated[
        str | None, typer.Option(help="With --export: its name in MLflow's model registry, beside the study's runs.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of words.")] = False,
    out: Annotated[Path, typer.Option(help="The folder that holds the results of all studies.")] = cli.OUT,
    storage: Annotated[
        str | None, typer.Option(envvar="OPTUNA_STORAGE", help="The sweep's Optuna storage; needed by --register.")
    ] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(envvar="MLFLOW_TRACKING_URI", help="The sweep's MLflow; needed by --register.")
    ] = None,
) -> None:
    """Say which of a study's confirmed students to take within your limits, how sure that is, and what else would do.

    The choice is by validation accuracy on fresh seeds; the test split only judges it: P(best) and the expected regret
    are over resamples of seeds and test examples, among the confirmed configurations that fit. It says so where plain
    training is as good, and how many seeds would settle what is open. Nothing is trained.

    [b]Examples[/]

      python -m harness.recommend --max-params 1500

      python -m harness.recommend digits --min-accuracy 0.96 --export student/

      python -m harness.recommend my_study.py --max-latency-ms 0.2 --export student/ --register mine
    """
    # These take a second to import: a Ctrl-C meanwhile is for `cli.run` to catch.
    from harness.analysis.judged import judge_confirmed
    from harness.analysis.load import load
    from harness.recommend.choose import LIMITS, recommend
    from harness.recommend.evidence import as_data, evidence
    from harness.recommend.words import next_step, say
    from harness.report.unconfirmed import unconfirmed

    given = {"num_params": max_params, "macs": max_macs, "latency_ms": max_latency_ms, "size_kib": max_kib}
    limits = {name: value for name, value in given.items() if value is not None}
    for name, value in limits.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{LIMITS[name][0]} {value:g} is out of range; it must be above 0")
    if min_accuracy is not None and not 0 < min_accuracy <= 1:
        raise ValueError(f"--min-accuracy {min_accuracy:g} is out of range; it must be a fraction above 0, up to 1")
    if register is not None and export is None:
        raise ValueError("--register needs --export DIR: what is registered is what was exported and checked")
    if register is not None:
        check_url("--storage", storage, DATABASES)
        check_url("--tracking-uri", tracking_uri, (*DATABASES, *SERVERS))
    folder = cli.results_of(study, out)
    if export is not None:
        _may_export(export, onnx=register is not None)
    data = load(folder)
    judged = judge_confirmed(folder, data)
    found = recommend(folder, data, judged, limits, min_accuracy)
    uri = tracking_uri or sqlite_url(out / "mlflow.db")
    run = None if register is None else _run_of(folder, int(found.chosen["number"]), register, uri, storage)
    console = Console(quiet=as_json)
    say(console, found, data)
    if found.runner_up is not None:
        said = next_step(found, judged.looks, _command(found, data, out, (storage, tracking_uri)))
        console.print(f"next       {said}", soft_wrap=True, highlight=False, markup=False)
    result = as_data(found) | {"not_confirmed": unconfirmed(data).strip()}
    if export is not None:
        from harness.recommend.hand_out import hand_out

        done = hand_out(folder, int(found.chosen["number"]), export, evidence(found, data))
        result["export"] = {"folder": str(done.folder), "notes": list(done.notes)}
        console.print(
            f"exported to {done.folder}: {done.size_bytes:,} bytes of weights; start with README.md", markup=False
        )
        for note in done.notes:
            console.print(note, soft_wrap=True, markup=False)  # it may name an extra, `[export]`
        if register is not None and run is not None:
            result["registered"] = _register(found, folder, export, register, (uri, run))
            console.print(f"registered as {result['registered']}", highlight=False)
    if as_json:
        print(json.dumps(result, indent=2, default=str))  # noqa: T201 - what was asked for


def _may_export(folder: Path, *, onnx: bool) -> None:
    """Raise `ValueError` in one line for a folder that may not be replaced, and where ONNX is needed and not there."""
    from harness import export  # torch takes seconds to import

    export.check_folder(folder)
    if onnx and (why := export.missing()):
        raise ValueError(f"--register needs ONNX: {why}")


def _run_of(folder: Path, number: int, name: str, uri: str, storage: str | None) -> str:
    """The id of a trial's run, under which it can be registered by this name. Nothing is written.

    Raises `ValueError` in one line where the name cannot be, and where there is no such store or no such run.
    """
    from harness.kept import read_study
    from harness.registry import check
    from harness.verify.runs import reading

    check(uri, name)
    kept = read_study(storage_of(folder, storage), folder.name)
    with reading(uri, folder.name, kept.study_id) as runs:
        heads = runs.heads()
    if not heads:
        raise ValueError(f"{redact(uri)} has no run of this study; give the sweep's own --tracking-uri")
    own = [head for head in heads if head.key == f"{folder.name}/{number}" and not head.deleted]
    if not own:
        raise ValueError(
            f"MLflow has no run of trial {number}; python -m harness.verify {folder.name} --repair logs it"
        )
    return own[0].id


def _register(found: Recommendation, folder: Path, exported: Path, name: str, where: tuple[str, str]) -> str:
    """Put the export into the registry, under a run of a store: `where` is both; gives the model's URI."""
    from harness.recommend.hand_out import trained
    from harness.registry import register

    number = int(found.chosen["number"])
    _, _, record = trained(folder, number)
    tags = {"study": folder.name, "trial": str(number), "width": str(found.chosen["width"]),
            "test_accuracy_mean_of_seeds": f"{found.chosen['test_accuracy']:.4f}",
            "test_accuracy_of_this_seed": f"{record.metrics['test_accuracy']:.4f}",
            "seed": str(record.spec.seed)}  # fmt: skip
    return register(exported, *where, name, tags).uri


def _command(found: Recommendation, data: StudyData, out: Path, where: tuple[str | None, str | None]) -> str:
    """The command that goes on with this very study, with more fresh seeds; a store that is not where it is by default
    and was not named has a gap to fill in."""
    from harness.options import again, stores

    seeds = None if found.apart is None else found.apart.next_seeds
    said = again(data.manifest, out / data.name, seeds or SEEDS)
    said += [] if out == cli.OUT else ["--out", str(out)]
    storage, tracking = where
    said += stores(storage, tracking)
    said += ["--storage", "URL"] if storage is None and not (out / data.name / "study.db").exists() else []
    said += ["--tracking-uri", "URL"] if tracking is None and not (out / "mlflow.db").exists() else []
    return shlex.join(said)


if __name__ == "__main__":
    cli.run(app)
