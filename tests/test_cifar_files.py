"""CIFAR in its three versions: read to the bit and alike; what is wrong is refused in one line, and no gadget runs."""

from __future__ import annotations

import codecs
import dataclasses
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from harness.tasks import cifar, cifar_files, places, unpickled
from harness.tasks.cifar_files import Cifar
from tests.image_files import WRITERS, columns, parquet, pictures, png, refused, summed, write_cifar

TRAIN, TEST = pictures(100, (3, 32, 32), 10), pictures(20, (3, 32, 32), 10, seed=1)


@pytest.mark.parametrize("known", [cifar.CIFAR10, cifar.CIFAR100], ids=lambda known: known.name)
def test_every_version_of_cifar_makes_the_same_task(
    known: Cifar, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes, hashes = known.num_classes, set()
    train, test = (pictures(each * classes, (3, 32, 32), classes, seed=each) for each in (5, 1))
    labels = {image.tobytes(): label for part in (train, test) for image, label in zip(*part, strict=True)}
    for version in WRITERS:
        monkeypatch.setenv(places.VARIABLE, str(data_root / version))
        task = cifar.task_of(write_cifar(data_root / version, known, version, train, test))
        splits = task.train, task.val, task.test.read("confirm")
        assert [len(split) for split in splits] == [4 * classes, classes, classes] and task.scale is not None
        for split in splits:
            raw = (split.inputs.double() * task.scale.sd + task.scale.mean).round().to(torch.uint8).numpy()
            assert [labels[image.tobytes()] for image in raw] == split.labels.tolist()
        hashes.add(tuple(split.hash for split in splits))
    assert len(hashes) == 1


def small(data_root: Path, version: str) -> Cifar:
    """A small CIFAR-10 in one version."""
    return write_cifar(data_root, cifar.CIFAR10, version, TRAIN, TEST)


def test_the_binary_version_is_read_before_the_pickled_one_and_that_before_parquet(data_root: Path) -> None:
    known = cifar.CIFAR10
    for seed, version in enumerate(["parquet", "python", "binary"], start=5):
        images, labels = pictures(20, (3, 32, 32), 10, seed)
        known = write_cifar(data_root, known, version, (images, labels), (images, labels))
        found = cifar_files.read(known)[1].images
        assert sorted(image.tobytes() for image in found) == sorted(image.tobytes() for image in images)


@pytest.mark.parametrize("version", ["binary", "python"])
@pytest.mark.parametrize("damage", ["cut", "longer", "flipped", "empty", "gone", "folder"])
def test_another_file_than_the_published_one_is_refused_before_anything_is_made_of_it(
    damage: str, version: str, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = small(data_root, version)
    read = unpickled.load
    monkeypatch.setattr(
        unpickled, "load", lambda data, path: read(data, path) if path.name != "data_batch_4" else 1 / 0
    )
    place = known.versions[("binary", "python").index(version)]
    path = data_root / place.folder / list(place.train)[3]
    whole = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "gone":
        flipped = bytes((*whole[:-9], whole[-9] ^ 1, *whole[-8:]))
        path.write_bytes({"cut": whole[:-7], "longer": whole + b"\0", "flipped": flipped, "empty": b""}[damage])
    message = r"(is not the published file: its (SHA-1|MD5) is another one|has .* bytes, not 61,460|cannot read)"
    refused(
        lambda: cifar_files.read(known), f"({message}.*data_batch_4|data_batch_4.*{message}).*get it again$", data_root
    )


@pytest.mark.parametrize("version", list(WRITERS))
@pytest.mark.parametrize(("label", "message"), [(10, r"span 0\.\.10, classes 10$"), (9, "1 to 3 labels of a class")])
def test_mislabelled_pictures_are_refused_in_every_version(
    label: int, message: str, version: str, data_root: Path
) -> None:
    labels = TEST[1].copy()
    labels[0] = label
    known = write_cifar(data_root, cifar.CIFAR10, version, TRAIN, (TEST[0], labels))
    refused(lambda: cifar_files.read(known), f"is mislabelled: .*{message}", data_root)


class Gadget:
    """What runs when it is unpickled by whom does not look: it makes the file `ran`."""

    def __init__(self, call: Callable[..., Any], *arguments: object) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call, self.arguments


def gadgets(ran: Path) -> dict[str, bytes]:
    """Pickles that would make the file `ran`."""
    command = f"touch {ran}"
    dotted = b"\x80\x04\x8c\x05numpy\x94\x8c\x0endarray.tofile\x94\x93\x94."
    return {
        "os.system": pickle.dumps(Gadget(os.system, command), 2),
        "builtins.eval": pickle.dumps(Gadget(eval, f"__import__('pathlib').Path({str(ran)!r}).touch()"), 4),
        "pathlib.Path.touch": pickle.dumps({b"data": Gadget(Path.touch, ran)}, 4),
        "numpy.ndarray.tofile": dotted,
        "codec": pickle.dumps(Gadget(codecs.encode, "x", "rot13"), 2),
    }


def test_the_gadgets_are_ones(tmp_path: Path) -> None:
    for name in ("os.system", "builtins.eval", "pathlib.Path.touch"):
        pickle.loads(gadgets(tmp_path / name)[name])
        assert (tmp_path / name).exists()


@pytest.mark.parametrize("name", list(gadgets(Path())))
def test_a_gadget_in_a_pickle_is_refused_and_not_run_even_with_the_checksum_of_the_file(
    name: str, data_root: Path
) -> None:
    known, ran = small(data_root, "python"), data_root.parent / "ran"
    path = data_root / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(gadgets(ran)[name])
    refused(lambda: cifar_files.read(known), "test_batch is not the published file", data_root)
    version = dataclasses.replace(known.versions[1], test={"test_batch": summed(path, "md5")})
    trusting = dataclasses.replace(known, versions=(known.versions[0], version))
    named = "it names" if name in ("pathlib.Path.touch", "codec") else f"it names '(posix|nt)?.*{name.split('.')[-1]}'"
    refused(
        lambda: cifar_files.read(trusting), f"test_batch is refused, as no pickle of mere arrays: {named}", data_root
    )
    assert not ran.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is refused, as no pickle of mere arrays: Ran out of input"),
        (b"\x80\x02}(U", "is refused, as no pickle of mere arrays: "),
        (b"\n\n", r"is refused, as no pickle of mere arrays: invalid load key, '\\x0a'"),
        (pickle.dumps([1, 2], 2), r"has no array 'data' of \[20, 3072\] unsigned bytes$"),
        (pickle.dumps({b"data": np.zeros((20, 3072)), b"labels": [0] * 20}, 2), r"has no array 'data' of"),
        (pickle.dumps({b"data": np.zeros((20, 3), np.uint8)}, 2), r"has no array 'data' of"),
        (pickle.dumps({b"data": np.zeros((20, 3072), np.uint8)}, 2), "has no list of 20 labels$"),
        (pickle.dumps({b"data": np.zeros((20, 3072), np.uint8), b"labels": [0.5] * 20}, 2), "no list of 20 labels$"),
        (pickle.dumps({b"data": np.zeros((20, 3072), np.uint8), b"labels": [0] * 19}, 2), "no list of 20 labels$"),
        (pickle.dumps({b"data": np.zeros((20, 3072), np.uint8), b"labels": [-1] * 20}, 2), r"labels span -1\.\.-1"),
    ],
    ids=["empty", "cut", "text", "list", "floats", "sizes", "no_labels", "half_labels", "few_labels", "negative"],
)
def test_a_pickle_of_something_else_is_refused_in_one_line(content: bytes, message: str, data_root: Path) -> None:
    known = small(data_root, "python")
    path = data_root / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(content)
    version = dataclasses.replace(known.versions[1], test={"test_batch": summed(path, "md5")})
    known = dataclasses.replace(known, versions=(version,))
    refused(lambda: cifar_files.read(known), f"test_batch .*{message}", data_root)


CELLS = [{"bytes": png(image), "path": ""} for image in TEST[0]]
TARGETS = TEST[1].tolist()


def with_cell(content: bytes) -> bytes:
    """A test part whose fourth picture is another."""
    return columns({"img": [*CELLS[:3], {"bytes": content, "path": ""}, *CELLS[4:]], "label": TARGETS})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (parquet(*TEST, cifar.CIFAR10)[:-20], "^cannot read .*test-00000-of-00001.parquet .*; get it again$"),
        (b"", "^cannot read .*; get it again$"),
        (columns({"img": CELLS}), "it has 20 rows of img, not 20 of img, label"),
        (columns({"image": CELLS, "label": TARGETS}), "it has 20 rows of image, label, not 20 of img, label"),
        (columns({"img": CELLS[:9], "label": TARGETS[:9]}), "it has 9 rows of img, label, not 20"),
        (columns({"img": TARGETS, "label": TARGETS}), "^image 0 of .*parquet is no PNG of 32x32 pixels$"),
        (columns({"img": CELLS, "label": ["cat"] * 20}), "has no list of 20 labels$"),
        (columns({"img": CELLS, "label": [None, *TARGETS[1:]]}), "has no list of 20 labels$"),
        (with_cell(b"GIF89a"), "^image 3 of .*parquet is no PNG of 32x32 pixels$"),
        (with_cell(png(np.zeros((3, 16, 64), np.uint8))), "^image 3 of .* is no PNG of 32x32 pixels$"),
        (with_cell(png(TEST[0][0])[:900]), "^image 3 of .* is damaged"),
        (with_cell(png(np.zeros((1, 32, 32), np.uint8))), "^image 3 of .* is not of three colours$"),
    ],
    ids=[
        "cut", "empty", "no_labels", "column", "few", "numbers", "words", "missing", "gif", "size", "cut_png", "grey",
    ],
)  # fmt: skip
def test_a_wrong_parquet_file_is_refused_in_one_line(content: bytes, message: str, data_root: Path) -> None:
    known = small(data_root, "parquet")
    (data_root / "cifar10/plain_text/test-00000-of-00001.parquet").write_bytes(content)
    refused(lambda: cifar_files.read(known), message, data_root)


def test_a_gadget_in_a_parquet_files_metadata_is_not_run(data_root: Path) -> None:
    """Older pyarrow unpickled what a column's type said of itself (CVE-2023-47248)."""
    known, ran = small(data_root, "parquet"), data_root.parent / "ran"
    path = data_root / "cifar10/plain_text/test-00000-of-00001.parquet"
    table = pq.read_table(path)
    trap = {b"ARROW:extension:name": b"arrow.py_extension_type"}
    trap[b"ARROW:extension:metadata"] = gadgets(ran)["os.system"]
    fields = [field.with_metadata(trap) for field in table.schema]
    pq.write_table(pa.table(table.columns, schema=pa.schema(fields)), path)
    assert len(cifar_files.read(known)[1].labels) == 20
    assert not ran.exists()


def test_a_pyarrow_that_may_unpickle_is_not_used(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = small(data_root, "parquet")
    monkeypatch.setattr(pa, "__version__", "14.0.0")
    refused(
        lambda: cifar_files.read(known), "^pyarrow 14.0.0 may unpickle what is in .*; install pyarrow>=15$", data_root
    )
