"""A recommendation in words, as the program prints it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape

from harness.analysis.confirmed import BETTER, NOT_SHOWN, WORSE
from harness.analysis.load import StudyData
from harness.recommend.apart import AS_GOOD, MOST_SEEDS, Apart
from harness.recommend.choose import HALF, NEAR, SURE, Recommendation
from harness.report.tables import configuration, fresh_seeds, number, points, probability, resampled
from harness.report.unconfirmed import unconfirmed
from harness.space import TEACHER_KNOBS
from harness.spec import NONE, PLAIN

WITHOUT: Mapping[str, str] = {
    "ce": "it is plain training",
    "smoothing": "it is label smoothing, without a teacher",
    "self": "its teacher is a student of its own width",
}
"""What is said of a configuration that is a control."""
BESIDE: Mapping[str, str] = {
    NOT_SHOWN: "no difference is shown to the best distilled student of its width",
    BETTER: "the best distilled student of its width is shown to be better on test, though validation chose this",
    WORSE: "the best distilled student of its width is shown to be worse",
}
NONE_BESIDE = "no distilled student of its width was confirmed to compare it with"


def say(console: Console, found: Recommendation, data: StudyData) -> None:
    """Print a recommendation in words."""
    own, least = found.chosen, found.least

    def line(head: str, text: str, *, bold: bool = False) -> None:
        padded = f"{head:10}"
        console.print(f"{f'[b]{padded}[/]' if bold else padded} {text}", soft_wrap=True, highlight=False)

    sizes = f"{own['num_params']:,} parameters, {own['macs']:,} MACs{_speed(own)}"
    line("take", f"{configuration(own)}{_others(own, data)}: {sizes}", bold=True)
    interval = ": no interval" if pd.isna(own["test_low"]) else " [95%, over seeds and test examples]"
    line("test", f"{_percent(own)} over {fresh_seeds(own['num_seeds'])}{interval}")
    for weakness in weaknesses(found):
        line("weak", weakness, bold=True)
    if least is not None and found.p_reached >= HALF:
        line("", f"at least {100 * least:.2f}% on the test split in {probability(found.p_reached)} of resamples")
    if found.runner_up is None:
        line("best", f"nothing else that can be judged {'fits' if least is None else 'is as small'}")
    else:
        regret = f"expected regret {100 * found.expected_regret:.2f} points"
        sure = f"P(best) {probability(found.p_best)} among {found.num_fitting} confirmed that fit"
        line("best", f"{sure}; {regret}, over resamples of {resampled(own['num_seeds'])}")
    for row in found.left_out:
        line("left out", f"{configuration(row)} (trial {row['number']}): {row['why']}")
    for row in found.nearly:
        line("nearly", f"{configuration(row)}: {row['latency_ms']:.4g} ms, over the limit by less than {NEAR - 1:.0%}")
    for head, text in _control(found):
        line(head, text)
    if found.runner_up is not None:
        line("runner-up", f"{configuration(found.runner_up)}: {_percent(found.runner_up)}, "
             f"P(best) {probability(found.runner_up_p_best)}{_likelier(found)}")  # fmt: skip
    if lacks := unconfirmed(data).strip():
        line("lacks", f"{escape(lacks)} What is missing was not weighed here.", bold=True)


def weaknesses(found: Recommendation) -> Iterator[str]:
    """What speaks against the chosen as such."""
    if found.weakness:
        yield found.weakness
    if found.least is None or found.p_reached >= HALF:
        return
    said = f"at least {100 * found.least:.2f}% on the test split in {probability(found.p_reached)} of resamples only"
    if found.reaches is None:
        yield f"{said}; nothing that was confirmed and fits reaches it on validation and in half of them"
    else:
        yield (
            f"{said}; the smallest that reaches it on validation and, as the test split says, in half of them is "
            f"{configuration(found.reaches)}: to take it for that is to choose on the test split"
        )


def _control(found: Recommendation) -> Iterator[tuple[str, str]]:
    """What the chosen is against the controls of its width, each line with its head."""
    gain = found.against_plain
    if found.kind in WITHOUT:
        yield "control", f"{WITHOUT[found.kind]}: {escape(_beside(found))}"
    if gain is not None:
        head = "" if found.kind in WITHOUT else "control"
        yield head, f"over plain training of its width {escape(_gain(gain))}: {_said_of(found, gain)}"


def _likelier(found: Recommendation) -> str:
    """A warning where the test split favours another than validation chose."""
    if not found.runner_up_p_best > found.p_best:
        return ""
    return (
        ": [b]likelier the best on the test split than what validation chose[/]. To take it for that is to choose on "
        "the test split: its accuracy there would be too high"
    )


def _others(own: Mapping[str, Any], data: StudyData) -> str:
    """The knobs that `configuration` does not name and that the study, or a control, has searched, where they are
    set."""
    names = dict.fromkeys(("lr", *(["label_smoothing"] if own["role"] == "smoothing" else []), *data.space))
    plain = own["form"] == PLAIN
    kept = [
        name
        for name in names
        if name in own and name not in ("form", "alpha", "temperature", "width")
        and not pd.isna(own[name]) and own[name] != NONE
        and not (plain and name in TEACHER_KNOBS and name != "loss_scale")
    ]  # fmt: skip
    return "".join(f", {name.replace('_', ' ')} {number(own[name], 2)}" for name in kept)


def _beside(found: Recommendation) -> str:
    """What a control that is taken is against the best distilled student of its width."""
    over = found.distilled_over
    if over is None:
        return "it cannot be compared with a distilled one" if found.beside_distilled else NONE_BESIDE
    return f"{BESIDE[over['verdict']]} (which has {_gain(over)} over this)"


def _gain(row: Mapping[str, Any]) -> str:
    holm = "" if pd.isna(row["holm_p"]) else f", Holm p {row['holm_p']:.2g}"
    return f"{points(row['gain'], row['crossed_low'], row['crossed_high'])} points{holm}"


def _said_of(found: Recommendation, gain: Mapping[str, Any]) -> str:
    if pd.isna(gain["holm_p"]):
        return f"it cannot be told from it ({gain['warning']})"
    if not found.no_gain_shown:
        return str(gain["verdict"])
    if found.plain_is_as_good:
        return f"[b]plain training is as good[/], to within {100 * AS_GOOD:g} points"
    return "[b]no difference is shown[/]"


def next_step(found: Recommendation, looks: Sequence[int], command: str) -> str:
    """What would settle which of the first two is the better, by the report's rule; `looks` are those so far."""
    apart = found.apart
    if found.chosen["num_seeds"] < 2:
        return f"more seeds: one says nothing of how they differ: {command}"
    assert apart is not None
    better = "the choice" if apart.gain > 0 else "the runner-up"
    settled = "nothing between the first two:"
    if apart.is_shown:
        return f"{settled} {better} is shown to be the better ({_difference(apart)})"
    if apart.seeds_agree:
        return f"more seeds: these agree exactly, which says nothing of their spread: {command}"
    if max(found.p_best, found.runner_up_p_best) >= SURE and apart.row is None:
        likelier = "the choice" if found.p_best > found.runner_up_p_best else "the runner-up"
        return f"{settled} {likelier} has P(best) of at least {SURE:g}"
    if apart.either_will_do:
        return f"take either of the first two: they are as good, to within {100 * AS_GOOD:g} points"
    if apart.next_seeds == 0:
        return f"{settled} {better} is the better, and these seeds suffice to say so ({_difference(apart)})"
    if apart.next_seeds is None:
        return (
            f"a larger test split: up to {MOST_SEEDS:,} seeds would not show the difference of the first two, were it "
            f"as seen ({_difference(apart)})"
        )
    look, kind = len(looks) + 1, "one" if apart.row is not None else "the last"
    rows = f"; {kind} of {apart.num_rows} comparisons" if apart.num_rows > 1 else ""
    return (
        f"{apart.next_seeds} fresh seeds would show the difference of the first two with 80% power, were it as seen "
        f"({_difference(apart)}; look {look} at this test split, level 5% / {look**2}{rows}): {command}"
    )


def _difference(apart: Apart) -> str:
    return f"{points(apart.gain, apart.low, apart.high)} points"


def _percent(row: Mapping[str, Any]) -> str:
    interval = "" if pd.isna(row["test_low"]) else f" [{100 * row['test_low']:.2f}, {100 * row['test_high']:.2f}]"
    return f"{100 * row['test_accuracy']:.2f}%{interval}"


def _speed(row: Mapping[str, Any]) -> str:
    return "" if pd.isna(row["latency_ms"]) else f", {row['latency_ms']:.3g} ms, {row['size_kib']:.3g} KiB"
