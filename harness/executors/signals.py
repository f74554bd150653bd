"""What a worker process does about SIGTERM."""

from __future__ import annotations

import os
import signal


def leave_stopping_to_the_driver() -> None:
    """A service's SIGTERM reaches all of its processes: the driver stops its workers, and knows then why they end.

    A worker that has outlived its driver is ended by it, and what a study's own code forks, from its first moment on.
    """
    driver, masks = os.getppid(), list[set[int | signal.Signals]]()

    def unless_it_is_gone(*_: object) -> None:
        if os.getppid() != driver:
            os._exit(128 + signal.SIGTERM)

    def before() -> None:
        masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}))

    def after() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.pop())

    def after_in_child() -> None:
        if signal.getsignal(signal.SIGTERM) is unless_it_is_gone:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        after()

    signal.signal(signal.SIGTERM, unless_it_is_gone)
    os.register_at_fork(before=before, after_in_parent=after, after_in_child=after_in_child)
