"""Which configurations the confirm stage trains on fresh seeds: those that the report makes claims about.

At every width these are the best distilled trial and the best of every control; in a study that compares the options
of a choice, the best of each option too; and what else stands on the Pareto front. All are chosen on validation. A
width off the front is confirmed too: were it left out for doing badly on validation, only lucky searches would have it.
What is chosen follows from the trials on disk alone, so a sweep that was killed goes on with the same ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from harness import ledger
from harness.analysis.chosen import chosen
from harness.analysis.load import load
from harness.arms import confirming
from harness.space import Value


def configurations(study_dir: Path, seeds: int) -> dict[str, Mapping[str, Value]]:
    """Arms of the confirm stage and their parameters, for so many fresh seeds each; none without `seeds`."""
    return dict(_arms(study_dir, seeds)) if seeds else {}


def _arms(study_dir: Path, seeds: int) -> Iterator[tuple[str, Mapping[str, Value]]]:
    for number in chosen(load(study_dir))["source"].unique():
        trial = ledger.read_spec(ledger.trial_dir(study_dir, int(number)))
        assert trial is not None  # it was loaded just now
        yield confirming(trial.arm, trial.number, seeds), trial.params
