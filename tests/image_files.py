"""Small image sets, written in every format that the tasks read."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from harness.tasks.cifar_files import Cifar, Version

Arrays = tuple[np.ndarray, np.ndarray]


def idx(array: np.ndarray) -> bytes:
    """An IDX file of unsigned bytes."""
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes((0, 0, 8, array.ndim)) + sizes + array.astype(np.uint8).tobytes()


def pictures(count: int, shape: tuple[int, ...], num_classes: int, seed: int = 0) -> Arrays:
    """Random pictures, equally many of every class."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, *shape), dtype=np.uint8), np.arange(count) % num_classes


def write_fashion(root: Path, parts: Mapping[str, Arrays], packed: bool = True) -> dict[str, str]:
    """Fashion-MNIST's files under `root` as Debian has them, or plain as in torchvision's folder; their SHA-256."""
    folder, sums = root / ("fashion-mnist" if packed else "FashionMNIST/raw"), {}
    folder.mkdir(parents=True)
    for part, arrays in parts.items():
        for array, name in zip(arrays, (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"), strict=True):
            whole = idx(array)
            (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(whole) if packed else whole)
            sums[name] = hashlib.sha256(whole).hexdigest()
    return sums


def binary(images: np.ndarray, labels: np.ndarray, cifar: Cifar) -> bytes:
    """A file of CIFAR's binary version."""
    coarse = np.zeros((len(labels), cifar.label_at))
    return np.hstack([coarse, labels[:, None], images.reshape(len(images), -1)]).astype(np.uint8).tobytes()


def python(images: np.ndarray, labels: np.ndarray, cifar: Cifar) -> bytes:
    """A file of CIFAR's python version, opcode by opcode as Python 2 and its numpy wrote it."""

    def short(text: str) -> bytes:
        return b"U" + bytes((len(text),)) + text.encode()

    pixels = images.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + short("b") + b"\x87R(K\x01"
        + b"J" + struct.pack("<i", len(images)) + b"M" + struct.pack("<H", 3072) + b"\x86"
        + b"cnumpy\ndtype\n" + short("u1") + b"K\x00K\x01\x87R(K\x03" + short("|") + b"NNNJ\xff\xff\xff\xff"
        + b"J\xff\xff\xff\xffK\x00tb\x89" + b"T" + struct.pack("<i", len(pixels)) + pixels + b"tb"
    )  # fmt: skip
    numbers = b"](" + b"".join(b"K" + bytes((label,)) for label in labels.tolist()) + b"e"
    return b"\x80\x02}(" + short("data") + array + short(cifar.label) + numbers + b"u."


def png(image: np.ndarray) -> bytes:
    """A picture `[channels, height, width]` as a PNG."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0).squeeze())).save(file, "PNG")
    return file.getvalue()


def parquet(images: np.ndarray, labels: np.ndarray, cifar: Cifar) -> bytes:
    """A file as on Hugging Face, in another order than the other versions."""
    order = np.random.default_rng(1).permutation(len(labels))
    label = {"labels": "label", "fine_labels": "fine_label"}[cifar.label]
    cells = [{"bytes": png(images[index]), "path": f"{index}.png"} for index in order]
    return columns({"img": cells, label: labels[order].tolist()})


def columns(table: Mapping[str, Sequence[object]]) -> bytes:
    """A parquet file of these columns."""
    file = io.BytesIO()
    pq.write_table(pa.table(dict(table)), file)
    return file.getvalue()


WRITERS: Mapping[str, tuple[int, Callable[[np.ndarray, np.ndarray, Cifar], bytes], str]] = {
    "binary": (0, binary, "sha1"),
    "python": (1, python, "md5"),
    "parquet": (2, parquet, ""),
}
"""Each version's place in `Cifar.versions`, what writes a file of it, and its checksum."""


def write_cifar(root: Path, cifar: Cifar, version: str, train: Arrays, test: Arrays) -> Cifar:
    """The set in one version under `root`, and what is known of it: its files' names as they are, other checksums."""
    place, write, checksum = WRITERS[version]
    known = cifar.versions[place]
    folder = root / known.folder
    folder.mkdir(parents=True)

    def written(files: Mapping[str, str], arrays: Arrays) -> dict[str, str]:
        parts = [np.split(array, len(files)) for array in arrays]
        for name, images, labels in zip(files, *parts, strict=True):
            (folder / name).write_bytes(write(images, labels, cifar))
        return {name: summed(folder / name, checksum) for name in files}

    made = Version(known.folder, written(known.train, train), written(known.test, test))
    versions = (*cifar.versions[:place], made, *cifar.versions[place + 1 :])
    return dataclasses.replace(cifar, versions=versions, counts=(len(train[1]), len(test[1])))


def summed(path: Path, checksum: str) -> str:
    """A file's checksum; of no kind, none."""
    return hashlib.new(checksum, path.read_bytes()).hexdigest() if checksum else ""


def refused(call: Callable[[], object], message: str, root: Path) -> None:
    """It fails in one line, each time anew, and leaves the folder and its surroundings as they were."""
    before = {path: path.stat().st_mtime_ns for path in root.parent.rglob("*")}
    for _ in range(2):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert {path: path.stat().st_mtime_ns for path in root.parent.rglob("*")} == before
