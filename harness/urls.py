"""Where stores are: URLs without their passwords, the files of SQLite ones, and those for readers only."""

from __future__ import annotations

import re
from pathlib import Path


def redact(url: str) -> str:
    """A URL, or a message with URLs in it, without passwords."""
    return re.sub(r"//([^:/@\s]*):[^@\s]*@", r"//\1:***@", url)


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLite URL, or None for any other store."""
    return Path(url.removeprefix("sqlite:///").partition("?")[0]) if url.startswith("sqlite:///") else None


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
    return f"sqlite:///{file.absolute().as_uri()}?mode=ro{still}&uri=true"


def _in_wal_mode(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(20)[18:] == b"\x02\x02"
