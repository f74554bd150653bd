"""Figures drawn by this process and by a second one beside it: on two cores in some six tenths of the time.

A figure's bytes do not depend on who draws it, and a second process that cannot start, or dies, costs nothing but its
help: whatever it has not drawn is drawn here. `python -m harness.report.beside` is that process. It is none of
`multiprocessing`'s: a forked one is not safe beside threads, and a spawned one runs the script that asked for a report.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from harness.machine import cores
from harness.report.rendering import Drawing, Rendered, rendered

READY = "ready"
PATIENCE = 30.0
"""Seconds that the last figure is waited for: a process that somebody stopped in the middle of it costs as much."""
_Helper = subprocess.Popen[bytes]


@contextmanager
def helper(wanted: bool) -> Iterator[_Helper | None]:
    """A second process, for as long as the block lasts; None on one core or where it is not wanted.

    It loads for some seconds: begin the block before what is to be drawn is known.
    """
    if not wanted or cores() < 2:
        yield None
        return
    process = None
    with suppress(OSError):
        command = [sys.executable, "-m", "harness.report.beside"]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
    try:
        yield process
    finally:
        if process is not None:
            process.kill()
            process.communicate()


def render(drawings: Iterable[Drawing], beside: _Helper | None) -> list[tuple[Drawing, Rendered]]:
    """Every figure, in order; a figure that cannot be drawn raises what it raises."""
    own = list(drawings)
    todo, found = deque(enumerate(own)), dict[int, Rendered]()
    thread = threading.Thread(target=_hand_out, args=(todo, found, beside), daemon=True)
    if beside is not None:
        with suppress(RuntimeError):  # no more threads may be started: then nothing is handed out
            thread.start()
    while len(found) < len(own):
        try:
            place, drawing = todo.popleft()
        except IndexError:  # the second process has the last one, and may yet fail at it
            thread.join(PATIENCE)
            if beside is not None and thread.is_alive():
                beside.kill()
        else:
            found[place] = rendered(drawing)
    return [(drawing, found[place]) for place, drawing in enumerate(own)]


def _hand_out(todo: deque[tuple[int, Drawing]], found: dict[int, Rendered], beside: _Helper | None) -> None:
    """Give the second process, once it is ready, the last figures, one after the other, until there is none or it
    fails."""
    assert beside is not None and beside.stdin is not None and beside.stdout is not None
    taken = None
    try:
        if pickle.load(beside.stdout) != READY:  # what somebody printed
            return
        while todo:
            taken = todo.pop()
            pickle.dump(taken[1], beside.stdin)
            beside.stdin.flush()
            found[taken[0]] = pickle.load(beside.stdout)
            taken = None
    except Exception:  # whatever it is: if the fault is the figure's own, it says so where it is drawn here
        if taken is not None:
            todo.append(taken)


def main() -> None:
    """Draw what comes in on stdin, one figure after the other, until it ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what is printed meanwhile is no answer
    answer: object = READY
    with suppress(EOFError, BrokenPipeError):
        while True:
            pickle.dump(answer, answers)
            answers.flush()
            answer = rendered(pickle.load(sys.stdin.buffer))


if __name__ == "__main__":
    main()
