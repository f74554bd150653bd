"""A trial of Optuna held against its directory, which is read and left as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from harness import ledger
from harness.analysis.answers import problem_of
from harness.arms import CONFIRM, SEARCH, control, read_arm
from harness.commits import values
from harness.kept import Asked, Kept, KeptStudy
from harness.ledger import TrialSpec
from harness.records import Record
from harness.verify.compare import same
from harness.verify.fault import Fault

WORDS = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL", "running": "RUNNING", "waiting": "WAITING"}
"""The states of a trial as Optuna's users know them."""


@dataclass(frozen=True)
class Entry:
    """What the ledger has of a trial: its spec, where it is the trial's own; its records, or why it was given up; what
    is wrong with either; and after how many epochs it was pruned, 0 where it was not."""

    trial: TrialSpec | None
    result: Sequence[Record] | str | None
    faults: tuple[Fault, ...] = ()
    pruned_at: int = 0


def look(folder: Path, study: str, config_hash: str, kept: Kept) -> Entry:
    """The ledger's entry of a trial that Optuna has. A failed one's is why, whatever a worker published later."""
    number = kept.asked.number
    try:
        trial = ledger.read_spec(folder)
    except ValueError as error:
        return Entry(None, None, (Fault(number, f"its spec.json cannot be read ({error})", _lost(folder)),))
    if trial is None:
        return Entry(None, None, (Fault(number, "it has no spec.json", _lost(folder)),))
    wrong = list(_strange(trial, study, config_hash, kept.asked))
    if wrong:
        what = f"its spec.json is not its own: {', '.join(wrong)}"
        return Entry(None, None, (Fault(number, what, _lost(folder)),))
    try:
        reason = ledger.failure_of(folder, trial)
    except ValueError:
        reason = None
    if kept.state == "failed":
        return Entry(trial, reason)
    try:
        found = ledger.result_of(folder, trial)
    except ValueError as error:
        return Entry(trial, None, (Fault(number, f"its result is damaged: {error}", mend="aside"),))
    if found is None:
        return Entry(trial, reason)
    records, facts = found
    problem = problem_of(folder, trial, records)
    return Entry(trial, records, (Fault(number, problem, AGAIN),) if problem else (), facts.get("pruned_at", 0))


def _lost(folder: Path) -> str:
    return f"the next sweep makes it again; if you have a copy of {folder}, put it back"


def _strange(trial: TrialSpec, study: str, config_hash: str, asked: Asked) -> Iterator[str]:
    """In what a `spec.json` differs from the trial that was asked for."""
    if trial.key != f"{study}/{asked.number}":
        yield f"it is of {trial.key}"
    if trial.config_hash != config_hash:
        yield f"its study has the hash {trial.config_hash} and not {config_hash}"
    own = read_arm(asked.arm)
    if (trial.arm, trial.stage, trial.source) != (own.kind, own.stage, own.source):
        yield f"its arm is {trial.arm}, of the stage {trial.stage}"
    elif own.kind != SEARCH and own.stage == SEARCH and asked.arm != control(trial.specs[0].width, own.kind):
        yield f"its width is {trial.specs[0].width}, and Optuna's arm {asked.arm}"
    elif own.stage == CONFIRM and len(trial.specs) != own.seeds:
        yield f"it has {len(trial.specs)} students, and Optuna's arm {asked.arm}"
    if dict(trial.params) != dict(asked.params):
        yield f"its parameters are {dict(trial.params)}, Optuna's {dict(asked.params)}"
    if trial.round != asked.round:
        yield f"its round is {trial.round}, Optuna's {asked.round}"


AGAIN = "the next sweep trains it again, and does not tell it again; if you have a copy, put it back"
GIVEN_UP = "without its begun.json the next sweep trains it again; if you have a copy of the result, put that back"
STAYS = "Optuna does not say at which rung it was pruned, so it stays as it is; if you have a copy, put it back"


def told_faults(kept: Kept, study: KeptStudy, entry: Entry) -> Iterator[Fault]:
    """What is wrong between a told trial's state and values in Optuna and its result."""
    number, state, result = kept.asked.number, WORDS[kept.state], entry.result
    if entry.trial is None or (entry.faults and result is None):
        return
    if kept.state == "failed":
        if result is None:
            yield Fault(number, f"{state} in Optuna, and its failed.json is missing or another trial's")
    elif isinstance(result, str):
        yield Fault(number, f"{state} in Optuna, its result.json is missing, and then it was given up", GIVEN_UP)
    elif result is None:
        todo = STAYS if kept.state == "pruned" and not kept.asked.pruned_at else AGAIN
        yield Fault(number, f"{state} in Optuna, and its result.json is missing", todo)
    elif (result[0].status == "pruned") != (kept.state == "pruned"):
        yield Fault(number, f"{state} in Optuna, {result[0].status} in the ledger", "nothing changes a told trial")
    elif kept.state == "pruned" and (at := kept.asked.pruned_at) not in (0, entry.pruned_at):
        what = f"pruned after {at} epochs in Optuna, after {entry.pruned_at} in the ledger"
        yield Fault(number, what, "put an earlier copy of the storage back")
    elif kept.state == "complete":
        yield from _unequal_values(kept, study.objectives, result)


def _unequal_values(kept: Kept, objectives: Sequence[str], records: Sequence[Record]) -> Iterator[Fault]:
    try:
        wanted = values(objectives, records)
    except ValueError as error:
        yield Fault(kept.asked.number, f"its records lack what Optuna was told: {error}")
        return
    if len(wanted) != len(kept.values):
        yield Fault(kept.asked.number, f"Optuna has {len(kept.values)} values of it, not {len(wanted)}")
        return
    for name, value, other in zip(objectives, kept.values, wanted, strict=True):
        if not same(value, other):
            what = f"{name} is {value:.12g} in Optuna, {other:.12g} in the ledger"
            yield Fault(kept.asked.number, what, "nothing changes a told trial")


def open_faults(asked: Asked, entry: Entry, command: str) -> Iterator[Fault]:
    """A trial that is RUNNING while no sweep is: what it takes to end it."""
    if entry.result is not None:
        what = "given up" if isinstance(entry.result, str) else "trained"
        yield Fault(asked.number, f"RUNNING in Optuna, and it was {what}", mend="finish")
        return
    [*wrong] = entry.faults or [Fault(asked.number, "it has no result")]
    what = f"RUNNING in Optuna, and {wrong[0].what}"
    yield Fault(asked.number, what, f"{command} trains it", mend=wrong[0].mend)


def leftovers(folder: Path, *, told: bool) -> list[Path]:
    """Files in a trial's directory that nothing reads any more: put aside, half written, or trained on from."""
    patterns = ["*.aside-*", ".*.tmp", *(["student-*", "rung-*.safetensors"] if told else [])]
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [folder / name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]
