"""A study in a real PostgreSQL: the same trials as in SQLite, one driver, and a connection that is lost."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from sqlalchemy import Engine, event
from sqlalchemy.exc import DBAPIError, OperationalError

from harness import locks, outages
from harness.locks import Advisory, driver_of, making_tables
from harness.outages import Patience
from harness.records import Record
from harness.spec import StudentSpec
from harness.stopping import Halt
from harness.storage import open_study, set_aside
from harness.tracking import Tracker
from harness.tracking import tracker as tracker_module
from harness.urls import redact
from tests.fakes import FakeRuns, fake_train, make_driver
from tests.servers import Postgres, postgres

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as running:
        yield running


@pytest.fixture
def url(server: Postgres) -> str:
    return server.make_database()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "PAUSES", (0.05, 0.2))


def told(storage: str) -> list[tuple[str, dict[str, Any], list[float]]]:
    """State, parameters and values of every trial."""
    study = optuna.load_study(study_name="fake", storage=storage)
    return [(trial.state.name, dict(trial.params), trial.values) for trial in study.trials]


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, dict[str, Any], list[float]]]:
    folder = tmp_path_factory.mktemp("sqlite")
    assert make_driver(folder, FakeRuns()).run(set()) == "complete"
    return told(f"sqlite:///{folder / 'study.db'}")


def test_a_study_in_postgresql_has_the_trials_of_one_in_sqlite(url: str, tmp_path: Path, on_sqlite: Any) -> None:
    runs = FakeRuns()
    assert make_driver(tmp_path, runs, storage=url).run(set()) == "complete"
    assert told(url) == on_sqlite
    assert make_driver(tmp_path, runs, storage=url).run(set(runs.runs)) == "complete"
    assert told(url) == on_sqlite


@pytest.mark.parametrize("how", ["connections dropped", "server restarted"])
def test_a_connection_that_is_lost_in_mid_sweep_is_waited_for(
    how: str, server: Postgres, url: str, tmp_path: Path, on_sqlite: Any, caplog: pytest.LogCaptureFixture
) -> None:
    calls = 0

    def train(specs: Sequence[StudentSpec]) -> list[Record]:
        nonlocal calls
        calls += 1
        if calls in (3, 6):
            if how == "connections dropped":
                server.drop_connections()
            else:
                server.crash()
                threading.Timer(1.5, server.start).start()
        return fake_train(specs)

    runs = FakeRuns()
    with driver_of("fake", tmp_path, url) as held:
        patience = Patience("the storage", held)
        driver = make_driver(tmp_path, runs, storage=url, train=train, patience=patience)
        assert driver.run(set()) == "complete"
        with (
            pytest.raises(ValueError, match="another sweep is running study 'fake'"),
            driver_of("fake", tmp_path / "elsewhere", url),
        ):
            pass
    assert told(url) == on_sqlite
    assert Counter(runs.runs) == {f"fake/{number}": 1 for number in range(len(on_sqlite))}
    if how == "server restarted":
        said = [record.getMessage() for record in caplog.records]
        assert sum("the storage does not answer" in line for line in said) == 2
        assert sum("the storage answers again" in line for line in said) == 2
        assert all("\n" not in line for line in said)


def test_a_driver_whose_lock_was_taken_meanwhile_stops(server: Postgres, url: str, tmp_path: Path) -> None:
    with driver_of("fake", tmp_path / "a", url) as held:
        held()
        server.drop_connections()
        with driver_of("fake", tmp_path / "b", url) as other:
            other()
            with pytest.raises(Halt, match="another sweep has taken the study over"):
                held()


def test_a_server_that_goes_between_connecting_and_locking_is_waited_for(
    server: Postgres, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, cuts = Advisory.take, iter([True, True])

    def cut(lock: Advisory) -> bool:
        if next(cuts, False):
            server.drop_connections()
        return take(lock)

    def refused(_: Advisory) -> bool:
        raise OperationalError("canceling statement due to statement timeout", None, Exception())

    with driver_of("fake", tmp_path, url) as held:
        monkeypatch.setattr(Advisory, "take", cut)
        server.drop_connections()
        for _ in range(2):  # what the driver's patience waits for
            with pytest.raises(DBAPIError):
                held()
        held()
    with driver_of("fake", tmp_path, url) as held:
        monkeypatch.setattr(Advisory, "take", refused)
        server.drop_connections()
        for _ in range(2):  # the connection stands, and what it holds is nothing
            with pytest.raises(OperationalError):
                held()
        monkeypatch.setattr(Advisory, "take", take)
        held()
    monkeypatch.setattr(Advisory, "take", cut)
    cuts = iter([True])
    with pytest.raises(ValueError, match="cannot open the storage postgresql"), driver_of("fake", tmp_path, url):
        pass
    with driver_of("fake", tmp_path, url):
        pass


def test_studies_of_other_names_are_driven_beside_each_other(url: str, tmp_path: Path) -> None:
    with driver_of("one", tmp_path / "a", url) as one, driver_of("two", tmp_path / "b", url) as two:
        one()
        two()


def test_a_connection_cut_while_the_tracking_store_is_opened_is_made_again(
    server: Postgres, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts = 0

    def cut(*said: Any) -> None:
        nonlocal cuts
        if cuts < 2 and "FROM experiments" in said[2]:
            cuts += 1
            server.drop_connections()

    monkeypatch.setattr(tracker_module, "PAUSE", 0.1)
    event.listen(Engine, "before_cursor_execute", cut)
    try:
        assert Tracker(url, "fake", tmp_path).page_of("trials")
    finally:
        event.remove(Engine, "before_cursor_execute", cut)
    assert cuts == 2


def test_a_server_that_goes_away_as_a_study_is_read_is_waited_for(
    server: Postgres, url: str, tmp_path: Path, on_sqlite: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, begin = FakeRuns(), open_study
    assert make_driver(tmp_path, runs, storage=url).run(set()) == "complete"

    def then_crash(*given: Any) -> Any:
        found = begin(*given)
        server.crash()
        threading.Timer(1.0, server.start).start()
        return found

    monkeypatch.setattr("harness.connection.open_study", then_crash)
    assert make_driver(tmp_path, runs, storage=url, patience=Patience("it")).run(set(runs.runs)) == "complete"
    assert told(url) == on_sqlite


def test_who_never_ends_making_tables_is_not_waited_for(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(locks, "TABLES_WITHIN", 0.3)
    monkeypatch.setattr(locks, "SILENT", 0.1)
    for store in (url, f"sqlite:///{tmp_path / 'study.db'}"):
        with making_tables(store):
            said = f"another process has been making the tables of {re.escape(redact(store))} for 0.3 s"
            with pytest.raises(ValueError, match=said), making_tables(store):
                pass
        waited = f"another process is making the tables of {redact(store)}; it is waited for"
        assert [record.message for record in caplog.records] == [waited]
        caplog.clear()
        with making_tables(store):
            pass


def test_a_database_that_is_not_there_is_one_line(url: str, tmp_path: Path) -> None:
    for wrong in (url.replace("/tests", "/nothing"), "postgresql+psycopg://me:secret@127.0.0.1:1/none"):
        with pytest.raises(ValueError, match="cannot open the storage") as caught, driver_of("fake", tmp_path, wrong):
            pass
        assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_study_that_is_deleted_in_mid_sweep_stops_it_in_one_line(url: str, tmp_path: Path) -> None:
    def train(specs: Sequence[StudentSpec]) -> list[Record]:
        if "fake" in optuna.get_all_study_names(url):
            optuna.delete_study(study_name="fake", storage=url)
        return fake_train(specs)

    with pytest.raises(Halt, match="the study is not in its storage any more"):
        make_driver(tmp_path, FakeRuns(), storage=url, train=train).run(set())


def test_a_study_is_set_aside_whole(url: str, tmp_path: Path) -> None:
    assert make_driver(tmp_path, FakeRuns(), storage=url).run(set()) == "complete"
    before = told(url)
    kept = set_aside(url, "fake")
    assert optuna.get_all_study_names(url) == [kept]
    study = optuna.load_study(study_name=kept, storage=url)
    assert [(trial.state.name, dict(trial.params), trial.values) for trial in study.trials] == before
    assert set_aside(url, "fake") is None


OPEN = """
import sys
from pathlib import Path
from harness.sampler import Sampler
from tests.fakes import STUDY
Sampler(sys.argv[1], sys.argv[2], STUDY, "hash").ask("search")
"""


def test_many_that_open_an_empty_database_at_once_all_succeed(url: str) -> None:
    command = [sys.executable, "-c", OPEN, url]
    opening = [subprocess.Popen([*command, f"study{number}"], cwd=ROOT) for number in range(3)]
    assert [process.wait() for process in opening] == [0] * 3
    assert sorted(optuna.get_all_study_names(url)) == [f"study{number}" for number in range(3)]
