"""Signals: the first is a wish, the second an order."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import time
from harness.stopping import Stop

stop = Stop(lambda: print("ordered", flush=True))
with stop.listening():
    with stop.waits():
        print("waits", flush=True)
        while not stop:
            time.sleep(0.01)
        print("seen", flush=True)
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_seen_and_nothing_withstands_the_second(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waits\n"
        process.send_signal(number)
        assert process.stdout.readline() == "seen\n"
        process.send_signal(number)
        started = time.monotonic()
        assert process.stdout.read() == "ordered\n"
        assert process.wait() == 128 + number
        assert time.monotonic() - started < 30


def test_nobody_who_does_not_look_for_it_is_spared_the_first_signal() -> None:
    program = PROGRAM.replace("with stop.waits():", "if True:").replace("while not stop:", "while True:")
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "waits\n"
        process.send_signal(signal.SIGTERM)
        assert "KeyboardInterrupt" in process.stderr.read()


def test_what_hangs_without_looking_for_the_first_signal_is_interrupted_in_the_end() -> None:
    program = """
import time
from harness import stopping

stopping.GRACE = 0.5
stop = stopping.Stop(lambda: None)
with stop.listening():
    try:
        with stop.waits():
            print("waits", flush=True)
            time.sleep(60)
    except KeyboardInterrupt:
        print("interrupted", stop.code, flush=True)
    time.sleep(1)  # nothing comes after it
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waits\n"
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        assert process.stdout.read() == "interrupted 130\n"
        assert process.wait() == 0 and time.monotonic() - started < 30
