"""Small studies that are confirmed for real, in the test's own process."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.inline import sweep_here

STUDY = """
from harness.space import Choice, Float, Halving, Study
STUDY = Study(
    task="digits", family="mlp",
    space={{
        "width": Choice(3, 6), "form": Choice("kl", "mse"), "alpha": Float(0.0, 1.0),
        "temperature": Float(1.0, 8.0), "lr": Float(5e-3, 5e-2, log=True),
    }},
    fixed={{"epochs": 3}},
    trials=6, seeds=1, controls=2, confirm={confirm}, {more}
)
"""
SEEDS = 3


def swept(folder: Path, cache: Path, *, confirm: int = SEEDS, more: str = "", no_confirm: bool = False) -> int:
    """Write `mine.py` into the folder and sweep it into `out` beside it; gives the exit code."""
    (folder / "mine.py").write_text(STUDY.format(confirm=confirm, more=more))
    if not (folder / "out" / "teachers").exists():
        shutil.copytree(cache, folder / "out" / "teachers")
    return sweep_here(folder / "mine.py", folder / "out", deterministic=True, quiet=True, no_confirm=no_confirm)
