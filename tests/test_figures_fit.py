"""Every figure of a study of many widths, forms and classes, and a long name: no text is cut or lies on another."""

from __future__ import annotations

import functools
import io
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from harness import figures
from harness.analysis.calibration import named
from harness.analysis.compare import gains, gains_by_option
from harness.analysis.confirmed import CONTROLS, NOT_SHOWN
from harness.analysis.indifference import indifference
from harness.analysis.load import MOMENTS, rows_of
from harness.analysis.pareto import front
from harness.analysis.searches import over_searches
from harness.figures import fitting, style
from harness.figures.confirmed import gain_limits
from harness.spec import PLAIN
from tests.knob_trials import finished_trials, knob_trials

pytestmark = pytest.mark.usefixtures("_figures")

WIDTHS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 32)
LONG = "my_confident_weighted_kl2"
FORMS = ("kl", LONG, "soft_ce", "dkd", "dist", "logit_standard", "centred_mse", "squared_norm")
ROLES = ("distilled", *CONTROLS)
BUDGETS = (900, 1000, 1500, 3000, 5000)
TEACHERS = (figures.Teacher(0.99, 115_114), figures.Teacher(0.9, 115_114))
"""One above all students, and one below some."""


def searched() -> pd.DataFrame:
    """Trials of all forms and widths, and plain ones."""
    trials = knob_trials(300, forms=FORMS, widths=WIDTHS)
    trials["temperature"] = np.where(trials["form"] == "dist", np.nan, 1 + 19 * trials["alpha"])
    plain = pd.DataFrame({"width": np.repeat(WIDTHS, 4), "form": PLAIN, "arm": "control", "lr": 0.01})
    plain = plain.assign(number=1000 + np.arange(len(plain)), alpha=np.nan, temperature=np.nan)
    plain = finished_trials(plain.assign(val_accuracy=0.95 - 0.12 * (2 / plain["width"]) ** 1.4))
    table = pd.concat([trials, plain], ignore_index=True)
    latency = 0.0575 + 1e-5 * (table["width"] * 7 % 12)
    train = (table["val_accuracy"] + 0.02).clip(upper=1)
    return table.assign(val_agreement=table["val_accuracy"], train_accuracy=train, latency_ms=latency,
                        latency_p95_ms=latency + 0.01)  # fmt: skip


TRIALS = searched()
STUDENTS = pd.DataFrame(
    [{"number": row["number"], "seed": seed, "val_accuracy": row["val_accuracy"] + 0.001 * (seed + row["number"] % 5)}
     for row in rows_of(TRIALS) for seed in range(2)]
)  # fmt: skip


def curves() -> pd.DataFrame:
    rows = [
        {"number": row["number"], "epoch": epoch, "val_accuracy": row["val_accuracy"] * (1 - 0.5**epoch),
         "train_ce": 3 / epoch, "train_kd": np.nan if row["form"] == PLAIN else 30 / epoch}
        for row in rows_of(front(TRIALS)) for epoch in range(1, 7)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def confirmed() -> pd.DataFrame:
    """Each width's student and controls; two of these far below."""
    rows = [
        {"width": width, "role": role, "test_accuracy": 0.96 - 0.3 / width - (0.01, 0.02, 0.015, 0.3, 0.4)[place],
         "form": FORMS[index % len(FORMS)]}
        for index, width in enumerate(WIDTHS) for place, role in enumerate((ROLES[0], *ROLES[1:]))
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    accuracy, size = table["test_accuracy"], 400 * table["width"]
    return table.assign(number=range(len(table)), num_params=size, num_seeds=10, test_low=accuracy - 0.02,
                        test_high=accuracy + 0.02, bits=4 - 2 * accuracy, bits_sd=0.01)  # fmt: skip


def compared() -> pd.DataFrame:
    rows = [(width, control, (0.004, -0.004, 0.3, 0.422)[place] - (width == 7))
            for width in WIDTHS for place, control in enumerate(CONTROLS)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["width", "control", "gain"])
    low, high = table["gain"] - 0.005, table["gain"] + 0.005
    return table.assign(low=low, high=high, crossed_low=low, crossed_high=high, mde=0.01, num_seeds=10,
                        verdict=NOT_SHOWN)  # fmt: skip


def options() -> pd.DataFrame:
    """The chosen form less every other, at each width."""
    rows = [{"width": width, "option": form, "chosen": LONG, "gain": 0.01 * place + 0.3 * (place == 6)}
            for width in WIDTHS for place, form in enumerate(FORMS) if form != LONG]  # fmt: skip
    table = pd.DataFrame(rows)
    low, high = table["gain"] - 0.02, table["gain"] + 0.02
    return table.assign(low=low, high=high, crossed_low=low, crossed_high=high, mde=0.01, num_seeds=10,
                        verdict=NOT_SHOWN)  # fmt: skip


def audit() -> pd.DataFrame:
    over = 0.001 * np.arange(len(WIDTHS))
    return pd.DataFrame({
        "width": WIDTHS, "honest": 0.9, "by_test_last_epoch": 0.9 + over, "by_test_best_epoch": 0.901 + over,
        "by_test_best_seed": 0.93 + 10 * over,
    })  # fmt: skip


def reliability() -> pd.DataFrame:
    rows = [{"width": width, "role": role, "mean_confidence": place / 15, "accuracy": place / 16, "count": 100,
             "ece": 0.123, "num_diverged": 1}
            for width in WIDTHS for role in ("distilled", "ce") for place in range(1, 15)]  # fmt: skip
    return pd.DataFrame(rows)


def classes(count: int) -> pd.DataFrame:
    rows = [(width, label, 0.3 * np.sin(width + label)) for width in WIDTHS for label in range(count)]
    return pd.DataFrame(rows, columns=["width", "label", "gain"]).assign(num_seeds=3, holm_p=0.2)


def pulls() -> pd.DataFrame:
    table = pd.DataFrame({"form": FORMS, "num_students": 30})
    for place, moment in enumerate(MOMENTS):
        table[f"kd_ratio_{moment}"] = 0.1 * 2.0 ** (np.arange(len(FORMS)) + place)
        table[f"kd_cosine_{moment}"] = np.linspace(-1, 1, len(FORMS)) / (place + 1)
    return table


def surfaces() -> tuple[pd.DataFrame, pd.DataFrame]:
    """A surface a form, and what was judged of each, and of form and width."""
    grid = itertools.product(FORMS, np.linspace(0, 1, 9), np.geomspace(1, 20, 9))
    table = pd.DataFrame(list(grid), columns=["form", "alpha", "temperature"])
    judged = pd.DataFrame([("alpha x temperature", form) for form in FORMS] + [("form x width", "")],
                          columns=["pair", "form"])  # fmt: skip
    values = 10 * (table["alpha"] - 0.4)
    judged = judged.assign(r_squared=-0.12, holm_p=0.0123, num_trials=123, of=123)
    return table.assign(value=values, centre="control"), judged


def cells(spread: float) -> pd.DataFrame:
    """A surrogate's form by width, alike at each width where `spread` is 0."""
    rows = [(form, width, 3 * place - 12 + spread * width, width % 3)
            for place, form in enumerate(FORMS) for width in WIDTHS]  # fmt: skip
    return pd.DataFrame(rows, columns=["form", "width", "value", "num_trials"])


def importance_by_width() -> pd.DataFrame:
    rows = [(width, knob, 0.2, 0.2, 25, 25) for width in WIDTHS for knob in ("form", "alpha", "temperature", "lr")]
    return pd.DataFrame(rows, columns=["width", "knob", "fANOVA", "PED-ANOVA", "num_trials", "of"])


def importance() -> pd.DataFrame:
    knobs = ["lr", "weight_decay", "temperature", "alpha", "form", "warmup_epochs"]
    return pd.DataFrame({"fANOVA": 0.2, "PED-ANOVA": [np.nan, 0.5, 0.2, 0.1, 0.1, 0.1]}, index=knobs)


def searches(widths: Sequence[int], far: float) -> pd.DataFrame:
    """Five searches, the first of them so `far` from the others."""
    rng = np.random.default_rng(0)
    pairs = list(itertools.product(widths, CONTROLS))
    found = {seed: {pair: rng.normal(0.02 + far * (seed == 0), 0.05, 40) for pair in pairs} for seed in range(5)}
    return over_searches(found)


def growth() -> pd.DataFrame:
    return pd.DataFrame(
        {"count": range(1, 101), "elapsed": np.linspace(10, 9000, 100), "hypervolume": np.linspace(0.1, 2, 100)}
    )


def accuracy(size: str, teacher: figures.Teacher) -> Figure:
    return figures.accuracy_against_size(
        TRIALS, STUDENTS, FORMS, size, teacher, BUDGETS if size == "num_params" else ()
    )


CASES: Mapping[str, Callable[[], Figure]] = {
    "accuracy_against_size": lambda: accuracy("num_params", TEACHERS[0]),
    "accuracy_against_size, a poor teacher": lambda: accuracy("num_params", TEACHERS[1]),
    "accuracy_against_size, latency": lambda: accuracy("latency_ms", figures.Teacher(0.99, math.nan)),
    "alpha_temperature": lambda: figures.alpha_temperature(TRIALS, FORMS),
    "best_by_width": lambda: figures.best_by_width(indifference(TRIALS), TRIALS, FORMS),
    "bits_against_size": lambda: figures.bits_against_size(confirmed()),
    "class_gain": lambda: figures.class_gain(classes(30)),
    "class_gain, ten classes": lambda: figures.class_gain(classes(10)),
    "class_gain, ten short names": lambda: figures.class_gain(named(classes(10), [*"abcdefghij"])),
    "class_gain, long names": lambda: figures.class_gain(named(classes(30), [f"{LONG}, {n}" for n in range(30)])),
    "confirmed_accuracy": lambda: figures.confirmed_accuracy(confirmed(), FORMS, 0.97, BUDGETS),
    "confirmed_accuracy, three widths": lambda: figures.confirmed_accuracy(
        confirmed().query("width in (2, 6, 32)"), FORMS, 0.97, BUDGETS
    ),
    "confirmed_gain": lambda: figures.confirmed_gain(compared()),
    "expected_best_of": lambda: figures.expected_best_of(
        pd.DataFrame({"k": range(1, 51), "expected": 0.9, "low": 0.89, "high": 0.91})
    ),
    "fidelity_against_accuracy": lambda: figures.fidelity_against_accuracy(TRIALS, FORMS),
    "fit_panel": lambda: figures.fit_panel(TRIALS),
    "form_by_width": lambda: figures.form_by_width(cells(0.1), surfaces()[1]),
    "form_by_width, alike": lambda: figures.form_by_width(cells(0.0), surfaces()[1]),
    "gain_by_option": lambda: figures.gain_by_option(gains_by_option(TRIALS, STUDENTS, "form"), "form"),
    "gain_by_width": lambda: figures.gain_by_width(gains(TRIALS, STUDENTS), TRIALS, FORMS),
    "hypervolume_growth": lambda: figures.hypervolume_growth(growth(), growth(), 1.0, (0.1, 115_114.0)),
    "importance_bars": lambda: figures.importance_bars(importance(), 300),
    "importance_by_width": lambda: figures.importance_by_width(importance_by_width()),
    "learning_curves": lambda: figures.learning_curves(curves(), front(TRIALS), FORMS),
    "options_compared": lambda: figures.options_compared(options(), "form"),
    "pull_by_form": lambda: figures.pull_by_form(pulls()),
    "reliability_diagram": lambda: figures.reliability_diagram(reliability()),
    "searches_gain": lambda: figures.searches_gain(searches(WIDTHS, 0.4)),
    "searches_gain, three widths": lambda: figures.searches_gain(searches((2, 4, 6), -0.4)),
    "selection_audit": lambda: figures.selection_audit(audit()),
    "surrogate_surfaces": lambda: figures.surrogate_surfaces(*surfaces(), TRIALS),
}


def drawn(figure: Figure, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Text, Bbox]]:
    """Every text that is drawn, tick labels within their axes included, and its box in pixels."""
    found: list[Text] = []
    draw = Text.draw

    @functools.wraps(draw)
    def noted(text: Text, *args: object) -> None:
        if text.get_visible() and text.get_text().strip() and text.get_in_layout():  # a contour's labels follow it
            found.append(text)
        draw(text, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Text, "draw", noted)
        figure.draw_without_rendering()
    return [(text, Text.get_window_extent(text)) for text in found]  # without an annotation's arrow


def faults(figure: Figure, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What is cut, and what lies on what; labels that are askew by the same angle are taken to be apart."""
    texts, edge = drawn(figure, monkeypatch), figure.bbox.padded(0.5)
    for text, box in texts:
        if not (edge.contains(box.x0, box.y0) and edge.contains(box.x1, box.y1)):
            yield f"{text.get_text()!r} is cut"
    for (one, box), (other, beside) in itertools.combinations(texts, 2):
        askew = one.get_rotation() % 90 and one.get_rotation() == other.get_rotation()
        if not askew and box.padded(-1).overlaps(beside.padded(-1)):
            yield f"{one.get_text()!r} lies on {other.get_text()!r}"


@pytest.mark.parametrize("name", CASES)
def test_no_text_is_cut_or_lies_on_another(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with figures.paper():
        figure = CASES[name]()
        assert list(faults(figure, monkeypatch)) == []
        assert figure.get_figwidth() == style.COLUMN


def test_every_figure_is_among_the_cases() -> None:
    drawing = {name for name in figures.__all__ if callable(getattr(figures, name))}
    assert {name.split(",")[0] for name in CASES} == drawing - {"Teacher", "note_of", "paper", "without_note"}


def test_a_long_name_keeps_its_beginning_and_its_end() -> None:
    assert fitting.name("logit_standard") == "logit_standard"
    assert fitting.name(LONG) == "my_confi…d_kl2" and len(fitting.name("a" * 80)) == fitting.LONGEST


def test_labels_that_touch_stand_in_rows_of_their_own() -> None:
    assert fitting.stacked([10, 1, 2, 6], [4, 4, 4, 4]) == [0, 0, 1, 0]
    assert fitting.stacked([], []) == []


def test_an_interval_that_claims_a_difference_is_shown_whole_and_an_empty_side_is_short() -> None:
    table = compared().query("width in (2, 4) and control == 'ce'").assign(mde=0.002)
    table.loc[table["width"] == 4, ["gain", "low", "high", "crossed_low", "crossed_high"]] = (
        0.09,
        0.05,
        0.13,
        0.04,
        0.14,
    )
    table["verdict"] = [NOT_SHOWN, "better"]
    low, high = gain_limits(table)
    assert high > 14 and -0.3 * high < low < 0
    low, high = gain_limits(table.assign(**{name: -table[name] for name in ("gain", "low", "crossed_low")},
                                         high=-table["low"], crossed_high=-table["crossed_low"]))  # fmt: skip
    assert low < 0 < high


@pytest.mark.parametrize(("answered", "reason"), [(True, "No width has both"), (False, "is not on disk")])
def test_a_figure_of_no_classes_says_whether_answers_or_only_a_control_lack(answered: bool, reason: str) -> None:
    figure = figures.class_gain(pd.DataFrame(), answered=answered)
    assert reason in figure.axes[0].texts[0].get_text().replace("\n", " ")


def test_a_class_is_called_as_it_is_even_where_its_name_looks_like_a_formula() -> None:
    names = ["$a_$", "$5 to $10", "c"]
    figure = figures.class_gain(named(classes(3), names))
    figure.savefig(io.BytesIO(), format="svg")  # a formula that is none would raise
    ticks = figure.axes[0].get_xticklabels()
    assert [tick.get_text() for tick in ticks] == names and not any(tick.get_parse_math() for tick in ticks)


def test_panels_that_are_compared_share_their_axes() -> None:
    near = TRIALS[(TRIALS["form"] != "kl") | TRIALS["alpha"].between(0.4, 0.5)]  # kl in a corner
    panels = [axes for axes in figures.alpha_temperature(near, FORMS).axes if axes.get_ylabel()]
    heated = [axes for axes in panels if axes.get_ylabel() == "temperature"]
    assert len(heated) > 2 and {axes.get_ylim() for axes in heated} == {heated[0].get_ylim()}
    assert len(panels) > len(heated) and {axes.get_xlim() for axes in panels} == {(0.0, 1.0)}
    assert {axes.get_ylabel() for axes in panels} == {"temperature", "gain (points)"}
