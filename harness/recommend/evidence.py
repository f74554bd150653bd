"""A recommendation as data: for the model card of a student that is handed out, and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from harness.analysis.load import StudyData
from harness.recommend.apart import Apart
from harness.recommend.choose import Recommendation
from harness.recommend.words import weaknesses
from harness.report.budget import teachers_cost
from harness.report.tables import configuration, probability
from harness.spec import PLAIN

KNOBS = ("form", "alpha", "temperature", "lr", "weight_decay", "label_smoothing", "epochs", "batch_size")
SAID = (
    "number", "source", "role", "width", "form", "alpha", "temperature", "lr", "num_params", "macs", "latency_ms",
    "size_kib", "weight_decay", "label_smoothing", "num_seeds", "val_accuracy", "test_accuracy", "test_low",
    "test_high",
)  # fmt: skip
"""What the JSON says of a configuration."""


def evidence(found: Recommendation, data: StudyData) -> dict[str, Any]:
    """What the model card says of the student (see `harness.export.card.EVIDENCE`)."""
    weakness, alone = "; ".join(weaknesses(found)), found.runner_up is None
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
        **({"weakness": weakness} if weakness else {}),
        "p_best": None if alone else found.p_best,
        **({} if alone else {"p_best_among": f"{found.num_fitting} confirmed configurations that fit"}),
        "expected_regret": None if alone else found.expected_regret,
        "runner_up": None if found.runner_up is None else
        f"{configuration(found.runner_up)}, P(best) {probability(found.runner_up_p_best)}",
        "split_hashes": task.get("hashes"),
        "cost": {"trials of the study": len(done), "their training FLOPs": float(done["train_flops"].sum()),
                 "their seconds": float(done["seconds"].sum()), **_teacher_cost(data)},
    }  # fmt: skip


def _teacher_cost(data: StudyData) -> dict[str, float]:
    """FLOPs of training the teachers and of what they say, as far as they are known."""
    rows = teachers_cost(data.manifest.get("teacher") or {})
    return {f"FLOPs of the {label}": float(flops) for label, _, flops in rows if flops}


def _verdict(found: Recommendation) -> str:
    if found.kind == PLAIN:
        return "it is plain training"
    gain = found.against_plain
    if gain is None:
        return "not compared"
    return str(gain["verdict"]) + ("" if pd.isna(gain["holm_p"]) else f", Holm's p {gain['holm_p']:.2g}")


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


def _over(apart: Apart) -> dict[str, Any]:
    values = {"gain": apart.gain, "low": apart.low, "high": apart.high}
    verdict = None if apart.row is None else apart.row["verdict"]
    return {
        **{name: None if math.isnan(value) else value for name, value in values.items()},
        "verdict": verdict,
        "comparisons": apart.num_rows,
    }


def as_data(found: Recommendation) -> dict[str, Any]:
    """The recommendation as JSON data."""

    def row(values: Mapping[str, Any] | None, keys: tuple[str, ...]) -> dict[str, Any] | None:
        if values is None:
            return None
        plain = {name: getattr(values[name], "item", lambda v=values[name]: v)() for name in keys}
        return {name: None if pd.isna(value) else value for name, value in plain.items()}

    apart, compared = found.apart, ("gain", "crossed_low", "crossed_high", "holm_p", "mde", "verdict")
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
        "runner_up_p_best": None if math.isnan(found.runner_up_p_best) else found.runner_up_p_best,
        "over_runner_up": None if apart is None else _over(apart),
        "next_seeds": None if apart is None else apart.next_seeds,
        "reaches": row(found.reaches, SAID),
        "weakness": "; ".join(weaknesses(found)),
        "nearly": [row(near, SAID) for near in found.nearly],
        "left_out": [row(left, (*SAID, "why")) for left in found.left_out],
    }
