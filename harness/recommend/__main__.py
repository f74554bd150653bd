"""`python -m harness.recommend`: which student to take within a budget, and the student as files."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from rich.console import Console
from rich.markup import escape

from harness import cli
from harness.analysis.confirmed import BETTER, NOT_SHOWN, WORSE
from harness.analysis.judged import Confirmed, judge_confirmed
from harness.analysis.load import StudyData, load
from harness.recommend.choose import AS_GOOD, LIMITS, SURE, Recommendation, recommend
from harness.report.tables import configuration, fresh_seeds, number, points, resampled
from harness.report.unconfirmed import unconfirmed
from harness.space import TEACHER_KNOBS
from harness.spec import PLAIN
from harness.urls import redact

KNOBS = ("form", "alpha", "temperature", "lr", "weight_decay", "label_smoothing", "epochs", "batch_size")
SAID = (
    "number", "source", "role", "width", "form", "alpha", "temperature", "lr", "num_params", "macs", "latency_ms",
    "size_kib", "weight_decay", "label_smoothing", "num_seeds", "val_accuracy", "test_accuracy", "test_low",
    "test_high",
)  # fmt: skip
"""What the JSON says of a configuration."""
WITHOUT: Mapping[str, str] = {
    "ce": "it is plain training",
    "smoothing": "it is label smoothing, without a teacher",
    "self": "its teacher is a student of its own width",
}
"""What is said of a configuration that is a control."""
BESIDE: Mapping[str, str] = {
    NOT_SHOWN: "no difference is shown to the best distilled student of its width",
    BETTER: "the best distilled student of its width is shown to be better on test, though validation chose this",
    WORSE: "the best distilled student of its width is shown to be worse",
}
SEEDS = 10
"""Fresh seeds to go on with where nothing says how many."""
NONE_BESIDE = "no distilled student of its width was confirmed to compare it with"
app = typer.Typer(
    add_completion=False, rich_markup_mode="rich", context_settings={"help_option_names": ["-h", "--help"]}
)


@app.command()
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

      python -m harness.recommend my_study.py --max-latency-ms 0.2 --max-kib 16 --export student/ --register digits
    """
    given = {"num_params": max_params, "macs": max_macs, "latency_ms": max_latency_ms, "size_kib": max_kib}
    limits = {name: value for name, value in given.items() if value is not None}
    for name, value in limits.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{LIMITS[name][0]} {value:g} is out of range; it must be above 0")
    if min_accuracy is not None and not 0 < min_accuracy <= 1:
        raise ValueError(f"--min-accuracy {min_accuracy:g} is out of range; it must be a fraction above 0, up to 1")
    if register is not None and export is None:
        raise ValueError("--register needs --export DIR: what is registered is what was exported and checked")
    folder = cli.results_of(study, out)
    data = load(folder)
    judged = judge_confirmed(folder, data)
    found = recommend(folder, judged, limits, min_accuracy)
    uri = tracking_uri or f"sqlite:///{(out / 'mlflow.db').absolute()}"
    run = None if register is None else _run_of(folder, int(found.chosen["number"]), register, uri, storage)
    console = Console(quiet=as_json)
    say(console, found, data, min_accuracy)
    if found.runner_up is not None:
        said = _next(found, judged, _command(found, data, out, (storage, tracking_uri)))
        console.print(f"next       {said}", soft_wrap=True, highlight=False, markup=False)
    result = as_data(found) | {"not_confirmed": unconfirmed(data).strip()}
    if export is not None:
        from harness.recommend.hand_out import hand_out  # torch takes seconds to import

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


def _run_of(folder: Path, number: int, name: str, uri: str, storage: str | None) -> str:
    """The id of a trial's run, under which it can be registered by this name. Nothing is written.

    Raises `ValueError` in one line where the name cannot be, and where there is no such store or no such run.
    """
    from harness.registry import check
    from harness.storage import read_study
    from harness.verify.runs import reading

    check(uri, name)
    kept = read_study(storage or f"sqlite:///{(folder / 'study.db').absolute()}", folder.name)
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


def say(console: Console, found: Recommendation, data: StudyData, least: float | None) -> None:
    """Print a recommendation in words."""
    own, gain = found.chosen, found.against_plain

    def line(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False)

    line(f"[b]take[/]       {configuration(own)}{_others(own, data)}: {own['num_params']:,} parameters, "
         f"{own['macs']:,} MACs{_speed(own)}")  # fmt: skip
    interval = ": no interval" if pd.isna(own["test_low"]) else " [95%, over seeds and test examples]"
    line(f"test       {_percent(own)} over {fresh_seeds(own['num_seeds'])}{interval}")
    if found.weakness:
        line(f"[b]weak[/]       {found.weakness}")
    if least is not None:
        line(f"           at least {100 * least:.2f}% on the test split in {found.p_reached:.2f} of resamples")
    line(f"best       P = {found.p_best:.2f} among {found.num_fitting} confirmed that fit; expected regret "
         f"{100 * found.expected_regret:.2f} points, over resamples of {resampled(own['num_seeds'])}")  # fmt: skip
    for row in found.left_out:
        line(f"left out   {configuration(row)} (trial {row['number']}): {row['why']}")
    if found.kind in WITHOUT:
        line(f"control    {WITHOUT[found.kind]}: {escape(_beside(found))}")
    if gain is not None:
        head = "" if found.kind in WITHOUT else "control"
        line(f"{head:10} over plain training of its width {escape(_gain(gain))}: {_said_of(found, gain)}")
    if found.runner_up is not None:
        line(f"runner-up  {configuration(found.runner_up)}: {_percent(found.runner_up)}")
    if lacks := unconfirmed(data).strip():
        line(f"[b]lacks[/]      {escape(lacks)} What is missing was not weighed here.")


def _others(own: Mapping[str, Any], data: StudyData) -> str:
    """The knobs that `configuration` does not name and that the study, or a control, has searched."""
    names = dict.fromkeys(("lr", *(["label_smoothing"] if own["role"] == "smoothing" else []), *data.space))
    plain = own["form"] == PLAIN
    kept = [name for name in names if name in own and name not in ("form", "alpha", "temperature", "width")
            and not pd.isna(own[name]) and not (plain and name in TEACHER_KNOBS and name != "loss_scale")]  # fmt: skip
    return "".join(f", {name.replace('_', ' ')} {number(own[name], 2)}" for name in kept)


def _beside(found: Recommendation) -> str:
    """What a control that is taken is against the best distilled student of its width."""
    over = found.distilled_over
    if over is None:
        return "it cannot be compared with a distilled one" if found.beside_distilled else NONE_BESIDE
    return f"{BESIDE[over['verdict']]} ({_gain(over)})"


def _gain(row: Mapping[str, Any]) -> str:
    holm = "" if pd.isna(row["holm_p"]) else f", Holm p {row['holm_p']:.2g}"
    return f"{points(row['gain'], row['crossed_low'], row['crossed_high'])} points{holm}"


def _said_of(found: Recommendation, gain: Mapping[str, Any]) -> str:
    if pd.isna(gain["holm_p"]):
        return f"it cannot be told from it ({gain['warning']})"
    if not found.no_gain_shown:
        return str(gain["verdict"])
    if found.plain_is_as_good:
        return f"[b]plain training is as good[/], to within {100 * AS_GOOD:g} points"
    return "[b]no difference is shown[/]"


def _next(found: Recommendation, judged: Confirmed, command: str) -> str:
    """Which trials would settle what is open between the first two, by words that no verdict contradicts."""
    own, gain, other = found.chosen, found.against_plain, found.runner_up
    if own["num_seeds"] < 2:
        return f"more seeds: one says nothing of how they differ: {command}"
    told = gain is not None and found.no_gain_shown and not pd.isna(gain["found_80"])
    if gain and other and told and other["number"] == gain["control_number"]:
        alone = "for these two alone the seeds suffice; " if found.next_seeds == 0 else ""
        lead = (
            f"{alone}a true difference of {100 * gain['found_80']:.2f} points is what the verdict finds with 80% power"
        )
    elif found.next_seeds == 0:
        return "nothing: for these two alone, the seeds tell them apart with 80% power"
    elif found.p_best >= SURE:
        return f"nothing: P(best) is at least {SURE:g}, though a test of these two alone would not have 80% power"
    else:
        lead = ""
    if found.next_seeds is None:
        rest = "no number of seeds would tell the two apart: take either, or measure on a larger test split"
    elif found.next_seeds == 0:
        return lead
    else:
        look = len(judged.looks) + 1
        rest = (
            f"{found.next_seeds} fresh seeds would tell these two alone apart, if the difference is as seen: {command} "
            f"(look {look} at this test split: claims will then have the level 5% / {look**2})"
        )
    return f"{lead}; {rest}" if lead else rest


def _command(found: Recommendation, data: StudyData, out: Path, where: tuple[str | None, str | None]) -> str:
    """The command that goes on with this very study, with more fresh seeds; a store that is not where it is by default
    and was not named has a gap to fill in."""
    from harness.options import stores

    budget, identity = (data.manifest.get(name) or {} for name in ("budget", "identity"))
    said = ["python", "-m", "harness.sweep", _study(data), "--confirm", str(found.next_seeds or SEEDS)]
    said += ["--trials", str(budget["trials"])] if "trials" in budget else []
    said += ["--seed", str(identity["seed"])] if "seed" in identity else []
    said += [] if out == cli.OUT else ["--out", str(out)]
    storage, tracking = where
    said += stores(storage, tracking)
    said += ["--storage", "URL"] if storage is None and not (out / data.name / "study.db").exists() else []
    said += ["--tracking-uri", "URL"] if tracking is None and not (out / "mlflow.db").exists() else []
    return shlex.join(said)


def _study(data: StudyData) -> str:
    file = Path(str(data.manifest.get("file", data.name)))
    return data.name if file.parent in [folder.resolve() for folder in cli.STUDIES] else str(file)


def _percent(row: Mapping[str, Any]) -> str:
    interval = "" if pd.isna(row["test_low"]) else f" [{100 * row['test_low']:.2f}, {100 * row['test_high']:.2f}]"
    return f"{100 * row['test_accuracy']:.2f}%{interval}"


def _speed(row: Mapping[str, Any]) -> str:
    return "" if pd.isna(row["latency_ms"]) else f", {row['latency_ms']:.3g} ms, {row['size_kib']:.3g} KiB"


def evidence(found: Recommendation, data: StudyData) -> dict[str, Any]:
    """What the model card says of the student (see `harness.export.card.EVIDENCE`)."""
    own, gain, task = found.chosen, found.against_plain, data.manifest.get("task") or {}
    knobs = [name for name in (*KNOBS, *data.space) if name in own and not pd.isna(own[name])]
    done = pd.concat([data.trials, data.others.trials, data.confirmed.trials])
    return {
        "study": data.name,
        "question": f"which student of {task.get('name')} to take within a size, and whether to distil it",
        "trial": f"{own['number']}, which confirms trial {own['source']}",
        "knobs": {name: own[name] for name in dict.fromkeys(knobs)},
        "teacher": _teacher(found.kind, data),
        "trained_as": found.kind,
        "test_accuracy": _estimate(own["test_accuracy"], own["test_low"], own["test_high"]),
        "seeds": int(own["num_seeds"]),
        "gain_over_control": None if gain is None else {
            **_estimate(gain["gain"], gain["crossed_low"], gain["crossed_high"]),
        },
        "verdict_against_plain_training": _verdict(found),
        **({"weakness": found.weakness} if found.weakness else {}),
        "p_best": found.p_best,
        "expected_regret": found.expected_regret,
        "runner_up": None if found.runner_up is None else configuration(found.runner_up),
        "split_hashes": task.get("hashes"),
        "cost": {"trials of the study": len(done), "training FLOPs": float(done["train_flops"].sum()),
                 "seconds": float(done["seconds"].sum())},
    }  # fmt: skip


def _verdict(found: Recommendation) -> str:
    if found.kind == PLAIN:
        return "it is plain training"
    return "not compared" if found.against_plain is None else str(found.against_plain["verdict"])


def _teacher(kind: str, data: StudyData) -> str:
    """Whom a student of a kind has learnt from."""
    if kind in (PLAIN, "smoothing"):
        return "none"
    if kind == "self":
        return "a plainly trained student of its own width"
    teacher = data.manifest.get("teacher") or {}
    width = teacher.get("width") or "unknown"
    return f"{teacher.get('name')} of width {width}, val accuracy {teacher.get('val_accuracy')}"


def _estimate(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": float(value), "low": float(low), "high": float(high), "level": 0.95}


def as_data(found: Recommendation) -> dict[str, Any]:
    """The recommendation as JSON data."""

    def row(values: Mapping[str, Any] | None, keys: tuple[str, ...]) -> dict[str, Any] | None:
        if values is None:
            return None
        plain = {name: getattr(values[name], "item", lambda v=values[name]: v)() for name in keys}
        return {name: None if pd.isna(value) else value for name, value in plain.items()}

    compared = ("gain", "crossed_low", "crossed_high", "holm_p", "mde", "verdict")
    return {
        "take": row(found.chosen, SAID),
        "p_best": found.p_best,
        "expected_regret": found.expected_regret,
        "num_fitting": found.num_fitting,
        "p_reached": None if math.isnan(found.p_reached) else found.p_reached,
        "against_plain": row(found.against_plain, compared),
        "no_gain_shown": found.no_gain_shown,
        "plain_is_as_good": found.plain_is_as_good,
        "runner_up": row(found.runner_up, SAID),
        "next_seeds": found.next_seeds,
        "weakness": found.weakness,
        "left_out": [row(left, (*SAID, "why")) for left in found.left_out],
    }


if __name__ == "__main__":
    cli.run(app)
