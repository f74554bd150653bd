"""A short `make torture`: killed at random moments, a study ends as if nothing had happened."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.servers import postgres
from tests.torture import Kills, Stores, outcome, torture, undisturbed, verify, write_study


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"), trials=12)


@pytest.fixture(scope="module")
def calm(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[int, Any]:
    """How the study ends undisturbed."""
    out = tmp_path_factory.mktemp("calm")
    undisturbed(file, out)
    return outcome(out)


def ends_as(calm: Mapping[int, Any], file: Path, out: Path, stores: Stores = None) -> None:
    kills = Kills(2, 4, random.Random(int.from_bytes(os.urandom(4), "big")))
    torture(file, out, kills, stores, longest=9.0)
    assert kills.done["drivers"] and kills.done["workers"]
    assert outcome(out, stores) == calm
    assert verify(out, stores).endswith("no fault")


def test_killed_again_and_again_it_ends_with_the_numbers_of_an_undisturbed_run(
    file: Path, calm: Mapping[int, Any], tmp_path: Path
) -> None:
    """kill -9 of drivers and workers, on real processes and real stores."""
    ends_as(calm, file, tmp_path)


def test_so_it_does_in_postgresql(file: Path, calm: Mapping[int, Any], tmp_path: Path) -> None:
    with postgres() as server:
        ends_as(calm, file, tmp_path, (server.make_database(), server.make_database()))
