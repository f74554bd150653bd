"""No password and no token is printed, logged or kept; other text is as it was."""

from __future__ import annotations

import logging
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from harness import cli, urls
from harness.urls import keeps_nothing, redact

secrets = st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=6, max_size=30)
around = st.sampled_from(["", "cannot reach ", "(", "two http://here/ and ", "x=1 "])


SHAPES: tuple[Callable[[str], str], ...] = (
    lambda secret: f"postgresql+psycopg://ann:{secret}@db:5432/x",
    lambda secret: f"http://:{secret}@db:5432/x",
    lambda secret: f"mysql://ann:{quote(secret, safe='')}@db/x?sslmode=require",
    lambda secret: f"https://{quote(secret, safe='')}@host/x",
    lambda secret: f"postgresql://db/x?password={quote_plus(secret)}&sslmode=require",
    lambda secret: f"redis://db/x?a=1&sslpassword={quote(secret, safe='')}&access_token={quote(secret, safe='')}#top",
    lambda secret: "host=db password='" + secret.replace("\\", r"\\").replace("'", r"\'") + "' dbname=x",
    lambda secret: f"host=db password = {quote(secret, safe='')} dbname=x",
    lambda secret: f'{{"user": "ann", "api_key": "{quote(secret, safe="")}"}}',
    lambda secret: f"{{'aws-secret': '{quote(secret, safe='')}'}}",
    lambda secret: f"Authorization: Bearer {quote(secret, safe='')}",
    lambda secret: f"DB_PASSWORD={quote(secret, safe='')}",
)


@settings(max_examples=1000)
@given(secret=secrets, shape=st.sampled_from(SHAPES), before=around, after=around)
def test_a_secret_never_survives(secret: str, shape: Callable[[str], str], before: str, after: str) -> None:
    forms = (secret, quote(secret, safe=""), quote_plus(secret))
    assume(not any(form in f"{before}{shape('-')} {after}" for form in forms))
    left = redact(f"{before}{shape(secret)} {after}")
    assert not any(form in left for form in forms)
    assert urls.HIDDEN in left
    assert redact(left) == left


@settings(max_examples=1000)
@given(
    secret=secrets,
    name=st.sampled_from(urls.VARIABLES),
    shape=st.sampled_from(["401 for {}", "({})", "{}", "a{}b", "x?y={}"]),
)
def test_what_a_variable_holds_never_survives(secret: str, name: str, shape: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name, secret)
        for said in (secret, quote(secret, safe="")):
            assert said not in redact(shape.format(said)).replace(urls.HIDDEN, "")


@settings(max_examples=1000)
@given(st.text(st.characters(codec="utf-8", exclude_characters=":=@")))
def test_ordinary_text_is_unchanged(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=trials",
        "sqlite:////tmp/study.db", "postgresql://ann@db:5432/x", "python -m harness.sweep mine --trials 4 --out here",
        "trial 7 is given up: RuntimeError: shape '[2]' is invalid", "kl alpha=.31 T=4.2 width=16", "max_tokens=5",
        "the password is wrong: try again", "temperature=3.0 teacher=offline", "see https://example.org/a_token/b",
        "mail ann@example.org", "file:///tmp/mlartifacts", "key=digits/3", "[Errno 28] No space left on device: '/a/b'",
    ],
)  # fmt: skip
def test_what_the_harness_says_is_unchanged(text: str) -> None:
    assert redact(text) == text


def test_where_a_store_is_is_still_told() -> None:
    assert redact("postgresql://ann:s3cret@db:5432/x") == "postgresql://ann:***@db:5432/x"
    assert redact("postgresql+psycopg://ann:p@ss:w/rd@db/x") == "postgresql+psycopg://ann:***@db/x"
    assert redact("http://db/x?password=a&b=1") == "http://db/x?password=***&b=1"
    assert redact("host=db password=s3cret dbname=x") == "host=db password=*** dbname=x"


def test_errors_and_logs_are_without_passwords(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.fail("cannot open postgresql://ann:s3cret@db/x")
    assert "s3cret" not in capsys.readouterr().err
    record = logging.LogRecord("x", logging.WARNING, "", 0, "lost %s", ("http://ann:s3cret@db",), None)
    assert cli._without_secrets(record) and record.getMessage() == "lost http://ann:***@db"


@pytest.mark.parametrize(
    ("url", "lost"),
    [
        ("sqlite://", True), ("sqlite:///", True), ("sqlite:///:memory:", True), ("sqlite+pysqlite://", True),
        ("sqlite:///%3Amemory%3A", True),
        ("sqlite:///file:x?mode=memory&uri=true", True), ("sqlite:///study.db", False), ("sqlite:////a/b.db", False),
        ("sqlite:///study.db?timeout=5", False), ("postgresql://u@h/memory", False), ("http://h:5000", False),
        ("", False),
    ],
)  # fmt: skip
def test_a_database_in_memory_keeps_nothing(url: str, lost: bool) -> None:
    assert keeps_nothing(url) is lost
