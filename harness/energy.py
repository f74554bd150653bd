"""The energy that the CPU says it has used: Linux's powercap counters (RAPL), where there are any that may be read.

A counter is that of a whole processor package: what else the machine does meanwhile is in it. Nothing is estimated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Counter:
    """A package's energy counter: a file of microjoules that begins again at 0 after `most`."""

    file: Path
    most: int


def counters(root: Path = POWERCAP) -> tuple[Counter, ...]:
    """The counters of all processor packages; none where one of them may not be read, or there are none."""
    found = []
    for zone in sorted(root.glob("intel-rapl:*")):  # so called on AMD too; a zone with two colons is a part of another
        if zone.name.count(":") != 1:
            continue
        try:
            if not (zone / "name").read_text().startswith("package"):
                continue
            counter = Counter(zone / "energy_uj", int((zone / "max_energy_range_uj").read_text()))
            int(counter.file.read_text())
        except (OSError, ValueError):
            return ()
        found.append(counter)
    return tuple(found)


def joules(work: Callable[[], None], of: tuple[Counter, ...]) -> float | None:
    """What all packages used while `work` ran, in joules; None without counters. One may have begun again once."""
    if not of:
        return None
    before = _read(of)
    work()
    after = _read(of)
    if before is None or after is None:
        return None
    used = 0
    for counter, start, end in zip(of, before, after, strict=True):
        used += end - start if end >= start else end - start + counter.most + 1
    return used / 1e6


def _read(of: tuple[Counter, ...]) -> list[int] | None:
    """Microjoules by counter; None where one cannot be read any more."""
    try:
        return [int(counter.file.read_text()) for counter in of]
    except (OSError, ValueError):
        return None
