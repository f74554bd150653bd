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
    the `confidence` it had in that, `[seeds, examples]`; `labels` are `[examples]`."""

    predicted: NDArray[np.int32]
    confidence: NDArray[np.float32]
    labels: NDArray[np.int32]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Which answers are right, `[seeds, examples]`."""
        found: NDArray[np.bool_] = self.predicted == self.labels
        return found


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
        return Answers(predicted, confidence, tensors["0/labels"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
