"""A short `make torture`: killed at random moments, a study ends as if nothing had happened."""

from __future__ import annotations

import os
import random
from pathlib import Path

from tests.torture import Kills, outcome, torture, undisturbed, verify, write_study


def test_killed_again_and_again_it_ends_with_the_numbers_of_an_undisturbed_run(tmp_path: Path) -> None:
    """kill -9 of drivers and workers, on real processes and real stores."""
    file = write_study(tmp_path, trials=16)
    undisturbed(file, tmp_path / "calm")
    kills = Kills(3, 6, random.Random(int.from_bytes(os.urandom(4), "big")))
    torture(file, tmp_path / "torn", kills, longest=9.0)
    assert kills.done["drivers"] and kills.done["workers"]
    assert outcome(tmp_path / "torn") == outcome(tmp_path / "calm")
    assert verify(tmp_path / "torn").endswith("no fault") and verify(tmp_path / "calm").endswith("no fault")
