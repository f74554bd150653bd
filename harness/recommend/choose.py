"""The recommendation within limits: what validation chose among the confirmed, what the test split says of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from harness.analysis.confirmed import CONTROLS, DISTILLED, NOT_SHOWN
from harness.analysis.judged import ELIGIBLE, Confirmed, against_plain, eligible, ranked, weakness
from harness.analysis.load import StudyData, rows_of
from harness.analysis.two_level import runner_up
from harness.recommend.apart import AS_GOOD, Apart, apart
from harness.spec import PLAIN

LIMITS: Mapping[str, tuple[str, str]] = {
    "num_params": ("--max-params", "parameters"),
    "macs": ("--max-macs", "multiply-accumulates"),
    "latency_ms": ("--max-latency-ms", "ms at batch 1"),
    "size_kib": ("--max-kib", "KiB"),
}
"""Which column each limit is on, its option, and its unit."""
SURE = 0.95
HALF = 0.5
"""Of resamples in which a wanted accuracy is reached: in fewer the configuration is not said to reach it."""
NEAR = 1.05
"""Times a limit in milliseconds: what is over the limit by less is named."""


@dataclass(frozen=True)
class Recommendation:
    """The row of the configuration to take, of `harness.analysis.judged.Confirmed.trials`, and the runner-up's: of the
    others the likeliest to be the best on the test split.

    `p_best`, `runner_up_p_best` and `expected_regret` (a fraction) are among the `num_fitting` confirmed
    configurations within the limits. `least` is the val accuracy that was asked for; `p_reached` the share of
    draws in which its test accuracy reaches it, NaN where none was; `reaches` the row of the smallest that does
    in half of them and on validation, None where none does. `against_plain` is its row of comparisons with plain
    training, `apart` how it differs from the runner-up. `nearly` are the rows of those that it would rather take
    and that miss a limit in milliseconds by little. `left_out` are the rows of those that fit but cannot be
    judged, each with its `why`. `distilled_over` is, of a control that is taken, the row of comparisons of the
    best distilled student of its width with it, None where there is none; `beside_distilled` says that one was
    confirmed. `weakness` is what speaks against the chosen as such.
    """

    chosen: Mapping[str, Any]
    runner_up: Mapping[str, Any] | None
    num_fitting: int
    p_best: float
    runner_up_p_best: float
    expected_regret: float
    least: float | None
    p_reached: float
    reaches: Mapping[str, Any] | None
    against_plain: Mapping[str, Any] | None
    apart: Apart | None
    distilled_over: Mapping[str, Any] | None
    beside_distilled: bool
    weakness: str = ""
    left_out: Sequence[Mapping[str, Any]] = ()
    nearly: Sequence[Mapping[str, Any]] = ()

    @property
    def kind(self) -> str:
        """How it was trained: `"distilled"`, or the name of a control, `"ce"` being plain training."""
        if self.chosen["role"] in CONTROLS:
            return str(self.chosen["role"])
        return PLAIN if self.chosen["form"] == PLAIN else DISTILLED

    @property
    def no_gain_shown(self) -> bool:
        """Whether it is not plain training, and no difference from that of its width is shown."""
        return self.against_plain is not None and self.against_plain["verdict"] == NOT_SHOWN

    @property
    def plain_is_as_good(self) -> bool:
        """Whether plain training of its width is shown to be as good to within `AS_GOOD`: the 95% interval of what it
        gains over that ends below."""
        return self.against_plain is not None and bool(self.against_plain["crossed_high"] < AS_GOOD)


def recommend(
    study_dir: Path, data: StudyData, confirmed: Confirmed, limits: Mapping[str, float], least: float | None
) -> Recommendation:
    """The best on validation within the limits, or with `least`, an accuracy, the smallest that reaches it there.

    Raises `ValueError` in one line where nothing was confirmed, measured or fits.
    """
    trials = eligible(confirmed.trials, confirmed.draws).set_index("number", drop=False)
    if trials.empty and confirmed.left_out:
        number, why = next(iter(confirmed.left_out.items()))
        raise ValueError(
            f"none of the {len(confirmed.left_out)} confirmed configurations can be judged (trial {number}: {why}); "
            "run the study's sweep again"
        )
    if trials.empty:
        raise ValueError(
            "no configuration was confirmed, so nothing can be recommended; run its sweep to the end, without "
            "--no-confirm (and where every trial diverged, with a lower lr)"
        )
    fitting = trials
    for column, limit in limits.items():
        option, unit = LIMITS[column]
        if fitting[column].isna().any():
            raise ValueError(f"{option}: {column} was not measured; run the study's sweep again, which measures it")
        smallest = float(fitting[column].min())
        fitting = fitting[fitting[column] <= limit]
        if fitting.empty:
            raise ValueError(
                f"{option} {limit:g} is too small; the smallest that was confirmed has {smallest:g} {unit}"
            )
    sizes = {int(row["number"]): float(row["num_params"]) for row in rows_of(fitting)}
    table, largest = ranked(confirmed, sizes, math.inf), math.inf
    if least is not None:
        reached = table[table["val_accuracy"] >= least]
        if reached.empty:
            raise ValueError(
                f"--min-accuracy {least:g} is not reached; the best on validation has {table['val_accuracy'].max():.4f}"
            )
        first = reached.sort_values(["size", "val_accuracy"], ascending=[True, False], kind="stable")
        largest = float(first["size"].iloc[0])
        table = ranked(confirmed, sizes, largest)
    number, other = int(table.index[0]), runner_up(table["p_best"])
    chosen = _row(trials, number)
    return Recommendation(
        chosen=chosen,
        runner_up=None if other is None else _row(trials, other),
        num_fitting=len(table),
        p_best=float(table["p_best"].iloc[0]),
        runner_up_p_best=math.nan if other is None else float(table["p_best"].loc[other]),
        expected_regret=float(table["expected_regret"].iloc[0]),
        least=least,
        p_reached=math.nan if least is None else float((confirmed.draws[number] >= least).mean()),
        reaches=None if least is None else _reaches(confirmed, fitting, least),
        against_plain=against_plain(confirmed, number),
        apart=None if other is None else apart(study_dir, data, confirmed, (number, other)),
        distilled_over=_distilled_over(confirmed, number),
        beside_distilled=chosen["width"] in _distilled_widths(confirmed),
        weakness=weakness(confirmed, chosen),
        left_out=_left_out(confirmed, {**limits, "num_params": min(limits.get("num_params", math.inf), largest)}),
        nearly=_nearly(trials, limits, chosen, least),
    )


def _reaches(confirmed: Confirmed, fitting: pd.DataFrame, least: float) -> Mapping[str, Any] | None:
    """The row of the smallest configuration that reaches an accuracy on validation, and on the test split in half of
    the draws; of equals the best on validation."""
    kept = fitting[fitting["val_accuracy"] >= least]
    half = [number for number in kept.index if (confirmed.draws[number] >= least).mean() >= HALF]
    found = rows_of(kept.loc[half].sort_values(["num_params", "val_accuracy"], ascending=[True, False], kind="stable"))
    return found[0] if found else None


def _nearly(
    trials: pd.DataFrame, limits: Mapping[str, float], chosen: Mapping[str, Any], least: float | None
) -> Sequence[Mapping[str, Any]]:
    """The rows, the best one on validation of each width, of what would fit but for some hundredths of the milliseconds
    that are allowed, and is better there than the chosen, or smaller where an accuracy was asked for and is reached."""
    if (limit := limits.get("latency_ms")) is None:
        return []
    within = trials
    for column, other in limits.items():
        within = within[within[column] <= (NEAR if column == "latency_ms" else 1) * other]
    over = within[within["latency_ms"] > limit]
    if least is None:
        better = over[over["val_accuracy"] > chosen["val_accuracy"]]
    else:
        better = over[(over["val_accuracy"] >= least) & (over["num_params"] < chosen["num_params"])]
    return rows_of(better.sort_values("val_accuracy", ascending=False, kind="stable").drop_duplicates("width"))


def _left_out(confirmed: Confirmed, limits: Mapping[str, float]) -> list[Mapping[str, Any]]:
    """The rows of what might be recommended within the limits, were it judged, with `why` it is not."""
    every = confirmed.trials
    kept = every[every["role"].isin(ELIGIBLE) & every["number"].isin(confirmed.left_out)].drop_duplicates("number")
    for column, limit in limits.items():
        kept = kept[kept[column] <= limit]
    return [{**row, "why": confirmed.left_out[row["number"]]} for row in rows_of(kept)]


def _row(trials: pd.DataFrame, number: int) -> Mapping[str, Any]:
    return rows_of(trials.loc[[number]])[0]


def _distilled_widths(confirmed: Confirmed) -> set[int]:
    every = confirmed.trials
    return set(every.loc[~every["role"].isin(CONTROLS) & (every["form"] != PLAIN), "width"])


def _distilled_over(confirmed: Confirmed, number: int) -> Mapping[str, Any] | None:
    rows = rows_of(confirmed.comparisons[confirmed.comparisons["control_number"] == number])
    return rows[0] if rows else None
