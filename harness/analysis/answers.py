"""What the students of the confirm stage answered on the test split, example by example."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from harness.ledger import confirmed_file, trial_dir


@dataclass(frozen=True)
class Answers:
    """Of a confirmed trial, a row a student in the order of its seeds: what each `predicted` of every test example and
    the `confidence` it had in that, `[seeds, examples]`; `labels` are `[examples]`. `sample`
    `[seeds, tokens]` is what a language model wrote, None of other tasks."""

    predicted: NDArray[np.int32]
    confidence: NDArray[np.float32]
    labels: NDArray[np.int32]
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
        right = self.correct
        if not 0 < examples < right.shape[1] or right.shape[1] % examples:
            return right
        shares: NDArray[np.float64] = right.reshape(len(right), examples, -1).mean(axis=2)
        return shares


def read_answers(study_dir: Path, numbers: Iterable[int]) -> dict[int, Answers]:
    """The answers of these trials; one whose file is missing or damaged is left out."""
    found = {number: _read(confirmed_file(trial_dir(study_dir, number))) for number in numbers}
    return {number: answers for number, answers in found.items() if answers is not None}


def _read(path: Path) -> Answers | None:
    try:
        tensors = load_file(path)
        count = len({name.partition("/")[0] for name in tensors})
        predicted = np.stack([tensors[f"{place}/predicted"] for place in range(count)])
        confidence = np.stack([tensors[f"{place}/confidence"] for place in range(count)])
        wrote = [tensors[f"{place}/sample"] for place in range(count) if f"{place}/sample" in tensors]
        return Answers(predicted, confidence, tensors["0/labels"], np.stack(wrote) if len(wrote) == count else None)
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
