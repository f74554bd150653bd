"""What a sweep was asked for, and the command that it prints to go on with."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from harness import cli, files
from harness.machine import cores
from harness.manifest import said_changed
from harness.options import Options, check, searches_of, settings
from harness.study_files import load_study
from harness.urls import DATABASES, SERVERS, check_url


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> Options:
    for variable in ("OPTUNA_STORAGE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    name, file, study = load_study("digits", cli.STUDIES)
    return Options(name, file, study, 8, cores(), cli.OUT, None, None, False, "auto", None, False)


def test_the_command_to_go_on_with_says_what_was_asked_for_and_no_more(options: Options) -> None:
    assert options.command == "python -m harness.sweep digits --trials 8 --seed 0"
    more = replace(
        options, jobs=cores() + 1, device="cpu", limit=5.0, executor="ray", executor_options={"gpus": "0.5"},
        deterministic=True, out=Path("a place"),
    )  # fmt: skip
    assert shlex.split(more.command)[8:] == [
        "--out", "a place", "--deterministic", "--jobs", str(cores() + 1), "--device", "cpu", "--limit", "5",
        "--executor", "ray", "--option", "gpus=0.5",
    ]  # fmt: skip


def test_the_command_names_stores_without_passwords_and_only_those_that_the_environment_does_not(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "postgresql+psycopg://me:s3cret@host/db?a=1&b=2"
    given = replace(options, storage=url, tracking_uri="http://host:5000")
    assert shlex.split(given.command)[8:] == [
        "--storage", "postgresql+psycopg://me:***@host/db?a=1&b=2", "--tracking-uri", "http://host:5000",
    ]  # fmt: skip
    monkeypatch.setenv("OPTUNA_STORAGE", url)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert given.command == options.command


def test_the_command_begins_anew_until_what_there_was_is_kept_aside(options: Options) -> None:
    *others, last = searches_of(replace(options, new=True, searches=3))
    for each in (*others, last):
        assert each.command.endswith("--searches 3 --new") and each.begun.command.endswith("--searches 3")
        assert each.begun.name == each.name and not each.begun.new


@pytest.mark.parametrize("setting", ["address", "=auto", "address="])
def test_a_setting_that_is_none_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match="is no setting; write name=value, as address=auto"):
        settings([setting])


def test_a_database_may_stand_in_a_folder_that_the_sweep_makes(options: Options, tmp_path: Path) -> None:
    out = tmp_path / "new"
    check(replace(options, out=out, storage=f"sqlite:///{out / 'all.db'}"))
    with pytest.raises(ValueError, match=rf"--storage .* cannot be: there is no folder {tmp_path / 'old'}"):
        check(replace(options, out=out, storage=f"sqlite:///{tmp_path / 'old' / 'all.db'}"))


def test_a_setting_that_is_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="--option cpus is given twice: cpus=1, cpus=2"):
        settings(["cpus=1", "cpus=2"])


def test_what_has_changed_of_a_study_is_told(options: Options, tmp_path: Path) -> None:
    now, own = options.study, replace(options, out=tmp_path)
    assert said_changed(own, "c0ffee").startswith("What has changed is not known here: its file, ")
    other = replace(now, fixed={**now.fixed, "momentum": 0.5}, sampler="random", seed=now.seed + 1)
    identity = json.loads(json.dumps(other.identity())) | {"code": "abc"}
    files.write_sealed(own.study_dir / "study.json", {"config_hash": "c0ffee", "identity": identity})
    assert said_changed(own, "another").startswith("What has changed is not known here")
    assert said_changed(own, "c0ffee") == (
        "Changed: the code of its file; fixed.momentum was 0.5, and is not there; "
        f"sampler was 'random', and is 'tpe'; seed was {now.seed + 1}, and is {now.seed}"
    )
    many = identity | {"fixed": {**now.fixed, **dict.fromkeys("abcdef", 1)}}
    files.write_sealed(own.study_dir / "study.json", {"config_hash": "c0ffee", "identity": many})
    assert said_changed(own, "c0ffee").endswith("; fixed.d was 1, and is not there; and 4 more")
    same = json.loads(json.dumps(now.identity()))
    files.write_sealed(own.study_dir / "study.json", {"config_hash": "c0ffee", "identity": same})
    assert said_changed(own, "c0ffee") == "Changed: its data or its teacher, and nothing in its file"
    whole = same | {"seed": float(now.seed)}  # which is equal, and written otherwise
    files.write_sealed(own.study_dir / "study.json", {"config_hash": "c0ffee", "identity": whole})
    assert said_changed(own, "c0ffee") == "Changed: seed was 0.0, and is 0"


def test_settings_may_hold_equals_signs() -> None:
    assert settings(["setup=export A=1", "gpus=0.5"]) == {"setup": "export A=1", "gpus": "0.5"}


@pytest.mark.parametrize("limit", [0.0, -1.0, 1e-9, 1e300, float("inf"), float("nan")])
def test_a_limit_that_is_none_is_refused(limit: float, options: Options) -> None:
    with pytest.raises(ValueError, match=r"--limit .* is out of range"):
        check(replace(options, limit=limit))


def test_an_executor_that_is_not_there_is_refused(options: Options) -> None:
    with pytest.raises(ValueError, match="unknown executor 'cloud'; executors are local, ray, slurm"):
        check(replace(options, executor="cloud"))


PASSWORDS = ("tok#en123", "a/b", "a?b", "a[b", "a:b")


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_password_may_be_anything(password: str, options: Options, tmp_path: Path) -> None:
    check(replace(options, out=tmp_path, storage=f"postgresql://ann:{password}@h/d"))


@pytest.mark.parametrize(
    "url",
    [
        *(f"postgresql://ann:{password}@h:port/d" for password in PASSWORDS),
        *(f"postgresql://ann:{password}@h/d" for password in ("a@b:s3cret#x", "s3@cret:tail", "@s3c:ret")),
        *("postgresql://ann:pw@h:s3cret/d?application_name=a@b", "postgresql+psycopg://ann:s3cret"),
        *("http://ann:s3cret", "http://ann:s3cret/x", "http://ann:s3#cret@h", "http://[::1]:s3c"),
    ],
)
def test_no_part_is_said_of_a_url_that_cannot_be_read(url: str, options: Options, tmp_path: Path) -> None:
    option = {"storage": url} if url.startswith("postgresql") else {"tracking_uri": url}
    with pytest.raises(ValueError, match=r"has a port that is no number; the form is \w+://USER:PASSW") as caught:
        check(replace(options, out=tmp_path, **option))  # type: ignore[arg-type]
    said = str(caught.value)
    assert not any(part in said for part in (*PASSWORDS, "s3", "cret", "tail", "ret#"))


@pytest.mark.parametrize("url", ["postgres://ann:s3c ret@h/d", "postgres://ann:s3cret", "ann:s3cret@h/d", "ann:s3cret"])
def test_no_part_is_said_of_what_names_no_store_where_a_password_may_be_in_it(url: str) -> None:
    with pytest.raises(ValueError, match=r"^--storage names no store; stores are sqlite:///FILE") as caught:
        check_url("--storage", url, DATABASES)
    assert "s3c" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("https://h:99999", "--tracking-uri has a port above 65535; the form is https://"),
        ("http://[::1", "--tracking-uri has a bracket that is not closed; the form is http://"),
        (
            "sqlite:///file:x.db",
            "--tracking-uri 'sqlite:///file:x.db' has a URI of SQLite's own within; write sqlite:///",
        ),
        ("sqlite:///file::memory:?cache=shared&uri=true", "has a URI of SQLite's own within"),
        ("sqlite:////tmp/x.db?uri=true", "has a URI of SQLite's own within"),
        ("sqlite:///fil%65:m?%75ri=true", "has a URI of SQLite's own within"),
        ("sqlite:///FILE:m", "has a URI of SQLite's own within"),
        ("sqlite:///%3Amemory%3A", "is a database in memory"),
        ("sqlite:///x.db?timeout=abc", "has an option that cannot be: could not convert string to float: 'abc'"),
        ("sqlite:///x.db?foo=1", r"has an option that cannot be: Query string argument\(s\) 'foo' are not accepted by"),
    ],
)
def test_a_url_that_cannot_be_says_what_is_wrong_with_it(url: str, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        check_url("--tracking-uri", url, (*DATABASES, *SERVERS))
    check_url("--storage", "sqlite:///x.db?timeout=9", DATABASES)


def test_a_port_is_looked_for_where_it_stands() -> None:
    check_url("--tracking-uri", "http://h:5000/?a=x@y:z", SERVERS)
    check_url("--storage", "postgresql://ann@h:5432/d?application_name=a%40b:c", DATABASES)


@pytest.mark.parametrize("url", ["postgresql://ann:s3c ret@h/d", "postgresql://ann:s3cret@h/d ", "postgresql://a\tb/d"])
def test_a_url_with_a_blank_is_refused_and_not_said(url: str, options: Options, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^--storage has a blank in its URL; write it as %20, or leave it out where"):
        check(replace(options, out=tmp_path, storage=url))
    (tmp_path / "a b").mkdir()
    check(replace(options, out=tmp_path, storage=f"sqlite:///{tmp_path}/a b/study.db"))
