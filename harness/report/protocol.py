"""What was done, so that it can be judged and done again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness.report.blocks import Block, Heading, List, code, plain
from harness.report.findings import Report
from harness.space import direction

FORMULAS = {
    "convex": "`alpha * CE(student, labels) + (1 - alpha) * KD(student, teacher)`",
    "additive": "`CE(student, labels) + alpha * KD(student, teacher)`",
}


def protocol(report: Report) -> Iterator[Block]:
    """The task and its splits, seeds, objectives, formulas and versions."""
    manifest = report.data.manifest
    task: Mapping[str, Any] = manifest.get("task") or {}
    sizes, hashes = task.get("sizes") or {}, task.get("hashes") or {}
    reads = len(report.data.confirmed.students)
    splits = ", ".join(f"{plain(name)} {size:,} ({code(hashes.get(name, '?'))})" for name, size in sizes.items())
    read = (
        "the test split was not read"
        if reads == 0
        else f"the test split was read for {reads} confirmed students, and for nothing else"
    )
    mixings = [str(mixing) for mixing in sorted(report.data.trials["mixing"].dropna().unique())]
    formulas = "; ".join(f"{plain(mixing)}: {FORMULAS.get(mixing, 'unknown')}" for mixing in mixings) or "no trials yet"
    objectives = plain(", ".join(f"{direction(name)} {name}" for name in manifest.get("objectives") or []))
    seeds = plain(", ".join(str(seed) for seed in manifest.get("seeds") or []))
    versions = plain(", ".join(f"{name} {version}" for name, version in (manifest.get("versions") or {}).items()))
    yield Heading("Protocol")
    yield List((
        plain(f"Task: {task.get('name', 'unknown')}. {task.get('source', '')}".rstrip()),
        f"Splits (hash): {splits or 'unknown'}; {read}.",
        f"Seeds, the same for every trial: {seeds or 'unknown'}.",
        f"Objectives of the search: {objectives or 'unknown'}. Metrics are of the last epoch, means over seeds.",
        f"Training loss, {formulas}. Plain training: `CE(student, labels)`.",
        f"Configuration {code(manifest.get('config_hash', '?'))}, commit {code(manifest.get('git_commit') or '?')}.",
        f"Versions: {versions or 'unknown'}.",
    ))  # fmt: skip
