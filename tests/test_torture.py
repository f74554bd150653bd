"""A short `make torture`: killed at random moments, a study ends as if nothing had happened.

What is killed are processes of their own; the undisturbed run, and the last one, which ends the study, are this one's.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.inline import sweep_here
from tests.servers import postgres
from tests.torture import Kills, Stores, outcome, torture, verify, write_study


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"), trials=6, epochs=12, others=(), confirm=2)


def finish(file: Path, out: Path, stores: Stores) -> None:
    storage, tracking = stores or (None, None)
    assert sweep_here(file, out, storage=storage, tracking_uri=tracking, deterministic=True, quiet=True, jobs=2) == 0


@pytest.fixture(scope="module")
def calm(file: Path, digits_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[int, Any]:
    """How the study ends undisturbed."""
    out = tmp_path_factory.mktemp("calm")
    shutil.copytree(digits_cache, out / "teachers")
    finish(file, out, None)
    return outcome(out)


def moments() -> random.Random:
    return random.Random(int.from_bytes(os.urandom(4), "big"))


def test_killed_again_and_again_it_ends_with_the_numbers_of_an_undisturbed_run(
    file: Path, calm: Mapping[int, Any], tmp_path: Path
) -> None:
    """kill -9 of drivers and workers, on real processes and real stores; the teacher's training is not spared."""
    kills = Kills(1, 3, moments())
    torture(file, tmp_path, kills, longest=8.0, finish=finish)
    assert kills.done["drivers"] and kills.done["workers"]
    assert outcome(tmp_path) == calm
    assert verify(tmp_path).endswith("no fault")


def test_so_it_does_in_postgresql(file: Path, calm: Mapping[int, Any], digits_cache: Path, tmp_path: Path) -> None:
    """Which only drivers speak to."""
    shutil.copytree(digits_cache, tmp_path / "teachers")
    with postgres() as server:
        stores = server.make_database(), server.make_database()
        kills = Kills(2, 0, moments())
        torture(file, tmp_path, kills, stores, longest=7.0, finish=finish)
        assert kills.done["drivers"]
        assert outcome(tmp_path, stores) == calm
        assert verify(tmp_path, stores).endswith("no fault")
