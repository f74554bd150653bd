"""What ends a sweep early. Ctrl-C and SIGTERM: the first asks it to stop, the second stops it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Halt(Exception):  # noqa: N818 - it is no error of the sweep
    """A sweep cannot go on, for no fault of its study: one line says why. Nothing is lost; the exit code is 1."""


class Stop:
    """Whether a sweep was asked to stop. True once a signal has come; `code` is then the process's exit code.

    While it `waits` for a signal to be seen, the first one does nothing but be there to see. At any other time the
    first raises `KeyboardInterrupt`. A second one leaves the process at once, by way of `order`: nothing that runs can
    swallow or delay it, and to the stores it is a kill.
    """

    def __init__(self, order: Callable[[], None]) -> None:
        self._order = order
        self._waits = False
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

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals of this process."""
        before = [signal.signal(number, self._take) for number in SIGNALS]
        try:
            yield
        finally:
            for number, handler in zip(SIGNALS, before, strict=True):
                signal.signal(number, handler)

    def _take(self, number: int, _: FrameType | None) -> None:
        first, self.code = not self, 128 + number
        if not first:
            try:
                self._order()
            finally:
                os._exit(self.code)
        if not self._waits:
            raise KeyboardInterrupt
