"""Signals: the first is a wish, the second an order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

from harness import screen
from harness.stopping import TOGETHER

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


def said_after(program: str, number: signal.Signals) -> tuple[list[str], int]:
    """What a program prints that is sent a signal once it waits, and its exit code."""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waits\n"
        process.send_signal(number)
        started = time.monotonic()
        found = process.stdout.read().splitlines()
        code = process.wait()
        assert time.monotonic() - started < 30
    return found, code


@pytest.mark.parametrize("ignored", [signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_whoever_started_it_has_ignored_is_none(ignored: signal.Signals) -> None:
    """SIGHUP by `nohup`, SIGINT by a script for what it starts with `&`."""
    ignoring = f"import signal; signal.signal({int(ignored)}, signal.SIG_IGN)\n"
    with subprocess.Popen([sys.executable, "-c", ignoring + PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waits\n"
        process.send_signal(ignored)
        time.sleep(2 * TOGETHER)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "seen\n"
        time.sleep(2 * TOGETHER)
        assert process.poll() is None  # which the second signal that it takes would have ended
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_is_seen_and_nothing_withstands_the_second(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waits\n"
        for _ in range(2):  # as `timeout` does, which are one
            process.send_signal(number)
            time.sleep(0.05)
        assert process.stdout.readline() == "seen\n"
        time.sleep(2 * TOGETHER)
        assert process.poll() is None
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


HANGS = """
import os, threading, time
from contextlib import nullcontext
from harness import stopping

stopping.GRACE = stopping.LAST = 0.5
stopping.TOGETHER = 0.0
lock = threading.Lock()
stop = stopping.Stop(lock.acquire)
with stop.listening():
    try:
        with {how}:
            print("waits", flush=True)
            time.sleep(60)
    except KeyboardInterrupt:
        print("interrupted", stop.code, flush=True)
    {then}
time.sleep(1)  # nothing comes after it
"""


def test_what_hangs_without_looking_for_the_first_signal_is_interrupted_in_the_end() -> None:
    program = HANGS.format(how="stop.waits()", then="pass")
    assert said_after(program, signal.SIGINT) == (["interrupted 130"], 0)


DROPPED = """
import gc, os, signal, sys, time
from harness.stopping import Stop

class Loses:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)

stop = Stop(lambda: None)
with stop.listening():
    started = time.monotonic()
    try:
        Loses()
        time.sleep(10)
    except KeyboardInterrupt:
        print(time.monotonic() - started < 5, flush=True)
    class Raises:
        def __del__(self):
            raise ValueError("another's")
    Raises()
"""


def test_an_interrupt_that_python_drops_comes_again_at_once_and_without_a_word() -> None:
    ran = subprocess.run([sys.executable, "-c", DROPPED], capture_output=True, text=True, check=True)
    assert ran.stdout == "True\n" and "KeyboardInterrupt" not in ran.stderr and "ValueError: another's" in ran.stderr


STOPPED = """
import os, signal, sys
from harness.stopping import Stop, be_deaf

class Last:
    def __del__(self, kill=os.kill, own=os.getpid()):
        kill(own, signal.SIGTERM)

stop, last = Stop(lambda: None), Last()
with stop.listening():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        pass
be_deaf()
{then}
sys.exit(stop.code)
"""


@pytest.mark.parametrize("then", ["", "os.kill(os.getpid(), signal.SIGTERM)"])
def test_a_signal_after_a_stop_in_order_does_not_change_the_exit_code(then: str) -> None:
    assert subprocess.run([sys.executable, "-c", STOPPED.format(then=then)], check=False).returncode == 130


@pytest.mark.parametrize("how", ["stop.waits()", "nullcontext()"])
def test_an_interrupt_that_is_swallowed_comes_again(how: str) -> None:
    again = """
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        print("again", flush=True)"""
    program = HANGS.format(how=how, then=again)
    assert said_after(program, signal.SIGTERM) == (["interrupted 143", "again"], 0)


def test_the_cursor_is_put_back_where_the_terminal_takes_it_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, ours = os.openpty()
    console = Console(force_terminal=True)
    with os.fdopen(ours, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        screen.put_cursor_back(console)
        assert os.read(terminal, 100) == b"\x1b[?25h"
        os.set_blocking(ours, False)
        with pytest.raises(BlockingIOError):  # nobody reads
            while True:
                os.write(ours, b"x" * 1000)
        os.set_blocking(ours, True)
        screen.put_cursor_back(console)
        os.read(terminal, 10**6)
    monkeypatch.undo()
    screen.put_cursor_back(console)  # pytest's output is no terminal's
    os.close(terminal)


def test_an_order_that_hangs_is_ended_by_the_system() -> None:
    """As it would where whoever was interrupted by the second signal holds the lock that the order waits for."""
    second = "lock.acquire(); os.kill(os.getpid(), 15); print('still here', flush=True)"
    program = HANGS.format(how="nullcontext()", then=second)
    assert said_after(program, signal.SIGINT) == (["interrupted 130"], -signal.SIGALRM)


DEAF = """
import ctypes, math, os, time
from harness.stopping import Stop

def leave(code):
    print("left", code, flush=True)
    os._exit(code)

libc, lock = ctypes.CDLL(None), ctypes.create_string_buffer(64)
libc.pthread_mutex_lock(lock)
stop = Stop(lambda: None)
with stop.listening(), stop.waits(), stop.watched(0.5, {deadline}, leave):
    print("waits", flush=True)
    {call}
print("back", stop.code, flush=True)
"""
NEVER_BACK = "libc.pthread_mutex_lock(lock)"  # in C, and it goes on waiting after a signal


@pytest.mark.skipif(sys.platform != "linux", reason="what a C library calls its locks")
def test_a_call_that_never_comes_back_to_python_is_left_some_time_after_a_signal() -> None:
    program = DEAF.format(deadline="math.inf", call=NEVER_BACK)
    assert said_after(program, signal.SIGTERM) == (["left 143"], 143)


def test_a_call_that_comes_back_in_time_is_not_left() -> None:
    program = DEAF.format(deadline="math.inf", call="time.sleep(0.2)")
    assert said_after(program, signal.SIGTERM) == (["back 143"], 0)


@pytest.mark.skipif(sys.platform != "linux", reason="what a C library calls its locks")
def test_a_call_that_never_comes_back_is_left_when_the_time_is_up() -> None:
    program = DEAF.format(deadline="time.monotonic() + 0.2", call=NEVER_BACK)
    assert said_after(program, signal.SIGWINCH) == (["left 0"], 0)
