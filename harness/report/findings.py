"""A study read and judged: what every part of the report is written from."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from threadpoolctl import threadpool_limits

from harness.analysis.compare import best_by_width, gains, gains_by_option, with_gains
from harness.analysis.importance import importance_table
from harness.analysis.judged import Confirmed, judge_confirmed
from harness.analysis.knobs import Knobs, judge_knobs
from harness.analysis.language import bits
from harness.analysis.load import StudyData, finished, load
from harness.analysis.pareto import front
from harness.analysis.pull import pulls_by_form
from harness.analysis.searches import Planned, differences, folders, over_searches, planned
from harness.report.blocks import Figure

TREES = 16
"""fANOVA's at each width: its time is in proportion to them, and there are as many runs as widths."""


@dataclass(frozen=True)
class Drawn:
    """A figure as drawn: its caption, its note on n and intervals, and the picture without that note, as SVG."""

    caption: str
    note: str
    picture: bytes


@dataclass(frozen=True)
class Report:
    """A study's findings. `front` is its Pareto front with gains over the controls, `gains` has a row a width.

    `options` compares the options of the choice that shares the study's trials equally, and is empty where none does.
    `pulls` says how strongly each loss form pulls beside cross-entropy.
    `importance` is empty, with the reason in `no_importance`, where the study is too small for it; `knobs` says what
    else is known of the knobs. `drawn` are the figures by their stem; `files` are what was written, in order.
    `confirmed` is what fresh seeds and the test split say; `bits` says it of a language model, empty for other tasks.
    `searches` is what several searches of this study say, empty where there is one, and `planned` how they came to be.
    """

    folder: Path
    data: StudyData
    front: pd.DataFrame
    controls: pd.DataFrame
    gains: pd.DataFrame
    options: pd.DataFrame
    pulls: pd.DataFrame
    importance: pd.DataFrame
    no_importance: str
    knobs: Knobs
    confirmed: Confirmed
    bits: pd.DataFrame
    searches: pd.DataFrame
    planned: Planned
    drawn: Mapping[str, Drawn] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    def figure(self, stem: str, data: str = "") -> Iterator[Figure]:
        """The figure as a block, where it was drawn; `data` is the CSV with its numbers."""
        if found := self.drawn.get(stem):
            yield Figure(stem, found.caption, found.note, data)


def judge(study_dir: Path) -> Report:
    """Read a study and work out everything but the figures. Raises `FileNotFoundError` where there is none."""
    with threadpool_limits(limits=1, user_api="blas"):  # matrices are small: threads would wait for one another
        return _judged(study_dir)


def _judged(study_dir: Path) -> Report:
    data = load(study_dir)
    importance, reason = _importance(data)
    confirmed = judge_confirmed(study_dir, data)
    searches, plan = _searches(study_dir)
    return Report(
        folder=study_dir,
        data=data,
        front=with_gains(front(finished(data.trials)), data.trials, data.students),
        controls=best_by_width(data.trials, plain=True),
        gains=gains(data.trials, data.students),
        options=gains_by_option(data.trials, data.students, data.equal) if data.equal else pd.DataFrame(),
        pulls=pulls_by_form(data.trials, data.students),
        importance=importance,
        no_importance=reason,
        knobs=_knobs(data),
        confirmed=confirmed,
        bits=_bits(data, confirmed),
        searches=searches,
        planned=plan,
    )


def _bits(data: StudyData, confirmed: Confirmed) -> pd.DataFrame:
    if not data.characters_a_label or confirmed.trials.empty:
        return pd.DataFrame()
    looks = max(len(confirmed.looks), 1)
    return bits(
        confirmed.trials, confirmed.students, confirmed.losses, data.characters_a_label, looks, confirmed.num_planned
    )


def _searches(study_dir: Path) -> tuple[pd.DataFrame, Planned]:
    places = folders(study_dir)
    if len(places) < 2:
        return over_searches({}), Planned()
    found = {seed: differences(place) for seed, place in places.items()}
    plan = planned(places, [seed for seed, own in found.items() if own])
    return over_searches(found, plan), plan


def _importance(data: StudyData) -> tuple[pd.DataFrame, str]:
    """The table and "", or an empty one and why."""
    from harness.importances import importances  # Optuna takes a second to import

    try:
        return importance_table(data.trials, data.space, importances), ""
    except ValueError as error:
        return pd.DataFrame(index=pd.Index([], name="knob")), str(error)


def _knobs(data: StudyData) -> Knobs:
    from harness.importances import importances

    return judge_knobs(data.trials, data.space, functools.partial(importances, trees=TREES))
