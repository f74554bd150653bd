"""What a sweep says of itself: `study.json`, the parent run's parameters and figures, what all runs have in common."""

from __future__ import annotations

import json
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import __version__, files, ledger
from harness.arms import fresh_seeds
from harness.options import Options

if TYPE_CHECKING:
    from harness.report.findings import Report

EVERY = 5.0
"""After how many seconds a sweep's wall-clock is kept again."""
MOST_NOTE = 8000
"""What MLflow takes of a description."""
MOST_CHANGES, MOST_SHOWN = 5, 80
"""How many changes of a study are told, and how many characters of what was changed."""


def manifest_of(options: Options, task: Mapping[str, Any], config_hash: str) -> dict[str, Any]:
    """What `study.json` says: what a report needs beside the trials, and what a reader needs to repeat it."""
    study = options.study
    versions = {name: version(name) for name in ("optuna", "mlflow", "numpy", "pandas", "matplotlib")}
    known = ledger.read_manifest(options.study_dir)
    return {
        "study": options.name,
        "file": str(options.file),
        "config_hash": config_hash,
        "identity": study.identity(),
        "budget": {
            "trials": options.trials,
            "controls_per_width": study.num_controls(options.trials),
            "other_controls": list(study.other_controls),
        },
        "size_budgets": sorted(set(study.size_budgets)),
        "objectives": list(study.objectives),
        "widths": list(study.widths),
        "seeds": list(study.student_seeds()),
        "confirm_seeds": list(fresh_seeds(study, study.confirm)),
        "searches": known.get("searches") if known else options.searches,  # as many as were planned when this one began
        "first_seed": (options.first or options).study.seed,  # of several searches it is the study's own
        "task": {name: value for name, value in task.items() if name != "versions"},
        "teacher": None,
        "cohorts": None,
        "versions": {"harness": __version__, **task["versions"], **versions, "system": platform.platform()},
        "git_commit": _git_commit(options.file.parent),
        "started_ms": known.get("started_ms", files.now_ms()),
        "seconds": known.get("seconds", 0.0),
        "at_least": known.get("at_least", False) or not known.get("ended", not known),
    }


def said_alone(family: str, alone: Mapping[str, str]) -> str:
    """Why students of a family are trained one at a time, by width, in one line; empty where none are."""
    by_reason: dict[str, list[str]] = {}
    for width, why in alone.items():
        by_reason.setdefault(why, []).append(width)
    found = [f"{why} (width {', '.join(widths)})" for why, widths in by_reason.items()]
    return f"students of family {family!r} are trained one at a time: {'; '.join(found)}" if found else ""


def said_weak(teacher: Mapping[str, Any], num_classes: int) -> str:
    """That a teacher has nothing to say, in one line; empty where it has, or is not measured."""
    accuracy, chance = teacher.get("val_accuracy"), 1 / num_classes
    if accuracy is None or accuracy > 1.1 * chance:
        return ""
    mend = "are its inputs scaled, its classes in the order of the labels, its answers in that of the examples?"
    return f"the teacher has {accuracy:.4f} on validation, where guessing has {chance:.4f}; {mend}"


def said_changed(options: Options, config_hash: Any) -> str:
    """In what the study that was swept, whose hash is given, is another than the one that is asked for."""
    known, now = ledger.read_manifest(options.study_dir), json.loads(json.dumps(options.study.identity()))
    before = known.get("identity")
    if known.get("config_hash") != config_hash or not isinstance(before, Mapping):
        return "What has changed is not known here: its file, space, fixed knobs, seed, objectives, data or teacher"
    found = list(_differences(before, now)) or ["its data or its teacher, and nothing in its file"]
    more = [f"and {len(found) - MOST_CHANGES} more"] if len(found) > MOST_CHANGES else []
    return f"Changed: {'; '.join([*found[:MOST_CHANGES], *more])}"


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], within: str = "") -> Iterator[str]:
    """A line for every entry that differs, of mappings in mappings by its path."""
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, f"{within}{name}.")
        elif _is_same(old, new):
            continue
        elif name == "code":
            yield "the code of its file"
        else:
            yield f"{within}{name} was {_short(old)}, and is {_short(new)}"


def _is_same(old: Any, new: Any) -> bool:
    """Whether two values are written alike, as a study's hash has them: 0 and 0.0 are not."""
    return json.dumps(old, sort_keys=True) == json.dumps(new, sort_keys=True)


def _short(value: Any) -> str:
    said = "not there" if value is None else repr(value)
    return said if len(said) <= MOST_SHOWN else f"{said[:MOST_SHOWN]} ..."


def begin(options: Options) -> None:
    """Say in the `study.json` of earlier sessions that there is one more, which has not ended."""
    if known := ledger.read_manifest(options.study_dir):
        files.write_sealed(options.study_dir / "study.json", {**known, "ended": False})


def write_manifest(options: Options, manifest: Mapping[str, Any], seconds: float, *, ended: bool = False) -> None:
    """Write `study.json`; `seconds` is what this session adds to the wall-clock of those before it.

    Where a session is killed it stays not `ended`, and from then on `seconds` are `at_least` what was spent.
    """
    found = {**manifest, "seconds": manifest["seconds"] + seconds, "ended": ended}
    files.write_sealed(options.study_dir / "study.json", found)


@dataclass
class Elapsed:
    """How long a session takes, kept in `study.json` as it goes on: a kill loses some seconds of it."""

    options: Options
    manifest: Mapping[str, Any]
    started: float
    _next: float = 0.0

    def note(self, *, ended: bool = False) -> None:
        """Write it, unless that was done a moment ago. Of a full disk whatever else is written tells."""
        now = time.monotonic()
        if ended or now >= self._next:
            self._next = now + EVERY
            with suppress(OSError):
                write_manifest(self.options, self.manifest, now - self.started, ended=ended)


def sweep_params(options: Options, teacher: Mapping[str, Any]) -> dict[str, Any]:
    """The parent run's parameters: only what cannot change when a sweep goes on."""
    study = options.study
    return {
        "family": study.family,
        "widths": ", ".join(map(str, study.widths)),
        "objectives": ", ".join(study.objectives),
        "sampler": study.sampler,
        "seed": study.seed,
        "seeds_per_trial": study.seeds,
        "teacher": f"{teacher['name']} width={teacher['width']}" if teacher["width"] else teacher["name"],
        "teacher_val_accuracy": teacher["val_accuracy"],
        "teacher_num_params": teacher["num_params"],
    }


def note(options: Options, pages: Mapping[str, str]) -> str:
    """The summary as the parent run's description: links to the `pages` of the UI first, and without its figures, which
    the UI has among the artifacts."""
    links = " | ".join(f"[{name}]({page.removeprefix('/')})" for name, page in pages.items())
    head = f"{links} | the report with its figures: `report.html`, among the artifacts"
    lines = (options.study_dir / "summary.md").read_text(encoding="utf-8").splitlines()
    text = "\n".join([head, "", *(line for line in lines if not line.startswith("!["))])
    if len(text) <= MOST_NOTE:
        return text
    kept = text[: MOST_NOTE - 60].rpartition("\n\n")[0]
    return f"{kept}\n\nThe rest is in the artifact `summary.md`."


def sweep_metrics(written: Report, manifest: Mapping[str, Any], started: float) -> dict[str, float]:
    """The parent run's figures: trials of the search and of all controls, and how many were confirmed."""
    data, front = written.data, written.front
    states = [*data.trials["state"], *data.others.trials["state"]]
    found = {"num_trials": float(len(states)), "num_on_front": float(len(front))}
    found |= {"num_confirmed": float(len(data.confirmed.trials))}
    found |= {f"num_{name}": float(states.count(name)) for name in ("complete", "failed")}
    if "pruned" in states:
        found["num_pruned"] = float(states.count("pruned"))
    found["seconds"] = manifest["seconds"] + time.monotonic() - started
    return found | ({"best_val_accuracy": float(front["val_accuracy"].max())} if len(front) else {})


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
