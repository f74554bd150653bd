"""Where data lies that a user brings: the folder `HARNESS_DATA`, else `data/` here; then folders a task knows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

VARIABLE = "HARNESS_DATA"


def find(candidates: Sequence[str], *, system: Sequence[Path] = (), get: str, task: str) -> Path:
    """The first file or folder of the relative paths `candidates` that is there, looked for in one root at a time.

    `system` are roots that the task knows, looked at last; `get` says how to get the data. Raises `ValueError` in one
    line when nothing is there.
    """
    roots = [Path(os.environ.get(VARIABLE) or "data"), *system]
    for root in roots:
        for candidate in candidates:
            if (root / candidate).exists():
                return root / candidate
    looked, where = " or ".join(candidates), " or ".join(str(root.absolute()) for root in roots)
    raise ValueError(f"the data of the task {task} is missing: no {looked} in {where} (set {VARIABLE}); {get}")
