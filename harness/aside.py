"""Work beside the sweep's own, for which the end of the program does not wait."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def aside(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Begin some work in a thread that ends with the program, whatever it waits for: a lock, a server.

    What comes of it, also what it raises, is the future's. The threads of a pool would be waited for.
    """
    found: Future[T] = Future()

    def run() -> None:
        try:
            found.set_result(work(*args, **kwargs))
        except BaseException as error:
            found.set_exception(error)

    Thread(target=run, daemon=True).start()
    return found
