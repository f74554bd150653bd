"""What ends a sweep early. Ctrl-C, SIGTERM, a terminal that closes: the first asks it to stop, the second stops it."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from select import select
from types import FrameType

HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)  # where there is one
SIGNALS = (signal.SIGINT, signal.SIGTERM, *([HANGUP] if HANGUP else []))
ALARM: signal.Signals | None = getattr(signal, "SIGALRM", None)
GRACE, AGAIN = 20.0, 5.0
"""Seconds that the first signal may go unseen until it interrupts, and between two such tries."""
SOON = 0.05
"""Seconds until one that was dropped interrupts again."""
TOGETHER = 0.5
"""Seconds within which two signals are one: `timeout` sends its own to the process and to its group."""
LAST = 5.0
"""Seconds that the second signal's order may take."""


class Halt(Exception):  # noqa: N818 - it is no error of the sweep
    """A sweep cannot go on until something is mended: one line says why. Nothing is lost; the exit code is 1."""


class TimeUp(Exception):  # noqa: N818 - it is no error of the sweep
    """The time that a sweep was given is up before something was there that it says."""


class Stop:
    """Whether a sweep was asked to stop. True once a signal has come; `code` is then the process's exit code.

    While it `waits` for a signal to be seen, the first one does nothing but be there to see; what has not seen it after
    `GRACE` seconds hangs, in a store that does not answer, and is interrupted by `KeyboardInterrupt`. At any other time
    the first raises that at once; again where it is dropped, as Python does with what is raised in a callback of its
    own; and after as long where somebody swallowed it. A second one, half a second later or more, leaves the process at
    once, by way of `order`, which runs in the midst of whatever was going on: it may take no lock and wait for nothing.
    Should it hang all the same the system ends the process. To the stores it is a kill.
    """

    def __init__(self, order: Callable[[], None]) -> None:
        self._order = order
        self._waits = False
        self._first_at = math.inf
        self._ignored: set[int] = set()  # as `nohup`, and a shell of what it starts with `&`, want them
        self.code = 0

    def __bool__(self) -> bool:
        return self.code > 0

    @contextmanager
    def waits(self) -> Iterator[None]:
        """Signals that come now are looked for by whoever runs."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False
            _set_alarm(GRACE if self else 0, AGAIN)

    @contextmanager
    def watched(self, patience: float, deadline: float, leave: Callable[[int], None]) -> Iterator[None]:
        """Within, the main thread may be in a call that does not come back to Python, where no handler runs.

        Where a signal has come, or the `time.monotonic` of the deadline has, and so many seconds later it is still in
        there, `leave` is called in a thread, with the exit code: it is to end the process.
        """
        there, here = os.pipe()
        os.set_blocking(here, False)
        done = threading.Event()

        def watch() -> None:
            while not done.is_set():
                if select([there], [], [], 0.1)[0]:
                    codes = [128 + number for number in os.read(there, 64) if number in SIGNALS]
                    if codes:
                        _set_alarm(0, 0)  # Ray's own handler, which comes first, has set one that ends the process
                    if codes and not done.wait(patience):
                        leave(codes[0])
                elif time.monotonic() > deadline and not done.is_set():
                    leave(0)

        watcher, before = threading.Thread(target=watch, daemon=True), signal.set_wakeup_fd(here)
        watcher.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            self._listen()  # who was called may have put handlers of its own
            done.set()
            os.write(here, b"\0")
            watcher.join()
            os.close(there)
            os.close(here)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals of this process."""
        before = {number: signal.getsignal(number) for number in (*SIGNALS, *([ALARM] if ALARM else []))}
        self._ignored = {number for number in (signal.SIGINT, HANGUP) if number and before[number] == signal.SIG_IGN}
        unraisable = sys.unraisablehook
        self._listen()

        def dropped(what: sys.UnraisableHookArgs) -> None:
            if self and issubclass(what.exc_type, KeyboardInterrupt):
                _set_alarm(SOON, AGAIN)
            else:
                unraisable(what)

        sys.unraisablehook = dropped
        try:
            yield
        finally:
            _set_alarm(0, 0)
            sys.unraisablehook = unraisable
            for number, handler in before.items():
                signal.signal(number, handler)

    def _listen(self) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN if number in self._ignored else self._take)
        if ALARM is not None:
            signal.signal(ALARM, self._hangs)

    def _take(self, number: int, _: FrameType | None) -> None:
        first, now = not self, time.monotonic()
        if first:
            self._first_at = now
        elif now - self._first_at < TOGETHER:
            return
        self.code = 128 + number
        if not first:
            if ALARM is not None:
                signal.signal(ALARM, signal.SIG_DFL)
            _set_alarm(LAST, 0)
            try:
                self._order()
            finally:
                os._exit(self.code)
        _set_alarm(GRACE, AGAIN)
        if not self._waits:
            raise KeyboardInterrupt

    def _hangs(self, _number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt


def be_deaf() -> None:
    """Let signals change nothing any more, not even the exit code of a program that is over: as the interpreter is
    taken down it gives them back to the system, which would end the process by them."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _set_alarm(first: float, then: float) -> None:
    if ALARM is not None:
        signal.setitimer(signal.ITIMER_REAL, first, then)
