"""A study's directory as DataFrames. Reading is read-only: nothing is written, renamed or put aside.

A new measurement of a record becomes a column by itself; a new fact of a trial is a new key in `_trial_row`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pandas as pd

from harness.analysis.declared import manifest_at
from harness.arms import OTHER_TEACHERS
from harness.ledger import TrialSpec, failure_of, numbers, read_spec, result_of, trial_dir
from harness.records import Balance, Curve, Record
from harness.space import Dimension, dimension_from_json
from harness.spec import NONE, PLAIN, StudentSpec
from harness.values import is_number

METRICS = (
    "val_accuracy", "val_loss", "val_agreement", "val_kl", "train_accuracy", "train_loss", "val_ece", "val_brier",
)  # fmt: skip
TEST_METRICS = (
    "test_accuracy",
    "test_loss",
    "test_agreement",
    "test_kl",
    "test_ece",
    "test_brier",
    "test_teacher_accuracy",
)
KNOBS = tuple(f.name for f in dataclasses.fields(StudentSpec) if f.name not in ("seed", "knobs"))
MOMENTS = ("start", "middle", "end")
PULLS = tuple(f"{f.name}_{moment}" for f in dataclasses.fields(Balance) for moment in MOMENTS)
"""How the losses pull (see `harness.spec.Balance`), a column for each moment of training."""
STATES = ("complete", "pruned", "failed", "unfinished", "unreadable")
CURVES = tuple(f.name for f in dataclasses.fields(Curve))
FACTS = ("num_params", "macs", "seconds", "train_flops", "cohort_size")
COLUMNS = (
    "number",
    "arm",
    "state",
    "status",
    *KNOBS,
    "num_seeds",
    "val_accuracy",
    "val_accuracy_sd",
    *METRICS[1:],
    *FACTS,
    "elapsed",
)
STUDENT_COLUMNS = ("number", "arm", "form", "width", "seed", "status", *METRICS, *FACTS, "device")

CONFIRMED_COLUMNS = (*STUDENT_COLUMNS, *TEST_METRICS)


@dataclass(frozen=True)
class Frames:
    """Trials, their students and their curves, as in `StudyData`."""

    trials: pd.DataFrame
    students: pd.DataFrame
    curves: pd.DataFrame


@dataclass(frozen=True)
class StudyData:
    """A study as it lies on disk.

    `manifest` is `study.json`. `trials` has a row a trial of the search and of its plain controls, `students` a row a
    student of a complete or pruned trial, `curves` a row for each trial number, seed and epoch (from 1). Accuracies and
    agreements are fractions, sizes are counts; `elapsed` is how many seconds after the sweep's first moment a complete
    trial was trained to its end, stops between counted, where that is known. A pruned trial's values are those of the
    epoch in its column `pruned_at`; that column is there if any was pruned. Its status is `"diverged"` if it had.

    `others` are the trials of the other controls (their kind in column `arm`), and `confirmed` the configurations that
    were trained again on fresh seeds, with test metrics, and in column `source` the trial that had it first.

    A trial that gives its teacher no weight is plain training, whatever was asked for: it has that form here, with no
    temperature nor other knob of a form, and is among `trials` where its arm is of a self- or shuffled teacher.
    """

    name: str
    manifest: Mapping[str, Any]
    trials: pd.DataFrame
    students: pd.DataFrame
    curves: pd.DataFrame
    others: Frames
    confirmed: Frames

    @property
    def space(self) -> dict[str, Dimension]:
        """The study's searched knobs; empty when the manifest has none."""
        space = (self.manifest.get("identity") or {}).get("space") or {}
        return {name: dimension_from_json(data) for name, data in space.items()}

    @property
    def equal(self) -> str:
        """The choice whose options share the trials equally; empty where none does."""
        return str((self.manifest.get("identity") or {}).get("equal") or "")

    @property
    def size_budgets(self) -> tuple[int, ...]:
        """The study's limits on parameters, smallest first."""
        return tuple(sorted({int(limit) for limit in self.manifest.get("size_budgets") or ()}))

    @property
    def selected_by(self) -> str:
        """What the study chooses by: `"val_loss"` where it is the first of its objectives of val, else accuracy."""
        objectives = [str(name) for name in self.manifest.get("objectives") or () if str(name).startswith("val_")]
        return "val_loss" if objectives[:1] == ["val_loss"] else "val_accuracy"

    @property
    def characters_a_label(self) -> float:
        """How many characters a label of a language model stands for on average; 0 for other tasks."""
        said = (self.manifest.get("task") or {}).get("characters_a_label")
        return float(said) if is_number(said) and said > 0 else 0.0

    @property
    def forms(self) -> tuple[str, ...]:
        """The loss forms in the order of the study's space, then others that were trained; plain training last."""
        dimension = self.space.get("form")
        declared = [str(form) for form in getattr(dimension, "options", ())]
        seen = sorted({str(form) for form in self.trials["form"].dropna()})
        return tuple(form for form in dict.fromkeys((*declared, *seen)) if form != PLAIN)


def load(study_dir: Path) -> StudyData:
    """Read a study's directory. A trial whose files are damaged is a row whose state is `"unreadable"`.

    Raises `FileNotFoundError` where there is no `study.json`, `ValueError` for one that is damaged.
    """
    manifest = manifest_at(study_dir / "study.json")
    parts = {name: _Rows() for name in ("trials", "others", "confirmed")}
    began = float(manifest.get("started_ms") or math.nan) / 1000
    labelled = (manifest.get("task") or {}).get("unlabelled") == 0
    for number in numbers(study_dir):
        row, records = _read_trial(trial_dir(study_dir, number), number, began)
        if row is not None:
            row = as_plain(row) if is_teacherless(row, labelled=labelled) else row
            parts[_part_of(row)].add(row, records)
    searched = ((manifest.get("identity") or {}).get("space") or {}).keys()
    frames = {name: rows.frames(searched, confirmed=name == "confirmed") for name, rows in parts.items()}
    main = frames["trials"]
    return StudyData(
        name=str(manifest.get("study", study_dir.name)),
        manifest=manifest,
        trials=main.trials,
        students=main.students,
        curves=main.curves,
        others=frames["others"],
        confirmed=frames["confirmed"],
    )


def _part_of(row: Mapping[str, Any]) -> str:
    if row.get("source", -1) >= 0:
        return "confirmed"
    plain = row.get("form") == PLAIN and row.get("arm") in OTHER_TEACHERS
    return "trials" if plain or row.get("arm") in (None, "search", "control") else "others"


def is_teacherless(row: Mapping[str, Any], *, labelled: bool) -> bool:
    """Whether a trial's teacher has no weight in its loss.

    Under `convex` the teacher alone teaches examples without a label, whatever alpha is: there only a study whose
    training examples are known to be all `labelled` has such trials. A feature loss has a weight of its own.
    """
    if row.get("form", PLAIN) == PLAIN or row.get("feature", NONE) != NONE:
        return False
    return (labelled and row["alpha"] == 1) if row["mixing"] == "convex" else row["alpha"] == 0


def as_plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's row with the form of plain training, and no knob of its form."""
    return {
        **{name: value for name, value in row.items() if "." not in name},
        "form": PLAIN, "alpha": 1.0, "mixing": "convex", "temperature": None,
    }  # fmt: skip


class _Rows:
    """What is read of some trials, row by row."""

    def __init__(self) -> None:
        self._trials: list[dict[str, Any]] = []
        self._students: list[dict[str, Any]] = []
        self._curves: dict[str, list[Any]] = {name: [] for name in ("number", "seed", "epoch", *CURVES)}

    def add(self, row: dict[str, Any], records: Sequence[Record]) -> None:
        self._trials.append(row)
        for record in records:
            self._students.append(_student_row(row, record))
            _append_curve(self._curves, row["number"], record)

    def frames(self, searched: Iterable[str], *, confirmed: bool = False) -> Frames:
        """The rows; a knob that is searched has a column even where no trial has had it, and so has what only
        `confirmed` trials have, where there is none yet."""
        students = _frame(self._students, (*STUDENT_COLUMNS, *(TEST_METRICS if confirmed else ())))
        source = ("source",) if confirmed else ()
        columns = tuple(dict.fromkeys((*COLUMNS[:4], *KNOBS, "num_seeds", "elapsed", *searched, *source)))
        curves = pd.DataFrame(self._curves).astype(dict.fromkeys(CURVES, float))
        return Frames(_with_means(_frame(self._trials, columns), students), students, curves)


def finished(trials: pd.DataFrame) -> pd.DataFrame:
    """The complete trials of which no student diverged, by number, with whole sizes."""
    kept = trials[(trials["state"] == "complete") & (trials["status"] == "ok")]
    whole = dict.fromkeys(("width", "num_params", "macs"), "int64")
    kept = kept.drop(columns="pruned_at", errors="ignore")
    return kept.astype(whole).sort_values("number").reset_index(drop=True)


def is_plain(trials: pd.DataFrame) -> pd.Series[bool]:
    """Which trials are plain training: the controls, and others that chose no teacher, or gave it no weight."""
    return trials["form"] == PLAIN


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dictionaries."""
    return cast(list[dict[str, Any]], frame.to_dict("records"))


def _read_trial(folder: Path, number: int, began: float) -> tuple[dict[str, Any] | None, Sequence[Record]]:
    try:
        trial = read_spec(folder)
    except ValueError:
        return {"number": number, "state": "unreadable"}, ()
    if trial is None:
        return None, ()  # the driver made the directory and was stopped before it said what the trial is
    if trial.number != number:
        return {"number": number, "state": "unreadable"}, ()
    try:
        records, facts = result_of(folder, trial) or ((), {})
        reason = None if records else failure_of(folder, trial)
    except ValueError:
        return _trial_row(trial, "unreadable", ()), ()
    state = "complete" if records else "unfinished" if reason is None else "failed"
    if records and records[0].status == "pruned":
        own = {"status": "diverged"} if facts.get("diverged") is True else {}
        return {**_trial_row(trial, "pruned", records), **own, "pruned_at": facts.get("pruned_at")}, records
    return {**_trial_row(trial, state, records), "elapsed": _elapsed(facts.get("finished"), began)}, records


def _elapsed(finished: object, began: float) -> float:
    """The seconds from `began` to `finished`, both since 1970; NaN where either is not known, or the clock was set."""
    after = finished - began if is_number(finished) else math.nan
    return after if after >= 0 else math.nan


def _trial_row(trial: TrialSpec, state: str, records: Sequence[Record]) -> dict[str, Any]:
    status = None
    if records:
        status = next((record.status for record in records if record.status != "ok"), "ok")
    knobs: dict[str, Any] = {}
    if trial.specs:
        knobs = {name: getattr(trial.specs[0], name) for name in KNOBS} | dict(trial.specs[0].knobs)
    head = {"number": trial.number, "arm": trial.arm, "state": state, "status": status}
    if trial.stage != "search":
        head["source"] = trial.source
    return {**head, **knobs, "num_seeds": len(trial.specs)}


def _student_row(row: Mapping[str, Any], record: Record) -> dict[str, Any]:
    return {
        **{name: row[name] for name in ("number", "arm", "form", "width")},
        "seed": record.spec.seed,
        "status": record.status,
        **record.metrics,
        **_pulls(record.balance),
        "num_params": record.num_params,
        "macs": record.macs,
        **dataclasses.asdict(record.cost),
    }


def _pulls(balance: Balance) -> dict[str, float | None]:
    return {
        f"{f.name}_{moment}": value
        for f in dataclasses.fields(Balance)
        for moment, value in zip(MOMENTS, getattr(balance, f.name), strict=False)
    }


def _append_curve(curves: dict[str, list[Any]], number: int, record: Record) -> None:
    length = max(len(getattr(record.curve, name)) for name in CURVES)
    curves["number"].extend([number] * length)
    curves["seed"].extend([record.spec.seed] * length)
    curves["epoch"].extend(range(1, length + 1))
    for name in CURVES:
        values = getattr(record.curve, name)
        curves[name].extend((*values, *[None] * (length - len(values))))


def _with_means(trials: pd.DataFrame, students: pd.DataFrame) -> pd.DataFrame:
    """Add each complete trial's means over seeds, its SD of val accuracy, and its summed cost."""
    metrics = [name for name in students.columns if name not in ("number", "arm", "form", "width", "seed", "status")]
    metrics = [name for name in metrics if name not in (*FACTS, "device")]
    groups = students.groupby("number", sort=True)
    # Rounding far below a test case's weight lets trials that are equal over seeds tie, whatever the order of summing.
    table = groups[metrics].mean().astype(float).round(12)
    table["val_accuracy_sd"] = groups["val_accuracy"].std(ddof=1).astype(float)
    for name, how in zip(FACTS, ("first", "first", "sum", "sum", "first"), strict=True):
        table[name] = groups[name].agg(how)
    merged = trials.merge(table, how="left", left_on="number", right_index=True)
    whole = {name: "Int64" for name in ("width", "num_seeds", "num_params", "macs", "cohort_size") if name in merged}
    return merged[list(_order(merged.columns))].astype(whole)


def _order(columns: Sequence[str] | pd.Index[str]) -> Iterator[str]:
    yield from (name for name in COLUMNS if name in columns)
    yield from (name for name in columns if name not in COLUMNS)


def _frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """A frame that has `columns`, of their kind, even where there is no row."""
    extra = dict.fromkeys(name for row in rows for name in row if name not in columns)
    frame = pd.DataFrame(list(rows), columns=[*columns, *extra])
    numeric = (
        "alpha",
        "temperature",
        "lr",
        "weight_decay",
        "momentum",
        *METRICS,
        *TEST_METRICS,
        "elapsed",
        "seconds",
        "train_flops",
    )
    frame = frame.astype({name: float for name in frame.columns if name in numeric})
    whole = ("number", "seed", "num_seeds", "width", "num_params", "macs", "cohort_size", "epochs", "batch_size",
             "pruned_at", "source")  # fmt: skip
    return frame.astype({name: "Int64" for name in frame.columns if name in whole}).astype({"number": "int64"})
