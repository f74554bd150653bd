"""What a trial's run says: its name, parameters, tags, and curves; what all runs of a sweep have in common.

Pure functions of a trial and its records: `harness.tracking` writes what they give, `harness.verify` holds it against
what is there. A new figure of a run is a new key of `trial_metrics`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import zip_longest
from statistics import mean, stdev
from typing import Any

from harness.ledger import TrialSpec
from harness.records import Balance, Curve, Record
from harness.spec import NONE, PLAIN
from harness.urls import redact
from harness.values import digest


@dataclass(frozen=True)
class Sweep:
    """What the runs of one sweep have in common. `dataset` is name, digest and source of the task's data."""

    study: str
    study_id: str
    dataset: Mapping[str, str]
    tags: Mapping[str, str]
    file: str


def in_common(manifest: Mapping[str, Any], study_id: str) -> Sweep:
    """What the runs of a study have in common, from its `study.json`."""
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
    return Sweep(str(manifest["study"]), study_id, dataset, tags, str(manifest["file"]))


def failure_tags(trial: TrialSpec, reason: str) -> dict[str, str]:
    """As `trial_tags`, of a trial that was given up."""
    return {"arm": trial.arm, "stage": trial.stage, "status": "failed", "failure": redact(reason)[:500]}


def run_name(trial: TrialSpec) -> str:
    """What the run is, at a glance: `#12 kl alpha=.31 T=4.2 width=16`, `#40 mse+hint online alpha=.1 width=8`.

    Of the confirm stage: `#70 confirms #12: kl alpha=.31 T=4.2 width=16`.
    """
    spec = trial.specs[0]
    head = f"#{trial.number}" if trial.stage == "search" else f"#{trial.number} confirms #{trial.source}:"
    parts = [head, spec.form if spec.feature == NONE else f"{spec.form}+{spec.feature}"]
    if spec.teacher != "offline":
        parts.append(spec.teacher)
    if trial.arm == "smoothing":
        parts.append(f"smoothing={spec.label_smoothing:.2g}")
    if spec.form != PLAIN:
        parts.append(f"alpha={spec.alpha:.2g}".replace("=0.", "=."))
    if spec.temperature is not None:
        parts.append(f"T={spec.temperature:.2g}")
    return " ".join([*parts, f"width={spec.width}"])


def trial_params(trial: TrialSpec) -> dict[str, Any]:
    """The knobs of the trial's students but for those that are off; the seeds are a tag, for they are replicates."""
    spec = trial.specs[0]
    found = {
        f.name: (getattr(spec, f.name), f.default) for f in fields(spec) if f.name not in ("seed", "momentum", "knobs")
    }
    kept = {
        name: value for name, (value, default) in found.items() if value != default or value not in (0, NONE, "", None)
    }
    return kept | dict(spec.knobs) | ({"momentum": spec.momentum} if spec.optimiser == "sgd" else {})


def trial_tags(trial: TrialSpec, records: Sequence[Record]) -> dict[str, str]:
    """What may differ between attempts, or is no number: arm, status, seeds, where it ran."""
    confirmed = trial.stage != "search"
    more = {"confirms": str(trial.source), "test_reads": f"{len(records)} students"} if confirmed else {}
    return more | {
        "arm": trial.arm,
        "stage": trial.stage,
        "status": next((r.status for r in records if r.status != "ok"), "ok"),
        "seeds": ", ".join(str(spec.seed) for spec in trial.specs),
        "config_hash": trial.config_hash,
        "device": records[0].cost.device,
    }


def trial_metrics(records: Sequence[Record]) -> dict[str, dict[int, float]]:
    """Metric -> step -> mean over seeds. The last step of a val curve is the final value; sizes and cost are step 0.

    Test metrics are of the confirm stage alone. A final value that is not its curve's last (of a student that went back
    to its best epoch, or diverged) stands one step further. The final loss on the train split is `final_train_loss`:
    `train_loss` is the objective by epoch.
    """
    found: dict[str, dict[int, float]] = {}
    for column in fields(Curve):
        by_epoch = zip_longest(*(getattr(record.curve, column.name) for record in records))
        found[column.name] = {
            epoch: mean(value for value in values if value is not None)
            for epoch, values in enumerate(by_epoch, start=1)
        }
    last = max((max(curve, default=0) for curve in found.values()), default=0)
    for name in records[0].metrics:
        values = [record.metrics[name] for record in records]
        curve = found.setdefault(f"final_{name}" if name == "train_loss" else name, {})
        curve[last + (curve.get(last, mean(values)) != mean(values))] = mean(values)
        if name == "val_accuracy" and len(values) > 1:
            found["val_accuracy_sd"] = {last: stdev(values)}
    found |= _pulls(records)
    found["num_params"], found["macs"] = {0: records[0].num_params}, {0: records[0].macs}
    found["seconds"] = {0: sum(record.cost.seconds for record in records)}
    found["train_flops"] = {0: sum(record.cost.train_flops for record in records)}
    return {name: curve for name, curve in found.items() if curve}


def _pulls(records: Sequence[Record]) -> dict[str, dict[int, float]]:
    """How the losses pull, mean over seeds: at steps 0, 1, 2 the start, middle and end of training."""
    found: dict[str, dict[int, float]] = {}
    for column in fields(Balance):
        moments = zip(*(getattr(record.balance, column.name) for record in records), strict=False)
        values = {step: [v for v in moment if v is not None] for step, moment in enumerate(moments)}
        found[f"gradient_{column.name}"] = {step: mean(known) for step, known in values.items() if known}
    return found
