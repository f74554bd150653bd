"""Where stores are: URLs without their passwords and tokens, the files of SQLite ones, and those for readers only."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, quote_plus, unquote, urlsplit

DATABASES = ("sqlite:///FILE", "postgresql://USER@HOST/DATABASE")
SERVERS = ("http://HOST:PORT", "https://HOST:PORT")
HIDDEN = "***"
UNREAD = {"out of range": "a port above 65535", "IPv6": "a bracket that is not closed"}
"""What is wrong with a URL by how Python says so."""
VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD")
"""Variables of the environment whose values are secrets, whatever text they turn up in."""
SHORTEST = 4
"""Of a variable's value that is looked for: a shorter one would take ordinary words apart."""
NAMES = (
    r"(?:[\w.-]*[_.-])?(?:[a-z]*password|passwd|pwd|passphrase|secret|token|api_?key|access_?key|account_?key|sig|"
    r"signature|credentials?)"
)
"""What a key is called whose value is a secret."""
USER = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)([^\s:/@?#]*):\S*@")
STORES = ("OPTUNA_STORAGE", "MLFLOW_TRACKING_URI")
"""Variables that hold URLs. Their passwords are known, so also those that no well-formed URL could have are found."""
TOKEN = re.compile(r"(?i)\b(https?://)(?!\*\*\*)[^\s:/@?#]+@")
PAIR = re.compile(rf"(?i)(?<![\w.-])({NAMES}\s*=\s*)('(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|\S+?(?=&[\w.-]+=|\s|$))")
QUOTED = re.compile(rf"(?i)(['\"]{NAMES}['\"]\s*:\s*)('(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\")")
HEADER = re.compile(r"(?i)(\bauthorization['\"]?\s*[:=]\s*['\"]?(?:(?:bearer|basic)\s+)?)[^\s'\"]+")


def redact(text: str) -> str:
    """A URL, or a message with URLs in it, without passwords and tokens.

    Hidden are passwords of URLs of any scheme, up to the last `@` of what may be one, the user of an `http` one, who
    may be a token; values of keys such as `password=`, in queries and in connection strings; and what `VARIABLES` hold.
    """
    for secret in filter(None, map(os.environ.get, VARIABLES)):
        if len(secret) >= SHORTEST:
            for said in (secret, quote(secret, safe=""), quote_plus(secret)):
                text = text.replace(said, HIDDEN)
    for url in filter(None, map(os.environ.get, STORES)):
        user, colon, password = url.partition("://")[2].rpartition("@")[0].partition(":")
        if colon and password:
            text = text.replace(f"{user}:{password}@", f"{user}:{HIDDEN}@")
    text = USER.sub(rf"\1\2:{HIDDEN}@", text)
    text = TOKEN.sub(rf"\1{HIDDEN}@", text)
    text = PAIR.sub(rf"\1{HIDDEN}", text)
    text = QUOTED.sub(rf"\1'{HIDDEN}'", text)
    return HEADER.sub(rf"\1{HIDDEN}", text)


def storage_of(study_dir: Path, given: str | None) -> str:
    """The URL of a study's storage: the one that was given, or the database in its folder."""
    return given or sqlite_url(study_dir / "study.db")


def sqlite_url(file: Path) -> str:
    """The URL of a SQLite database."""
    return f"sqlite:///{_escaped(str(file.absolute()))}"


def _escaped(text: str) -> str:
    """What stands for a path in a URL, of which `?` begins the options and `%` a character by its number."""
    return text.replace("%", "%25").replace("?", "%3F")


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLite URL, or None for any other store."""
    return Path(unquote(url.removeprefix("sqlite:///").partition("?")[0])) if url.startswith("sqlite:///") else None


def check_url(option: str, url: str | None, forms: Sequence[str]) -> None:
    """Raise `ValueError` for what an option was given that is no store of these forms, or keeps nothing.

    What cannot be read as a URL is not said: a part of it may be a password.
    """
    if url is None:
        return
    if keeps_nothing(url):
        raise ValueError(f"{option} {url!r} is a database in memory, which nothing outlives; name a file or a server")
    schemes = [form.partition("://")[0] for form in forms]
    scheme = re.sub(r"^postgresql\+\w+$", "postgresql", url.partition("://")[0])  # any driver that is installed
    if scheme not in schemes or "://" not in url or (scheme == "sqlite" and sqlite_file(url) is None):
        raise ValueError(f"{option}{_sayable(url)} names no store; stores are {', '.join(forms)}")
    if scheme == "sqlite":
        _check_sqlite(option, url)
        return
    if re.search(r"\s", url):
        raise ValueError(f"{option} has a blank in its URL; write it as %20, or leave it out where the URL ends")
    try:
        if scheme in ("http", "https"):
            _ = urlsplit(url).port
        else:
            from sqlalchemy.engine import make_url

            make_url(url)
    except ValueError as error:
        wrong = next((said for sign, said in UNREAD.items() if sign in str(error)), "a port that is no number")
        raise ValueError(
            f"{option} has {wrong}; the form is {scheme}://USER:PASSWORD@HOST:PORT, and in a password "
            "@ : / ? # are written as %40 %3A %2F %3F %23"
        ) from None


def _check_sqlite(option: str, url: str) -> None:
    """Raise `ValueError` for a SQLite URL with a URI within, under which others would not find its file, or with an
    option that cannot be."""
    if re.search(r"(?i)^sqlite:///file:|[?&]uri=", unquote(url)):
        raise ValueError(f"{option} {url!r} has a URI of SQLite's own within; write {DATABASES[0]}")
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, SAWarning

    try:
        parsed = make_url(url)
        with warnings.catch_warnings(action="error", category=SAWarning):  # of an option that SQLite does not have
            parsed.get_dialect()().create_connect_args(parsed)
    except (ValueError, TypeError, ArgumentError, SAWarning) as error:
        raise ValueError(f"{option} {url!r} has an option that cannot be: {str(error).partition(';')[0]}") from None


def _sayable(url: str) -> str:
    """` 'the URL'` without its password; empty where one may be anywhere in it."""
    scheme, found, rest = url.partition("://")
    is_clear = not re.search(r"[\s:@]", rest if found else scheme)
    has_its_place = found and "@" in rest and not re.search(r"\s", rest)
    return f" {redact(url)!r}" if is_clear or has_its_place else ""


def keeps_nothing(url: str) -> bool:
    """Whether it is the URL of a SQLite database in memory."""
    return re.fullmatch(r"sqlite(\+\w+)?:((//)?/?(:memory:)?(\?.*)?|.*[?&]mode=memory.*)", unquote(url)) is not None


def read_only(url: str) -> str:
    """The URL of the same store for a reader that leaves everything as it is. Raises `ValueError` for a missing file.

    SQLite makes files beside a database in WAL mode even for a reader, and leaves them. Where there are none, nobody
    has it open, and it is read as a file that does not change; else only the memory that its users share does.
    """
    file = sqlite_file(url)
    if file is None:
        return url
    if not file.is_file():
        raise ValueError(f"there is no database at {file}")
    in_use = file.with_name(f"{file.name}-wal").exists()
    still = "&immutable=1" if _in_wal_mode(file) and not in_use else ""
    return f"sqlite:///{_escaped(file.absolute().as_uri())}?mode=ro{still}&uri=true"


def _in_wal_mode(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(20)[18:] == b"\x02\x02"
