"""A trial held against its runs: one active run, with its status, parameters, tags and whole curves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.ledger import TrialSpec
from harness.records import Record
from harness.runs import failure_tags, trial_metrics, trial_params, trial_tags
from harness.tracking import Body, Head
from harness.values import is_number
from harness.verify.fault import Fault

CLOSE = 1e-12
LARGEST = 1.7976931348623157e308
"""What MLflow keeps of infinity."""


@dataclass(frozen=True)
class Run:
    """A run of a trial: its head, and what is in it."""

    head: Head
    body: Body


@dataclass(frozen=True)
class Difference:
    """How a run differs from its trial; it `lacks` something, or else contradicts it."""

    what: str
    lacks: bool = False


def run_faults(trial: TrialSpec, result: Sequence[Record] | str | None, runs: Sequence[Run]) -> Iterator[Fault]:
    """What is wrong with the runs of a told trial, given its records, or the reason for which it was given up.

    Where both are None, because they were lost, a run is only counted.
    """
    number = trial.number
    judged = [(run, [] if result is None else differences(trial, result, run)) for run in runs]
    active = [pair for pair in judged if not pair[0].head.deleted]
    deleted = [pair for pair in judged if pair[0].head.deleted]
    if not active:
        whole = [run.head.id for run, found in deleted if all(difference.lacks for difference in found)]
        if whole:
            yield Fault(number, f"its run {whole[-1]} was deleted in MLflow", mend="restore", runs=(whole[-1],))
        else:
            what = "its run was deleted in MLflow" if deleted else "it has no run in MLflow"
            yield Fault(number, what, mend="" if result is None else "log")
        return
    kept, found = min(active, key=lambda pair: [not all(d.lacks for d in pair[1]), len(pair[1])])
    if len(active) > 1:
        others = tuple(run.head.id for run, _ in active if run is not kept)
        yield Fault(
            number,
            f"{len(active)} runs in MLflow: {kept.head.id} is the one to keep, {', '.join(others)} too many",
            mend="delete",
            runs=others,
        )
    if found:
        more = f", and {len(found) - 1} more differences" if len(found) > 1 else ""
        what = f"its run {kept.head.id} {found[0].what}{more}"
        if all(difference.lacks for difference in found):
            yield Fault(number, what, mend="log")
        else:
            yield Fault(number, what, mend="replace", runs=(kept.head.id,))


def differences(trial: TrialSpec, result: Sequence[Record] | str, run: Run) -> list[Difference]:
    """Everything in which a run differs from its trial; what somebody added to it is none."""
    head, body = run.head, run.body
    status = "FAILED" if isinstance(result, str) else "FINISHED"
    found = [] if head.status == status else [Difference(f"is {head.status} and not {status}", lacks=True)]
    params = {name: str(value) for name, value in trial_params(trial).items()}
    tags = failure_tags(trial, result) if isinstance(result, str) else trial_tags(trial, result)
    found += _texts("parameter", params, body.params, lacking=True)
    found += _texts("tag", tags, body.tags, lacking=False)  # which are set once, when a run is made
    if isinstance(result, str):
        return found + [Difference(f"has {name}, and the trial was given up") for name in sorted(body.curves)]
    for name, curve in trial_metrics(result).items():
        own = list(_curve(name, curve, body.curves.get(name, ())))
        found += own or _shown(name, curve[max(curve)], body.shown.get(name))
    return found


def same(value: float, other: float) -> bool:
    """Whether two numbers are equal but for rounding: NaN is NaN, and infinity the largest number. What somebody has
    written by SQL, as SQLite lets him, may be no number: it is equal to none."""
    if value == other or not isinstance(value, int | float):
        return value == other
    if math.isnan(value) or math.isnan(other):
        return math.isnan(value) and math.isnan(other)
    value, other = (max(-LARGEST, min(LARGEST, number)) for number in (value, other))
    return abs(value - other) <= CLOSE * max(1.0, abs(other))


def _said(value: float) -> str:
    return f"{value:.12g}" if isinstance(value, int | float) else repr(value)


def _texts(kind: str, wanted: Mapping[str, str], there: Mapping[str, str], *, lacking: bool) -> Iterator[Difference]:
    for name, value in wanted.items():
        if name not in there:
            yield Difference(f"has no {kind} {name}", lacks=lacking)
        elif there[name] != value:
            yield Difference(f"has {kind} {name} {there[name]!r}, the ledger {value!r}")


def _shown(name: str, last: float, shown: float | None) -> Iterator[Difference]:
    """What the table of runs shows of a metric, which MLflow keeps beside its points."""
    if shown is None:
        yield Difference(f"shows no {name} in the table of runs, and has its points")
    elif not same(shown, last):
        yield Difference(f"shows {name} {_said(shown)} in the table of runs, and its last point is {last:.12g}")


def _curve(name: str, wanted: Mapping[int, float], points: Sequence[tuple[int, float]]) -> Iterator[Difference]:
    """Point by point; one difference a metric, the worst first."""
    for step, value in sorted(points, key=lambda point: point[0] if is_number(point[0]) else -math.inf):
        if step not in wanted:
            yield Difference(f"has {name} at step {step}, the ledger does not")
            return
        if not same(value, wanted[step]):
            yield Difference(f"has {name} {_said(value)} at step {step}, the ledger {wanted[step]:.12g}")
            return
    steps = {step for step, _ in points}
    if len(steps) < len(points):
        yield Difference(f"has {len(points)} points of {name} at {len(steps)} steps")
    elif len(steps) < len(wanted):
        yield Difference(f"has {len(steps)} of {len(wanted)} points of {name}", lacks=True)
