"""What the students of the confirm stage answered on the test split, example by example.

A file is believed only where it is as it was written, and says what its trial's records say.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from harness.files import put_aside
from harness.ledger import TrialSpec, confirmed_file, read_spec, result_of, trial_dir
from harness.records import Record
from harness.values import digest


@dataclass(frozen=True)
class Answers:
    """Of a confirmed trial, a row a student in the order of its seeds: what each `predicted` of every test example and
    the `confidence` it had in that, `[seeds, examples]`; `labels` are `[examples]`. `chance` is what it gave to the
    label, None in a file of an earlier version; `sample` `[seeds, tokens]` is what a language model wrote, None of
    other tasks."""

    predicted: NDArray[np.int32]
    confidence: NDArray[np.float32]
    labels: NDArray[np.int32]
    chance: NDArray[np.float32] | None = None
    sample: NDArray[np.int32] | None = None

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Which answers are right, `[seeds, examples]`."""
        found: NDArray[np.bool_] = self.predicted == self.labels
        return found

    def by_example(self, examples: int) -> NDArray[np.generic]:
        """The share of each example's labels that were right, `[seeds, examples]`, where an example has several.

        The positions of one text are no independent sample, so intervals are over examples. A count that does not fit
        leaves the answers as they are.
        """
        return _by_example(self.correct, examples)

    def losses_by_example(self, examples: int) -> NDArray[np.generic] | None:
        """The mean cross-entropy of each example's labels in nats, `[seeds, examples]`, as `by_example`; None without
        chances."""
        if self.chance is None:
            return None
        least = np.finfo(np.float32).smallest_subnormal  # a chance of zero is what float32 makes of one below this
        return _by_example(-np.log(np.maximum(self.chance, least).astype(float)), examples)


def _by_example(values: NDArray[np.generic], examples: int) -> NDArray[np.generic]:
    if not 0 < examples < values.shape[1] or values.shape[1] % examples:
        return values
    shares: NDArray[np.float64] = values.reshape(len(values), examples, -1).astype(float).mean(axis=2)
    return shares


def read_answers(study_dir: Path, numbers: Iterable[int]) -> tuple[dict[int, Answers], dict[int, str]]:
    """The answers of these trials, and of those whose answers cannot be used, why. Changes nothing."""
    found: dict[int, Answers] = {}
    lost: dict[int, str] = {}
    for number in numbers:
        folder = trial_dir(study_dir, number)
        trial = read_spec(folder)
        records, _ = (trial and result_of(folder, trial)) or ((), {})
        try:
            if trial is None or not records:
                raise ValueError("its result is missing")
            found[number] = _read(folder, trial, records)
        except ValueError as error:
            lost[number] = str(error)
    return found, lost


def problem_of(folder: Path, trial: TrialSpec, records: Sequence[Record]) -> str:
    """Why the answers of a trial cannot be used; empty where they can, and for a trial that is to have none."""
    if trial.stage == "search":
        return ""
    try:
        _read(folder, trial, records)
    except ValueError as error:
        return str(error)
    return ""


def has_answers(folder: Path, trial: TrialSpec, records: Sequence[Record]) -> bool:
    """Whether a trial that is to have answers has them. A file that is damaged, or not its own, is put aside."""
    problem = problem_of(folder, trial, records)
    if problem and confirmed_file(folder).exists():
        put_aside(confirmed_file(folder), f"trial {trial.number}: {problem}")
    return not problem


def _read(folder: Path, trial: TrialSpec, records: Sequence[Record]) -> Answers:
    """The answers of a trial. Raises `ValueError` where they are missing, damaged, or not those of its records."""
    path = confirmed_file(folder)
    if not path.exists():
        raise ValueError("its answers on the test split are missing")
    try:
        with safe_open(path, framework="np") as file:
            said = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        wanted = said.pop("sum", None)  # of a file of an earlier version there is none
        if wanted is not None and wanted != digest([_checksum(tensors), said]):
            raise ValueError("they are not as they were written")
        if said.get("key", trial.hash) != trial.hash:
            raise ValueError("they are another trial's")
        places = range(len(records))
        if len({name.partition("/")[0] for name in tensors}) != len(records):
            raise ValueError(f"they are not of {len(records)} students")
        predicted = np.stack([tensors[f"{place}/predicted"] for place in places])
        confidence = np.stack([tensors[f"{place}/confidence"] for place in places])
        wrote = [tensors[f"{place}/sample"] for place in places if f"{place}/sample" in tensors]
        chances = [tensors[f"{place}/chance"] for place in places if f"{place}/chance" in tensors]
        sample, chance = (np.stack(own) if len(own) == len(records) else None for own in (wrote, chances))
        answers = Answers(predicted, confidence, tensors["0/labels"], chance, sample)
        shapes = {own.shape for own in (predicted, confidence, chance) if own is not None}
        if shapes != {(len(records), *answers.labels.shape)}:
            raise ValueError("their shapes differ")
        _agree(answers, records)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"its answers on the test split are damaged: {error}") from None
    return answers


def _agree(answers: Answers, records: Sequence[Record]) -> None:
    """Hold each student's answers against its record; a diverged one's accuracy is that of guessing."""
    for right, record in zip(answers.correct.mean(axis=1), records, strict=True):
        said = record.metrics["test_accuracy"]
        if record.status == "ok" and abs(right - said) > 0.5 / len(answers.labels) + 1e-6:
            raise ValueError(f"of seed {record.spec.seed} {right:.5f} are right, its record says {said:.5f}")


def _checksum(tensors: Mapping[str, NDArray[np.generic]]) -> str:
    """As `harness.keyed.checksum`, without torch, which takes seconds to import."""
    found = 0
    for name, tensor in sorted(tensors.items()):
        found = zlib.crc32(f"{name} torch.{tensor.dtype} {list(tensor.shape)}".encode(), found)
        found = zlib.crc32(np.ascontiguousarray(tensor).tobytes(), found)
    return f"{found:08x}"
