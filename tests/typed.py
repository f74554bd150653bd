"""A small study in a file of its own, and the program of sweeps as it is typed."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pytest

from harness import cli, sweep
from tests.inline import jobs_here

STUDY = """
from harness.space import Choice, Float, Study
STUDY = Study(
    task="digits",
    family="mlp",
    space={
        "width": Choice(4, 8),
        "form": Choice("kl", "mse"),
        "alpha": Float(0.0, 1.0),
        "temperature": Float(1.0, 10.0, when={"form": ("kl",)}),
        "lr": Float(1e-3, 1e-1, log=True),
    },
    fixed={"epochs": 6},
    trials=10,
    seeds=2,
    batch=4,
    other_controls=(),
    confirm=0,
)
"""
EPOCHS = 6
TOTAL = 10 + 2 * 5


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "harness.sweep", *map(str, arguments)]


def typed(arguments: Sequence[object], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of a sweep that is typed so, in this process."""
    monkeypatch.setattr(sys, "argv", ["harness.sweep", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop, jobs_here():
        cli.run(sweep.app)
    assert isinstance(stop.value.code, int)
    return stop.value.code


def refused(arguments: Sequence[object], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The one line of a sweep that is refused with exit code 2."""
    assert typed(arguments, monkeypatch) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    return line
