"""The files of CIFAR-10 and CIFAR-100 in three versions: binary, Python's pickles, Hugging Face's parquet.

Each reader takes a file, what it must hold, and gives images `[examples, 3, 32, 32]` uint8 and labels `[examples]`. It
raises `ValueError` in one line for a file that is unreadable or another one.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.tasks import places, unpickled
from harness.tasks.images import Labelled, labelled

SIDE = 32
PIXELS = 3 * SIDE * SIDE
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", SIDE, SIDE)
"""How a PNG of 32x32 pixels begins."""
Part = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Version:
    """One form of a set: a folder, and the files of its two official parts with their checksums, if there are any."""

    folder: str
    train: Mapping[str, str]
    test: Mapping[str, str]


@dataclass(frozen=True)
class Cifar:
    """A set: its versions, the first one there is read; the labels' place in a binary row, their name elsewhere."""

    name: str
    num_classes: int
    label_at: int
    label: str
    versions: tuple[Version, ...]
    get: str
    counts: tuple[int, int] = (50_000, 10_000)


def read(cifar: Cifar) -> tuple[Labelled, Labelled]:
    """The official train and test part. Raises `ValueError` in one line for missing or wrong files."""
    firsts = {f"{version.folder}/{next(iter(version.train))}": version for version in cifar.versions}
    first = places.find(list(firsts), get=cifar.get, task=cifar.name)
    version = next(version for name, version in firsts.items() if first.as_posix().endswith(name))
    train, test = (
        _part(cifar, first.parent, files, count)
        for files, count in zip((version.train, version.test), cifar.counts, strict=True)
    )
    return train, test


def _part(cifar: Cifar, folder: Path, files: Mapping[str, str], count: int) -> Labelled:
    readers = {".bin": _binary, ".parquet": _parquet}
    parts = [
        readers.get(Path(name).suffix, _pickled)(folder / name, checksum, count // len(files), cifar)
        for name, checksum in files.items()
    ]
    images, labels = (np.concatenate(some) for some in zip(*parts, strict=True))
    return labelled(images, labels, cifar.num_classes, folder)


def _binary(path: Path, sha1: str, count: int, cifar: Cifar) -> Part:
    """A row an example: one label, or a coarse one before it, then the pixels."""
    row = cifar.label_at + 1 + PIXELS
    data = _bytes(path, count * row + 1)
    if len(data) != count * row:
        least = "at least " if len(data) > count * row else ""
        raise ValueError(f"{path} has {least}{len(data):,} bytes, not {count * row:,}; get it again")
    if hashlib.sha1(data, usedforsecurity=False).hexdigest() != sha1:
        raise ValueError(f"{path} is not the published file: its SHA-1 is another one; get it again")
    rows = np.frombuffer(data, np.uint8).reshape(count, row)
    return rows[:, cifar.label_at + 1 :].reshape(count, 3, SIDE, SIDE), rows[:, cifar.label_at].astype(np.int64)


def _pickled(path: Path, md5: str, count: int, cifar: Cifar) -> Part:
    """A mapping that has the pixels as an array, and the labels as a list. Only the published file is unpickled."""
    data = _bytes(path)
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
        raise ValueError(f"{path} is not the published file: its MD5 is another one; get it again")
    found = unpickled.load(data, path)
    pixels, labels = (found.get(name) if isinstance(found, dict) else None for name in (b"data", cifar.label.encode()))
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape != (count, PIXELS):
        raise ValueError(f"{path} has no array 'data' of [{count}, {PIXELS}] unsigned bytes")
    return pixels.reshape(count, 3, SIDE, SIDE), _labels(labels, count, path)


def _parquet(path: Path, _: str, count: int, cifar: Cifar) -> Part:
    """Columns of PNGs and of labels. There are no published checksums: counts, sizes and classes are checked."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if int(pa.__version__.partition(".")[0]) < 15:
        raise ValueError(f"pyarrow {pa.__version__} may unpickle what is in {path}; install pyarrow>=15")
    label = {"labels": "label", "fine_labels": "fine_label"}[cifar.label]
    try:
        with pq.ParquetFile(path) as file:
            names, rows = file.schema_arrow.names, file.metadata.num_rows
            if rows != count or not {"img", label} <= set(names):
                raise ValueError(f"it has {rows} rows of {', '.join(names)}, not {count} of img, {label}")
            table = file.read(columns=["img", label], use_threads=False).to_pydict()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ValueError(f"cannot read {path} ({' '.join(str(error).split())}); get it again") from None
    images = np.stack([_png(cell, f"image {index} of {path}") for index, cell in enumerate(table["img"])])
    return images, _labels(table[label], count, path)


def _png(cell: Any, what: str) -> np.ndarray:
    """The pixels `[3, 32, 32]` of a cell that holds a PNG."""
    from PIL import Image

    data = cell.get("bytes") if isinstance(cell, dict) else None
    if not isinstance(data, bytes) or not data.startswith(PNG):
        raise ValueError(f"{what} is no PNG of {SIDE}x{SIDE} pixels")
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            pixels = np.asarray(image)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise ValueError(f"{what} is damaged ({error})") from None
    if pixels.shape != (SIDE, SIDE, 3) or pixels.dtype != np.uint8:
        raise ValueError(f"{what} is not of three colours")
    return pixels.transpose(2, 0, 1)


def _labels(labels: Any, count: int, path: Path) -> np.ndarray:
    if not isinstance(labels, list) or len(labels) != count or any(type(label) is not int for label in labels):
        raise ValueError(f"{path} has no list of {count} labels")
    if any(not -1 < label < 256 for label in labels):
        raise ValueError(f"{path} is mislabelled: its labels span {min(labels)}..{max(labels)}")
    return np.array(labels, np.int64)


def _bytes(path: Path, most: int = -1) -> bytes:
    """Up to so many bytes of a file."""
    try:
        with path.open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise ValueError(f"cannot read {path} ({error}); get it again") from None
