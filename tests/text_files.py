"""Small sets of texts, written in the formats that the tasks read: a wheel of tables, an archive inside an archive."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.tasks import orange, snippets


def sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def tab(rows: Sequence[str]) -> bytes:
    """A table of categories and texts, its three header rows first."""
    return "\n".join([*orange.HEADER, *rows, ""]).encode()


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    """A zip archive of these files."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in files.items():
            archive.writestr(name, raw)
    return path


def write_tables(root: Path, tables: Mapping[str, bytes]) -> dict[str, str]:
    """The wheel of these tables under `root`, and their SHA-256."""
    write_zip(root / orange.WHEEL, {f"{orange.INSIDE}/{name}.tab": raw for name, raw in tables.items()})
    return {name: sha256(raw) for name, raw in tables.items()}


def tar(name: str, raw: bytes) -> bytes:
    """A compressed archive of one file."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz") as archive:
        about = tarfile.TarInfo(name)
        about.size = len(raw)
        archive.addfile(about, io.BytesIO(raw))
    return written.getvalue()


def rated(rows: Sequence[tuple[float, str]]) -> bytes:
    """A table of snippets: number, mean rating, text."""
    return "".join(f"{i}_1\t{rating}\t{text}\r\n" for i, (rating, text) in enumerate(rows)).encode()


def write_snippets(root: Path, table: bytes) -> str:
    """The archive inside the archive under `root`, and the table's SHA-256."""
    (root / snippets.ARCHIVE).write_bytes(tar(snippets.INNER, tar(snippets.TABLE, table)))
    return sha256(table)
