"""Figures drawn by two processes: the same bytes as by one, and none lost with the second."""

from __future__ import annotations

import functools
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from harness.figures.style import blank
from harness.report import beside
from harness.report.build import write
from harness.report.drawings import drawings
from harness.report.findings import judge
from harness.report.rendering import Drawing, Rendered, rendered
from tests.fake_study import FakeStudy, write_fake_study

MOMENTS = 60.0


def of(number: int) -> Figure:
    """A figure whose note names the process that drew it."""
    time.sleep(0.1)
    figure = blank(1.0, f"{number} by {os.getpid()}")
    figure.add_subplot()
    return figure


def deadly(number: int, home: int) -> Figure:
    """One that its process does not survive, but for the report's own."""
    if os.getpid() != home:
        os._exit(1)
    return of(number)


def loud(number: int) -> Figure:
    """One that prints, as a library may, something that could be an answer."""
    sys.stdout.write("N.")
    sys.stdout.flush()
    return of(number)


def faulty() -> Figure:
    raise ZeroDivisionError("a figure's own fault")


def notes(found: list[tuple[Drawing, Rendered]]) -> list[str]:
    return [drawn.note for _, (_, drawn) in found]


def ready(helper: subprocess.Popen[bytes] | None) -> subprocess.Popen[bytes]:
    assert helper is not None and helper.stdout is not None
    assert select.select([helper.stdout], [], [], MOMENTS)[0]
    return helper


def test_both_processes_draw_the_same_bytes_and_keep_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = judge(write_fake_study(tmp_path, FakeStudy(trials=12, controls=2)))
    parts, drawn_here = [*drawings(report)][-2:], list[str]()

    def noted(drawing: Drawing) -> Rendered:
        drawn_here.append(drawing.stem)
        return rendered(drawing)

    monkeypatch.setattr(beside, "rendered", noted)
    # This process draws the first few while the second draws the last one and then a report's.
    *first, last = (Drawing("", "", functools.partial(of, n)) for n in range(7))
    with beside.helper(True) as helper:
        found = beside.render([*first, *parts, last], ready(helper))
    assert [drawing for drawing, _ in found] == [*first, *parts, last]
    assert [made for _, made in found[-3:-1]] == [rendered(drawing) for drawing in parts]
    by_place = [note.split(" by ") for note in notes([*found[:6], found[-1]])]
    assert [number for number, _ in by_place] == list("0123456")
    assert by_place[0][1] == str(os.getpid()) != by_place[-1][1]
    assert parts[-1].stem not in drawn_here


def test_a_report_is_drawn_by_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def render(_: object, helper: object) -> list[tuple[Drawing, Rendered]]:
        given.append(helper)
        return []

    monkeypatch.setattr(beside, "render", render)
    monkeypatch.setattr(beside, "cores", lambda: 2)
    monkeypatch.delenv("HARNESS_FIGURES", raising=False)
    folder = write_fake_study(tmp_path, FakeStudy(trials=0, controls=0, teacher=False))
    write(folder)
    monkeypatch.setenv("HARNESS_FIGURES", "none")
    write(folder)
    [helper] = given
    assert isinstance(helper, subprocess.Popen) and helper.poll() is not None


STUCK = "import pickle, sys, time; pickle.dump('ready', sys.stdout.buffer); sys.stdout.flush(); time.sleep(60)"


@pytest.mark.parametrize(
    "program",
    [["sleep", "60"], ["true"], ["echo", "no pickle"], ["echo", "-n", "N."], [sys.executable, "-c", STUCK]],
    ids=["never ready", "gone", "prints", "prints a pickle", "stuck"],
)
def test_a_second_process_that_is_of_no_use_costs_no_figure(
    program: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside, "PATIENCE", 0.1)
    helper = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert len(beside.render([Drawing("", "", functools.partial(of, n)) for n in range(4)], helper)) == 4
    finally:
        helper.kill()
        helper.communicate()


def test_what_the_second_process_dies_of_is_drawn_here_and_says_here_why_it_cannot_be() -> None:
    own = [Drawing("", "", functools.partial(deadly, n, os.getpid())) for n in range(4)]
    with beside.helper(True) as helper:
        found = notes(beside.render(own, ready(helper)))
        assert ready(helper).wait(MOMENTS) == 1
        with pytest.raises(ZeroDivisionError, match="own fault"):
            beside.render([own[0], Drawing("", "", faulty)], helper)
    assert found == [f"{n} by {os.getpid()}" for n in range(4)]


def test_without_a_thread_to_spare_all_is_drawn_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with beside.helper(True) as helper:
        monkeypatch.setattr(threading.Thread, "start", start)
        found = notes(beside.render([Drawing("", "", functools.partial(of, 0))], helper))
        monkeypatch.undo()
    assert found == [f"0 by {os.getpid()}"]


def test_what_a_figure_prints_is_no_answer() -> None:
    own = [Drawing("", "", functools.partial(loud, n)) for n in range(4)]
    with beside.helper(True) as helper:
        found = notes(beside.render(own, ready(helper)))
    assert len({note.split(" by ")[1] for note in found}) == 2


def test_on_one_core_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "cores", lambda: 1)
    with beside.helper(True) as helper:
        assert helper is None
    with beside.helper(False) as helper:
        assert helper is None
