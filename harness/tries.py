"""How often a trial was tried: `attempts.json` counts its failures, `begun.json` trainings that got nowhere."""

from __future__ import annotations

from pathlib import Path

from harness.files import put_aside, read_json, write_json
from harness.values import Range

MOST = Range(0, 1000, whole=True)


def count_attempt(folder: Path) -> int:
    """Note one more attempt at a trial and return how many there were with it."""
    count = attempts(folder) + 1
    write_json(folder / "attempts.json", count)
    return count


def attempts(folder: Path) -> int:
    """How often a trial was handed to a worker. A damaged count is put aside, and starts anew."""
    path = folder / "attempts.json"
    try:
        count = read_json(path)
        if count is None and not path.exists():
            return 0
        if not MOST.admits(count):
            raise ValueError(f"{path} is no count")
    except ValueError as error:
        put_aside(path, str(error))
        return 0
    return int(count)


def begin(folder: Path) -> None:
    """Note that a trial's training begins."""
    count = begun(folder) + 1
    (folder / "begun.json").write_text(str(count), encoding="utf-8")  # not worth waiting for the disk


def begun(folder: Path) -> int:
    """How often a trial's training was begun since it last got anywhere; a damaged count is none."""
    try:
        count = read_json(folder / "begun.json")
    except ValueError:
        return 0
    return int(count) if MOST.admits(count) else 0


def not_begun(folder: Path, count: int) -> None:
    """Note that a training which begins has been stopped in order: it was begun no more often than `count` times."""
    if not begun(folder) > count:
        return
    if count:
        (folder / "begun.json").write_text(str(count), encoding="utf-8")
    else:
        got_somewhere(folder)


def got_somewhere(folder: Path) -> None:
    """Note that a trial's training has not been for nothing: what was begun counts no more."""
    (folder / "begun.json").unlink(missing_ok=True)
