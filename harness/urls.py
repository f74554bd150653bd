"""Where stores are: URLs without their passwords, and the files of SQLite ones."""

from __future__ import annotations

import re
from pathlib import Path


def redact(url: str) -> str:
    """A URL, or a message with URLs in it, without passwords."""
    return re.sub(r"//([^:/@\s]*):[^@\s]*@", r"//\1:***@", url)


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLite URL, or None for any other store."""
    return Path(url.removeprefix("sqlite:///").partition("?")[0]) if url.startswith("sqlite:///") else None
