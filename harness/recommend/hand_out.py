"""A confirmed student as files, and in MLflow's model registry."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness import export, ledger, tasks
from harness.cohort import checkpoint
from harness.ledger import TrialSpec
from harness.models import Family
from harness.records import Record
from harness.tasks import Task, in_parts


def best_seed(records: tuple[Record, ...]) -> int:
    """The place of the student that validation likes best: highest accuracy, then least loss, then the first."""
    return min(
        range(len(records)), key=lambda at: (-records[at].metrics["val_accuracy"], records[at].metrics["val_loss"], at)
    )


def trained(study_dir: Path, number: int) -> tuple[export.Student, TrialSpec, Record]:
    """The best seed's student of a confirmed trial, as it was trained.

    Its val accuracy is measured again and held against its record's. Raises `ValueError` in one line where the trial's
    files are missing or damaged, and where the two differ.
    """
    folder = ledger.trial_dir(study_dir, number)
    trial = ledger.read_spec(folder)
    found = ledger.result_of(folder, trial) if trial is not None else None
    states = checkpoint.load(ledger.confirmed_file(folder), trial.hash) if trial is not None else None
    if trial is None or found is None or not states:
        raise ValueError(f"the students of trial {number} are not in {folder} any more; its sweep trains them again")
    place = best_seed(found[0])
    record = found[0][place]
    task = tasks.load(record.spec.task)
    family = task.families[record.spec.family]
    params = _params(states[place].tensors["network"], task, family, record.spec.width)
    student = export.Student(task, family, record.spec.width, params)
    _check(student, record)
    return student, trial, record


def _params(flat: Tensor, task: Task, family: Family, width: int) -> dict[str, Tensor]:
    layers = family.layers(width, task.input_shape, task.num_classes)
    parts = torch.split(flat.float(), [int(torch.Size(layer.shape).numel()) for layer in layers.values()])
    return {name: part.reshape(layer.shape).clone() for (name, layer), part in zip(layers.items(), parts, strict=True)}


def _check(student: export.Student, record: Record) -> None:
    """Hold the student's val accuracy against its record's: one example in a thousand may differ by rounding."""
    split = student.task.val
    with torch.inference_mode():
        module = export.network(student)
        parts = in_parts(split.inputs, 500)
        logits = torch.cat([module(part.float() if part.is_floating_point() else part) for part in parts])
    accuracy = (logits.argmax(-1) == split.labels).float().mean().item()
    wanted = record.metrics["val_accuracy"]
    # One in a thousand, or one at all; networks in bfloat16 were measured so, and are handed out in float32.
    share, least = (0.01, 3) if record.spec.dtype == "bfloat16" else (0.001, 1)
    if abs(accuracy - wanted) > max(share, least / len(split)) + 1e-9:
        raise ValueError(f"the kept weights have val accuracy {accuracy:.4f}, their record says {wanted:.4f}")


def hand_out(study_dir: Path, number: int, folder: Path, evidence: Mapping[str, Any]) -> export.Exported:
    """Export the best seed's student of a confirmed trial into a folder, with the evidence in its model card."""
    student, _, record = trained(study_dir, number)
    own = {"exported_seed": record.spec.seed, "its_val_accuracy": record.metrics["val_accuracy"],
           "its_test_accuracy": record.metrics["test_accuracy"]}  # fmt: skip
    whole = export.Student(student.task, student.family, student.width, student.params, {**evidence, **own})
    return export.write(whole, folder)
