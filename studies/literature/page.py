"""What a claim's run leaves for a reader: `summary.md`, `verdict.json` and the figure, in the claim's folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.figures import style
from harness.files import write_bytes, write_json
from studies.literature.claim import FIRST_TUNING_SEED, Knobs, Results
from studies.literature.figure import draw
from studies.literature.verdict import Finding, judge

FORMATS = ("png", "pdf", "svg")
RULE = (
    "The rule, fixed before the run: **reproduced** where d is shown to be above 0; else **contradicted** where d is "
    "shown to be below delta, so that an effect as large as delta is excluded; else **underpowered**. Shown: a paired "
    "two-sided t test over pipelines at 5%, Holm's p over the parts of the claim for each of the two questions. The "
    "claim's verdict is that of its first part. Intervals are 95% t intervals over pipelines, for themselves, without "
    "Holm."
)


def write(results: Results, folder: Path) -> list[Finding]:
    """Judge the claim, write its files, and give the findings."""
    findings = judge(results.claim.parts, results.claim.effects(results))
    write_json(folder / "verdict.json", as_json(results, findings))
    write_bytes(folder / "summary.md", ("\n".join(lines(results, findings)) + "\n").encode())
    with style.paper():
        figure = draw(results, findings)
        for kind in FORMATS:
            plain: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[kind]
            figure.savefig(folder / f"{results.claim.name}.{kind}", metadata=plain)
    return findings


def as_json(results: Results, findings: Sequence[Finding]) -> dict[str, Any]:
    """The verdict as JSON data; what is not known is null."""
    parts = [
        {
            **dataclasses.asdict(finding.part),
            **dataclasses.asdict(finding.effect),
            "holm_p_zero": finding.p_zero,
            "holm_p_delta": finding.p_delta,
            "detectable": finding.detectable,
            "differences": finding.differences,
            "verdict": finding.verdict,
        }
        for finding in findings
    ]
    claim = results.claim
    return {
        "claim": claim.name,
        "paper": claim.paper,
        "says": claim.says,
        "verdict": findings[0].verdict,
        "parts": parts,
    }


def lines(results: Results, findings: Sequence[Finding]) -> Iterator[str]:
    """The summary, line by line."""
    claim, count = results.claim, results.tested["seed"].nunique()
    yield f"# {claim.name}: {findings[0].verdict}"
    yield f"\n{claim.paper}\n\n**The paper says.** {claim.says}\n\n**Here.** {claim.setup}\n"
    first = claim.first_seed
    yield f"**What varies.** {count} pipelines, seeds {first} to {first + count - 1}. {claim.varies}\n\n{RULE}\n"
    yield "| part | d | mean [95% t] | delta | Holm p, d = 0 | Holm p, d = delta | detectable at 80% | verdict |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for finding in findings:
        yield row(finding)
    yield from (f"\nDelta of '{finding.part.name}': {finding.part.why}" for finding in findings)
    yield f"\n![the arms on test and the effects]({claim.name}.png)\n"
    yield from _arms(results)
    yield "\nA hostile reviewer would say:\n"
    yield from (f"* {doubt}" for doubt in claim.doubts)


def row(finding: Finding) -> str:
    """A part's row of the table."""
    part, effect = finding.part, finding.effect
    mean = f"{effect.mean:+.3g} [{effect.low:.3g}, {effect.high:.3g}] {part.unit}"
    numbers = f"{part.delta:g} | {finding.p_zero:.2g} | {finding.p_delta:.2g} | {finding.detectable:.2g}"
    return f"| {part.name} | {part.d} | {mean} | {numbers} | **{finding.verdict}** |"


def _arms(results: Results) -> Iterator[str]:
    """What each arm was given and reached."""
    claim, table = results.claim, results.wide()
    last = FIRST_TUNING_SEED + claim.tuning_seeds - 1
    grid = "; ".join(f"{name} of {', '.join(f'{v:g}' for v in values)}" for name, values in claim.tuned.items())
    yield f"Knobs are chosen for each arm on val {claim.metric} under seeds {FIRST_TUNING_SEED} to {last}: {grid}.\n"
    yield f"| arm | chosen | val {claim.metric}, these seeds | test {claim.metric} | on the edge | diverged |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for name, own in results.chosen.iterrows():
        mean = table[name].mean()
        lost = int((results.tested.loc[results.tested["arm"] == name, "status"] != "ok").sum())
        said = f"{_said(own['knobs'])} | {own['val']:.4g} | {mean:.4g}"
        yield f"| {name} | {said} | {own['on_edge'] or 'none'} | {lost} |"


def _said(knobs: Knobs) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in knobs)
