"""What this process may use of its machine."""

from __future__ import annotations

import os


def cores() -> int:
    """How many cores there are for this process: as many workers as are started by default."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
