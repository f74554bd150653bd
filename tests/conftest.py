"""What the tests share: one torch thread, no deadlines on a busy machine, and one cached teacher a session."""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from harness import tasks, teacher
from harness.report import beside
from harness.tasks import fashion_mnist, places

torch.set_num_threads(1)
if (
    signal.getsignal(signal.SIGINT) == signal.SIG_IGN
):  # in a script's background, and programs that are tested take over
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["HARNESS_FIGURES"] = "none"  # in most tests nobody looks at them, and they are half of a small sweep
settings.register_profile("busy", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of few tests first: theirs are the long ones, and of two processes none should begin them last."""
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (tests[item.path], item.path))


@pytest.fixture(scope="module", autouse=True)
def _environment() -> Iterator[None]:
    """The environment as it was: `mlflow.set_tracking_uri`, as the benchmark's plain loop calls it, sets a variable
    that the sweeps of later tests would follow. And the umask, which a program that runs in this process narrows."""
    before, mask = dict(os.environ), os.umask(0o022)
    os.umask(mask)
    yield
    os.umask(mask)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def _figures(_environment: None) -> Iterator[None]:
    """Reports with figures, for a module of tests that look at them; drawn by one process, as two tests run at once."""
    os.environ.pop("HARNESS_FIGURES", None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beside, "cores", lambda: 1)
        yield


@pytest.fixture(scope="session")
def digits_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the teacher of the digits."""
    cache = tmp_path_factory.mktemp("teachers")
    teacher.ensure(tasks.load("digits"), cache)
    return cache


@pytest.fixture(scope="session")
def full_cache(digits_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the digits' teacher that takes whatever else students need: other teachers, features, views."""
    cache = tmp_path_factory.mktemp("full") / "cache"
    shutil.copytree(digits_cache, cache)
    return cache


@pytest.fixture
def data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in which a user's data is looked for, and nowhere else."""
    monkeypatch.setenv(places.VARIABLE, str(tmp_path / "sets"))
    monkeypatch.setattr(fashion_mnist, "SYSTEM", ())
    (tmp_path / "sets").mkdir()
    return tmp_path / "sets"
