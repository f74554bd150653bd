"""Work beside the sweep's own: what comes of it, and that the program's end does not wait for it."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import Future

import pytest

from harness import course, errands
from harness.aside import aside
from harness.stopping import TimeUp
from harness.tracking import Tracker

ENDLESS = """
import time
from harness.aside import aside
aside(time.sleep, 600)
time.sleep(0.1)
"""


def test_what_comes_of_it_is_the_futures() -> None:
    assert aside(divmod, 7, 2).result(timeout=10) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        aside(divmod, 7, 0).result(timeout=10)


def test_the_end_of_the_program_does_not_wait_for_it() -> None:
    subprocess.run([sys.executable, "-c", ENDLESS], check=True, timeout=60)


def test_a_tracking_store_that_does_not_open_is_said_and_has_until_the_deadline(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(course, "SILENT", 0.0)
    monkeypatch.setattr(errands, "LATE", 0.3)
    never: Future[Tracker] = Future()
    with pytest.raises(TimeUp, match="its tracking store was open"):
        course._opened(never, time.monotonic())
    assert [record.message for record in caplog.records] == ["the tracking store is not open yet; it is waited for"]


def test_why_a_tracking_store_cannot_be_opened_is_said() -> None:
    opening: Future[Tracker] = Future()
    opening.set_exception(ValueError("cannot open the tracking store"))
    with pytest.raises(ValueError, match="cannot open the tracking store"):
        course._opened(opening, 0.0)
