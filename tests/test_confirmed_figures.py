"""Figures of what was confirmed: what lies off the axis is read there, and greyscale tells apart what colour does."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import CARETDOWN
from matplotlib.text import Annotation

from harness import figures
from harness.analysis.latency import FILE
from harness.figures import style
from harness.files import write_sealed
from harness.report.drawings import drawings
from harness.report.findings import judge
from tests.fake_study import FakeStudy, write_fake_study

pytestmark = pytest.mark.usefixtures("_figures")

ROLES = ("ce", "smoothing", "self", "shuffled")


def trials(accuracy: Sequence[float], widths: Sequence[int] = (2, 4, 8)) -> pd.DataFrame:
    """Confirmed trials of these accuracies, the distilled first, the same at each width."""
    table = pd.DataFrame([(w, r, a) for w in widths for r, a in zip(("distilled", *ROLES), accuracy, strict=True)],
                         columns=["width", "role", "test_accuracy"])  # fmt: skip
    low, high = table["test_accuracy"] - 0.01, table["test_accuracy"] + 0.01
    return table.assign(number=range(len(table)), num_params=100 * table["width"], form="kl", num_seeds=10,
                        test_low=low, test_high=high)  # fmt: skip


def comparisons(gains: Sequence[float]) -> pd.DataFrame:
    table = pd.DataFrame([(w, r, g) for w in (2, 4, 8) for r, g in zip(ROLES, gains, strict=True)],
                         columns=["width", "control", "gain"])  # fmt: skip
    low, high = table["gain"] - 0.005, table["gain"] + 0.005
    return table.assign(low=low, high=high, crossed_low=low, crossed_high=high, mde=0.01, num_seeds=10,
                        verdict="better")  # fmt: skip


def drawn(figure: Figure) -> Axes:
    figure.draw_without_rendering()
    return figure.axes[0]


def arrows(axes: Axes) -> list[str]:
    """The labels of what is off the axis; no two of them may overlap."""
    found = [text for text in axes.texts if text.get_text()[:1] in ("↑", "↓")]
    boxes = [text.get_window_extent() for text in found]
    assert not any(first.overlaps(second) for first, second in itertools.combinations(boxes, 2))
    return [text.get_text() for text in found]


def test_what_is_off_the_axis_has_its_own_mark_and_a_label_that_can_be_read() -> None:
    with figures.paper():
        axes = drawn(figures.confirmed_accuracy(trials([0.9, 0.88, 0.582, 0.371, 0.2]), ["kl"], 0.95))
        assert arrows(axes) == ["↓58"] * 3 + ["↓37"] * 3 + ["↓20"] * 3
        marks = [line.get_marker() for line in axes.lines if line.get_marker() not in ("None", "o")]
        assert marks == ["s"] * 3 + ["^"] * 3 + ["D"] * 3
        axes = drawn(figures.confirmed_gain(comparisons([0.01, -0.01, 0.4, 0.5])))
        assert sorted(set(arrows(axes))) == ["↑+40.0", "↑+50.0"]
        assert {line.get_marker() for line in axes.lines} <= {"None", "o", "s", "^", "D"}
        bars = [line.get_ydata() for line in axes.lines if line.get_linewidth() in (0.7, 2.0)]
        wide = comparisons([0.01, -0.01, 0.012, 0.011])
        wide.loc[wide["control"] == "smoothing", ["crossed_low", "crossed_high"]] = -0.9, 0.02
        ends: list[Any] = [line.get_marker() for line in drawn(figures.confirmed_gain(wide)).lines]
        assert ends.count(CARETDOWN) == 3  # an interval that is cut says so
        beyond = max(abs(text.xy[1]) for text in axes.texts if isinstance(text, Annotation))
        assert max(float(np.abs(np.asarray(ends)).max()) for ends in bars) < beyond


def test_the_front_of_the_distilled_is_a_step_that_never_falls() -> None:
    table = trials([0.9, 0.88, 0.87, 0.87, 0.86])
    table.loc[table["role"] == "distilled", "test_accuracy"] = [0.9, 0.8, 0.95]
    with figures.paper():
        axes = drawn(figures.confirmed_accuracy(table, ["kl"], None))
    line = next(line for line in axes.lines if line.get_color() == style.MUTED and len(line.get_xdata()) > 2)  # type: ignore[arg-type]
    assert np.asarray(line.get_ydata()).tolist() == [0.9, 0.9, 0.95, 0.95]


def test_loss_forms_have_marks_of_their_own() -> None:
    marks = style.form_markers([f"form{place}" for place in range(12)])
    assert len(set(marks.values())) == 12 and marks["form10"] == marks["form11"] == style.REST


def test_accuracy_stands_against_latency_where_it_was_measured(tmp_path: Path) -> None:
    folder = write_fake_study(tmp_path, FakeStudy(trials=12, controls=2))
    assert "accuracy_latency" not in [drawing.stem for drawing in drawings(judge(folder))]
    rows = {str(width): {"size_bytes": 1, "timings": [{"batch": 1, "p50_ms": ms, "p95_ms": 1}]}
            for width, ms in ((2, 0.1), (4, 0.104), (8, 0.102))}  # fmt: skip
    write_sealed(folder / FILE, {"widths": rows})
    found = {drawing.stem: drawing for drawing in drawings(judge(folder))}
    with figures.paper():
        axes = drawn(found["accuracy_latency"].draw())
    assert axes.get_xscale() == "linear" and "milliseconds" in axes.get_xlabel()
    assert {text.get_text() for text in axes.texts} >= {"width 2", "4", "8", "teacher: 98.1%"}
