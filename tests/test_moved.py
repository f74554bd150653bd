"""A study's life in between: its folder moved or copied, its stores full, of another version or changed by hand."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from harness import cli
from harness.driver import Progress
from harness.kept import read_study
from harness.ledger import trial_dir
from harness.locks import driver_of
from harness.records import Record
from harness.sampler import Sampler
from harness.spec import StudentSpec
from harness.stopping import Halt
from harness.storage import set_aside
from harness.tracking import Tracker, bring_along
from harness.urls import sqlite_file, sqlite_url
from harness.verify.check import Place, check
from tests.fakes import STUDY, FakeRuns, fake_train, make_driver
from tests.inline import sweep_here
from tests.typed import STUDY as MINE
from tests.typed import command, refused


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, digits_cache: Path) -> Path:
    """A folder with a small study and its results, in `out`."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "mine.py").write_text(MINE)
    shutil.copytree(digits_cache, folder / "out" / "teachers")
    assert sweep_here(folder / "mine.py", folder / "out", deterministic=True, trials=4) == 0
    return folder


def report_with_its_run(out: Path) -> bytes:
    [file] = (out / "mlartifacts" / "mine").glob("*/artifacts/summary.md")
    return file.read_bytes()


def test_a_copy_writes_nothing_into_the_folder_it_was_copied_from(home: Path, tmp_path: Path) -> None:
    before = report_with_its_run(home / "out")
    shutil.copytree(home / "out", tmp_path / "a copy")
    options = ("--out", tmp_path / "a copy", "--deterministic", "--trials", 6, "--jobs", 1, "--quiet")
    subprocess.run(command(home / "mine.py", *options), check=True)  # in one process MLflow keeps where a run's go
    assert report_with_its_run(home / "out") == before
    after = report_with_its_run(tmp_path / "a copy")
    assert after == (tmp_path / "a copy" / "mine" / "summary.md").read_bytes() != before
    with closing(sqlite3.connect(tmp_path / "a copy" / "mlflow.db")) as store:
        assert {uri.partition("/mlartifacts/")[0] for (uri,) in store.execute("SELECT artifact_uri FROM runs")} == {
            (tmp_path / "a copy").as_uri()
        }


def test_only_what_stands_beside_a_store_is_brought_along(home: Path, tmp_path: Path) -> None:
    """Not the artifacts of another folder's study in the same store, nor those that were never the harness's."""
    for file in (home / "out").glob("mlflow.db*"):  # its log too
        shutil.copy(file, tmp_path)
    made = {"far": (tmp_path / "elsewhere" / "mlartifacts" / "far").as_uri(), "s3": "s3://bucket/mlartifacts-of/s3"}
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store, store:
        for name, place in made.items():
            store.execute(
                "INSERT INTO experiments (name, artifact_location, lifecycle_stage) VALUES (?, ?, 'active')",
                (name, place),
            )
        places = store.execute("SELECT name, artifact_location FROM experiments").fetchall()
    (tmp_path / "mlartifacts" / "s3").mkdir(parents=True)
    bring_along(tmp_path / "mlflow.db")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store:
        assert store.execute("SELECT name, artifact_location FROM experiments").fetchall() == places
        bring_along(tmp_path / "mlflow.db", "mine")
        found = dict(store.execute("SELECT name, artifact_location FROM experiments").fetchall())
    assert found == {**dict(places), "mine": (tmp_path / "mlartifacts" / "mine").as_uri()}


def test_a_named_store_says_where_artifacts_go(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = tmp_path / "mine.db"
    Tracker(f"sqlite:///{store}", "mine", tmp_path / "a" / "mlartifacts")
    assert not caplog.records
    Tracker(f"sqlite:///{store}", "mine", tmp_path / "b" / "mlartifacts")
    assert f"artifacts go to {(tmp_path / 'a' / 'mlartifacts' / 'mine').as_uri()}, where" in caplog.text


def test_a_report_that_cannot_be_with_its_run_is_said_and_the_run_is_over(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(home / "out" / "teachers", tmp_path / "teachers")
    (tmp_path / "mlartifacts").touch()
    assert sweep_here(home / "mine.py", tmp_path, deterministic=True, trials=2) == 1
    assert "the report is not with its run in MLflow, and the same command logs it" in capsys.readouterr().err
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store:
        assert store.execute("SELECT count(*) FROM runs WHERE status = 'RUNNING'").fetchone() == (0,)
    (tmp_path / "mlartifacts").unlink()
    assert sweep_here(home / "mine.py", tmp_path, deterministic=True, trials=2) == 0
    assert report_with_its_run(tmp_path) == (tmp_path / "mine" / "summary.md").read_bytes()


@pytest.mark.parametrize("new", [(), ("--new",)])
def test_a_named_storage_that_is_damaged_is_one_line(
    new: tuple[str, ...],
    home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "x.db").write_bytes(b"no database" * 500)
    line = refused(
        [home / "mine.py", "--out", tmp_path / "out", "--storage", f"sqlite:///{tmp_path / 'x.db'}", *new],
        capsys, monkeypatch,
    )  # fmt: skip
    assert line.endswith("file is not a database; put an earlier copy back, or name another --storage")


def test_a_study_of_a_named_storage_begins_anew_also_from_a_new_folder(home: Path, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'x.db'}"
    for out, study in (("a", MINE), ("b", MINE.replace('"epochs": 6', '"epochs": 5'))):
        (tmp_path / "mine.py").write_text(study)
        shutil.copytree(home / "out" / "teachers", tmp_path / out / "teachers")
        options = {"storage": storage, "trials": 2, "new": out == "b"}
        assert sweep_here(tmp_path / "mine.py", tmp_path / out, deterministic=True, **options) == 0
    assert sorted(path.name for path in (tmp_path / "b").glob("mine*")) == ["mine"]
    left = Place(tmp_path / "a" / "mine", storage, f"sqlite:///{tmp_path / 'a' / 'mlflow.db'}", "")
    [fault] = check(left, lambda *_: None).faults
    assert "the storage has another study 'mine'; its own may be there under another name" in fault.line()
    with closing(sqlite3.connect(tmp_path / "x.db")) as store:
        names = [name for (name,) in store.execute("SELECT study_name FROM studies ORDER BY study_id")]
    assert len(names) == 2 and sum(name.startswith("mine.aside-") for name in names) == 1


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """The storage of a study of fakes that was run."""
    make_driver(tmp_path, FakeRuns()).run(set())
    with closing(sqlite3.connect(tmp_path / "study.db")) as store:
        yield store


UNREADABLE = (
    "UPDATE trials SET state = 'FOO' WHERE trial_id = 2",
    "UPDATE trial_params SET param_value = 99 WHERE trial_id = 2",
    "UPDATE trial_params SET distribution_json = '{' WHERE trial_id = 2",
    "UPDATE trial_params SET distribution_json = '{}' WHERE trial_id = 2",
    "UPDATE trial_values SET value = 'abc' WHERE trial_id = 2",
    "UPDATE trials SET number = NULL WHERE trial_id = 2",
    "UPDATE trial_values SET value = NULL WHERE trial_id = 2",
)
DAMAGED = (
    ("UPDATE trials SET datetime_start = CAST(x'ff80fe' AS TEXT) WHERE trial_id = 2", "Could not decode to UTF-8"),
    ("DELETE FROM trials WHERE trial_id = (SELECT max(trial_id) FROM trials)", "UNIQUE constraint failed"),
)
KEY = "UPDATE study_user_attributes SET value_json = '5' WHERE key = 'harness.%s'"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("DELETE FROM study_user_attributes WHERE key = 'harness.id'", "harness.id of study '.*' in .* was deleted or"),
        ("DELETE FROM study_user_attributes WHERE key = 'harness.objectives'", "harness.objectives of study"),
        (KEY % "objectives", "harness.objectives of study"),
        (KEY % "id", "harness.id of study"),
        (
            KEY.replace("5", "{") % "config",
            "cannot open the storage .*: Expecting property name .*; put an earlier copy",
        ),
        (
            KEY.replace("5", '["macs"]') % "objectives",
            "the table of directions of study .* in .* was deleted",
        ),
        ("UPDATE study_directions SET direction = 'MINIMIZE'", "the table of directions of study"),
        (
            "UPDATE study_directions SET direction = 'UP'",
            "cannot open the storage .*'UP' is not among .*; put an earlier",
        ),
        ("DELETE FROM study_directions", "the table of directions of study"),
        ("UPDATE alembic_version SET version_num = 'v2.6.0.a'", "cannot open the storage .* no longer compatible"),
        (
            "UPDATE trial_user_attributes SET value_json = '7' WHERE key = 'arm' AND trial_id = 2",
            "trial 1 of the storage was not asked for by this harness",
        ),
        (
            "UPDATE trial_user_attributes SET value_json = '5' WHERE key = 'since' AND trial_id = 2",
            r"Optuna refuses trial 1 of the storage \(it was asked for in round 0, since 5\)",
        ),
        *(
            (
                f"UPDATE trial_user_attributes SET value_json = '\"{arm}\"' WHERE key = 'arm' AND trial_id = 2",
                "trial 1 of the storage was not asked for by this harness",
            )
            for arm in ("confirm-x", "confirm-search-999-9", "confirm-search-0-3", "control-99")
        ),
        (
            "UPDATE trial_user_attributes SET value_json = '\"control-4\"' WHERE value_json = '\"control-2\"'",
            "Optuna refuses trial .* of the storage .its width is 2, and its arm's 4",
        ),
        ("DELETE FROM trial_values WHERE trial_id = 2 AND objective = 1", "Optuna refuses trial 1 of the storage"),
        ("DELETE FROM trial_params WHERE trial_id = 2 AND param_name = 'alpha'", "Optuna refuses trial 1 .*it has"),
        *((change, "a trial in the storage .* cannot be read .*; put an earlier copy back") for change in UNREADABLE),
    ],
)
def test_rows_that_were_changed_by_hand_are_one_line(
    change: str, words: str, database: sqlite3.Connection, tmp_path: Path
) -> None:
    with database:
        assert database.execute(change).rowcount
    with pytest.raises(ValueError, match=words):
        make_driver(tmp_path, FakeRuns()).run(set())


@pytest.mark.parametrize(("change", "words"), DAMAGED)
def test_a_storage_that_is_damaged_is_not_waited_for(
    change: str, words: str, database: sqlite3.Connection, tmp_path: Path
) -> None:
    with database:
        assert database.execute(change).rowcount
    mend = "put an earlier copy back, or begin anew with --new"
    with pytest.raises(Halt, match=f"the storage is damaged: {words}.*; {mend}"):
        make_driver(tmp_path, FakeRuns(), study=replace(STUDY, trials=STUDY.trials + 1)).run(set())


@pytest.mark.parametrize("change", UNREADABLE)
def test_who_reads_a_trial_that_cannot_be_read_has_one_line(
    change: str, database: sqlite3.Connection, tmp_path: Path
) -> None:
    [(name,)] = database.execute("SELECT study_name FROM studies")
    with database:
        assert database.execute(change).rowcount
    url = f"sqlite:///{tmp_path / 'study.db'}"
    with pytest.raises(ValueError, match=r"a trial in the storage .* cannot be read \(.*\b(1|None)\b"):  # its number
        read_study(url, name)


@pytest.mark.parametrize("change", [*UNREADABLE, "UPDATE study_directions SET direction = 'UP'"])
def test_a_damaged_study_is_kept_aside_and_another_begins_beside_it(
    change: str, database: sqlite3.Connection, tmp_path: Path
) -> None:
    [(name,)] = database.execute("SELECT study_name FROM studies")
    with database:
        assert database.execute(change).rowcount
    everything = dump(database)
    url = f"sqlite:///{tmp_path / 'study.db'}"
    kept = set_aside(url, name)
    assert dump(database) == [line.replace(f"'{name}'", f"'{kept}'") for line in everything]
    again = tmp_path / "again"
    assert make_driver(again, FakeRuns(), storage=url).run(set()) == "complete"
    assert make_driver(again, FakeRuns(), storage=url).run(set()) == "complete"


def dump(database: sqlite3.Connection) -> list[str]:
    """All rows of a database, as SQL."""
    return [line for line in database.iterdump() if line.startswith("INSERT")]


@pytest.mark.parametrize("name", ["a b.db", "a%20b.db", "a?b.db", "ü#.db"])
def test_a_database_may_have_any_name(name: str, tmp_path: Path) -> None:
    file = tmp_path / "folder 50%25" / name
    file.parent.mkdir()
    assert sqlite_file(sqlite_url(file)) == file
    driver = make_driver(tmp_path / "mine", FakeRuns(), storage=sqlite_url(file))
    assert driver.run(set()) == "complete"
    assert {path.name.removesuffix("-wal").removesuffix("-shm") for path in file.parent.glob("[!.]*")} == {name}
    assert len(read_study(sqlite_url(file), "fake").trials) == len(driver.sampler.trials("complete"))


def test_a_database_is_locked_however_its_url_is_written(tmp_path: Path) -> None:
    (tmp_path / "ab.db").touch()
    one, two = (driver_of(name, tmp_path / name, f"sqlite:///{tmp_path}/{name}.db") for name in ("ab", "a%62"))
    with one, pytest.raises(ValueError, match="another sweep is using the storage"), two:
        pass
    (tmp_path / "linked.db").hardlink_to(tmp_path / "ab.db")
    linked = driver_of("linked", tmp_path / "linked", f"sqlite:///{tmp_path}/linked.db")
    with pytest.raises(ValueError, match=r"linked\.db has 2 names, and SQLite's log is one name's: use a copy"), linked:
        pass


def test_a_study_whose_name_is_no_text_is_another(database: sqlite3.Connection, tmp_path: Path) -> None:
    with database:
        database.execute("UPDATE studies SET study_name = x'00ff'")
    with pytest.raises(ValueError, match=r"is the database of study .*, not 'fake'; choose another --out"):
        Sampler(sqlite_url(tmp_path / "study.db"), "fake", STUDY, "hash", shared=False)


def test_trials_that_are_deleted_in_mid_sweep_are_not_taken_for_the_study(tmp_path: Path) -> None:
    def train(specs: Sequence[StudentSpec]) -> list[Record]:
        with closing(sqlite3.connect(tmp_path / "study.db")) as store, store:
            store.execute("DELETE FROM trials")
        return fake_train(specs)

    with pytest.raises(Halt, match=r"rows of the study were deleted in its storage meanwhile .*; put an earlier copy"):
        make_driver(tmp_path, FakeRuns(), train=train).run(set())


def test_an_empty_file_for_a_tracking_store_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    with pytest.raises(
        ValueError, match=r"cannot open the tracking store .*: no such table: .*; move it away, and the"
    ):
        Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", "fake", tmp_path / "mlartifacts")


def test_a_trial_that_is_called_pruned_in_a_study_that_does_not_prune_is_borne(
    database: sqlite3.Connection, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with database:
        database.execute("UPDATE trials SET state = 'PRUNED' WHERE trial_id = 2")
    (trial_dir(tmp_path, 1) / "result.json").unlink()
    make_driver(tmp_path, FakeRuns()).run(set())
    assert "trial 1 was pruned, its result is lost, and nobody knows at which rung; it stays so" in caplog.text


def test_a_trial_without_its_time_has_its_place_by_what_was_told(database: sqlite3.Connection, tmp_path: Path) -> None:
    seen: list[Progress] = []
    with database:
        assert database.execute("UPDATE trials SET datetime_complete = NULL").rowcount
    replace(make_driver(tmp_path, FakeRuns()), watch=seen.append).run(set())
    assert seen[-1].done == seen[-1].total > STUDY.trials


def test_who_reads_rows_that_were_changed_by_hand_has_one_line_too(
    database: sqlite3.Connection, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    [(name,)] = database.execute("SELECT study_name FROM studies")
    with database:
        database.execute("UPDATE trial_user_attributes SET value_json = '7' WHERE key = 'arm' AND trial_id = 2")
    assert [trial.asked.arm for trial in read_study(url, name).trials][1] == ""
    with database:
        database.execute(KEY % "id")
    with pytest.raises(ValueError, match=r"harness.id of study .* was deleted or changed; put an earlier copy back"):
        read_study(url, name)
    with database:
        database.execute("UPDATE study_directions SET direction = 'UP'")
    with pytest.raises(ValueError, match=r"study .* in the storage .* cannot be read .*'UP' .*; put an earlier copy"):
        read_study(url, name)
    with pytest.raises(
        ValueError, match=r"cannot open the storage .*'UP' .*; put an earlier copy back, or begin anew with --new"
    ):
        make_driver(tmp_path, FakeRuns()).run(set())
    with database:
        database.execute("UPDATE alembic_version SET version_num = 'v2.6.0.a'")
    with pytest.raises(ValueError, match="no longer compatible"):
        set_aside(url, name)


def test_a_notebooks_backend_of_another_environment_is_not_asked_for() -> None:
    """Jupyter's shell hands its own to every program."""
    code = "import harness, matplotlib, harness.figures; print(matplotlib.rcParams._get('backend'))"
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "MPLBACKEND": "module://no_such_inline.backend_inline"},
    )  # fmt: skip
    assert "no_such" not in said.stdout


@pytest.mark.parametrize(
    ("number", "code", "end"),
    [(28, 1, "make room, or let it be written to, and give the same command"), (2, 2, "such file or directory: 'x'")],
)
def test_a_program_whose_disk_is_full_was_not_typed_wrong(
    number: int, code: int, end: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = cli.program()

    @app.command()
    def main() -> None:
        raise OSError(number, os.strerror(number), "x")

    monkeypatch.setattr(sys, "argv", ["harness.report"])
    with pytest.raises(SystemExit) as stop:
        cli.run(app)
    assert stop.value.code == code and capsys.readouterr().err.strip().endswith(end)
