"""Files that are whole or not there: how everything that outlives a process is written, read, locked and put aside.

A file is written beside its place and renamed; a full disk or a kill leaves the old one. `write_sealed` adds a digest
of what is in a JSON file, by which `read_sealed` knows one that was changed since. What cannot be read is a
`ValueError` in one line; only what may pass (too many open files, a server that is away) stays an `OSError`.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from harness.values import digest

SEAL = "digest"
"""The key of a sealed file that stands for all others."""
PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.EINTR, errno.ETIMEDOUT)
"""Errors of reading that say nothing about the file."""
log = logging.getLogger(__name__)


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def write_json(path: Path, data: Any) -> None:
    """Write JSON so that a reader, or a restart after a power cut, sees the old file or the new one, never a part."""
    with whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        json.dump(_finite(data), file, allow_nan=False, separators=(",", ":"))
        file.flush()
        os.fsync(file.fileno())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, as `write_json` does."""
    with whole(path) as temporary, temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_sealed(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON object with a digest of what is in it."""
    plain = json.loads(json.dumps(_finite(data), allow_nan=False))
    write_json(path, {**plain, SEAL: digest(plain)})


@contextmanager
def whole(path: Path, *, lasting: bool = True) -> Iterator[Path]:
    """A place to write to, which takes the place of `path` once it is written, and goes when that fails.

    What is not `lasting`, for it can be made again, may be lost with the machine's power. Raises `OSError` that names
    `path`, whatever step of writing it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _drop_temporaries_of_the_dead(path)
        temporary = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")
        try:
            yield temporary
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        if lasting and os.name == "posix":
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        raise OSError(error.errno or 0, error.strerror or str(error), str(path)) from error


def _drop_temporaries_of_the_dead(path: Path) -> None:
    """Delete what a process of this machine was writing to the same place when it was killed."""
    if os.name != "posix":
        return  # elsewhere asking about a process may end it
    own = re.compile(re.escape(f".{path.name}.{socket.gethostname()}-") + r"(\d{1,9})\.tmp")
    for other in path.parent.iterdir():
        if (found := own.fullmatch(other.name)) and not _is_alive(int(found[1])):
            with suppress(OSError):
                other.unlink()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's
    return True


def read_json(path: Path) -> Any:
    """The JSON data in a file, or None where there is no file. Raises `ValueError` for a file that is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in PASSING:
            raise
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise ValueError(f"{path} is not JSON: it is nested too deeply") from None
    except ValueError as error:  # of JSON, of UTF-8, of a number of too many digits
        raise ValueError(f"{path} is not JSON: {error}") from None


def read_sealed(path: Path) -> dict[str, Any] | None:
    """The object in a file, without its digest, or None where there is no file; one that has no digest is believed.

    Raises `ValueError` for a file that is no JSON object, or was changed since it was written.
    """
    data = read_json(path)
    if data is None and not path.exists():
        return None
    if not isinstance(data, dict):
        raise ValueError(f"{path} is not an object of JSON")
    said = data.pop(SEAL, None)
    try:
        if said is not None and said != digest(data):
            raise ValueError(f"{path} is not as it was written")
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply") from None
    return data


def put_aside(path: Path, why: str) -> Path:
    """Rename what is in the way, say so in one line, and give its new place; nothing is deleted."""
    stamp = time.time_ns()
    while os.path.lexists(place := path.with_name(f"{path.name}.aside-{stamp}")):
        stamp += 1
    try:
        path.rename(place)
    except FileNotFoundError:
        return place  # another process was first, and has said so
    log.warning("%s; it is kept as %s", " ".join(why.split())[:500], place.name)
    return place


def lock(path: Path) -> FileLock | None:
    """The lock at `path`, taken, or None where another process holds it. It goes when its holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(path)
    try:
        held.acquire(timeout=0)
    except Timeout:
        return None
    return held


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock at `path`. Makes nothing: where there is no file, nobody does."""
    if os.name != "posix":  # there the lock cannot be looked at but by taking it
        held = lock(path) if path.exists() else None
        if held is not None:
            held.release()
        return path.exists() and held is None
    import fcntl

    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return False
    except BlockingIOError:
        return True
    return False


def keep_private() -> None:
    """Let what this process and its children write be readable by the user alone, or as `HARNESS_UMASK` says.

    Raises `ValueError` where that is no mask of octal digits that leaves the user's own rights.
    """
    wanted = os.environ.get("HARNESS_UMASK", "")
    if wanted and not re.fullmatch("0{0,3}[0-7]{1,2}", wanted):
        raise ValueError(f"HARNESS_UMASK {wanted!r} must be octal digits for group and others, as 077, 007 or 027")
    os.umask(int(wanted, 8) if wanted else 0o077)


def cannot_be_written(error: OSError) -> bool:
    """Whether the error says that the disk, or the user's share of it, is full, or that it has become read-only."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _finite(data: Any) -> Any:
    """JSON has no infinities: a number that is not finite becomes null."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return data
