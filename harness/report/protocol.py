"""What was done, so that it can be judged and done again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness.analysis.load import is_plain
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
    splits = ", ".join(f"{plain(name)} {size:,} ({code(hashes.get(name, '?'))})" for name, size in sizes.items())
    taught = report.data.trials[~is_plain(report.data.trials)]
    mixings = [str(mixing) for mixing in sorted(taught["mixing"].dropna().unique())]
    formulas = (
        "; ".join(f"{plain(mixing)}: {FORMULAS.get(mixing, 'unknown')}" for mixing in mixings)
        or "no distilled trials yet"
    )
    objectives = plain(", ".join(f"{direction(name)} {name}" for name in manifest.get("objectives") or []))
    seeds = plain(", ".join(str(seed) for seed in manifest.get("seeds") or []))
    versions = plain(", ".join(f"{name} {version}" for name, version in (manifest.get("versions") or {}).items()))
    yield Heading("Protocol")
    yield List((
        plain(f"Task: {task.get('name', 'unknown')}. {task.get('source', '')}".rstrip()),
        f"Splits (hash): {splits or 'unknown'}; {_test_reads(report)}.",
        f"Seeds, the same for every trial of the search and its controls: {seeds or 'unknown'}{_fresh_seeds(report)}.",
        f"Objectives of the search: {objectives or 'unknown'}. Metrics are of the last epoch, means over seeds.",
        f"Training loss, {formulas}. Plain training: `CE(student, labels)`{_scaled(report)}.",
        f"Configuration {code(manifest.get('config_hash', '?'))}, commit {code(manifest.get('git_commit') or '?')}.",
        f"Versions: {versions or 'unknown'}.",
    ))  # fmt: skip


def _scaled(report: Report) -> str:
    """That what was asked for as distillation, and is plain training, keeps the scale of its loss; mostly empty."""
    trials = report.data.trials
    return ", times its `loss_scale`" if (trials.loc[is_plain(trials), "loss_scale"].dropna() != 1).any() else ""


def _test_reads(report: Report) -> str:
    """Who read the test split, how often, and what for."""
    read, shown = report.data.confirmed, report.confirmed.trials["number"].nunique()
    if read.students.empty:
        return "the test split was not read"
    said = (
        f"in this folder the test split was read for {len(read.students)} confirmed students, beside whom their "
        "teacher answered it (its accuracy, their likeness to it); what is reported is from predictions after the last "
        "epoch, and accuracy after earlier epochs is kept for the selection audit alone"
    )
    if len(report.searches):
        others = int(report.searches["num_searches"].max()) - 1
        said += f". Of the other searches of this study {others} have read it too, as often each"
    said += ". Who else has read the same split is not known here"
    if more := read.students["number"].nunique() - shown:
        said += (
            f". Of the {shown + more} confirmed trials {shown} are reported; the rest have the same configurations "
            "with fewer seeds (another `--confirm`), or ones that validation has since passed over"
        )
    return said


def _fresh_seeds(report: Report) -> str:
    seeds = sorted(int(seed) for seed in report.data.confirmed.students["seed"].unique())
    if not seeds:
        return ""
    whole = len(seeds) > 2 and seeds[-1] - seeds[0] == len(seeds) - 1
    each = f"{seeds[0]} to {seeds[-1]}" if whole else ", ".join(map(str, seeds))
    return f"; of the confirm stage, fresh: {each}"
