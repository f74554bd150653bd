"""Movie review snippets, 250 of them labelled, taught by a real pre-trained sentence encoder with a probe on top.

The snippets and the mean of twenty people's ratings are inside the source archive of `vaderSentiment` (Hutto and
Gilbert 2014); a snippet is positive where the mean is above 0. The teacher is MiniLM-L6 from its own wheel, frozen,
with a logistic regression that is fitted to the labelled snippets alone. All other training snippets have no label:
what they teach is what the teacher says of them.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from pathlib import Path

import numpy as np

from harness.tasks.places import find
from harness.tasks.probe import probed
from harness.tasks.task import UNLABELLED, LockedSplit, Task, stratified
from harness.tasks.text import ascii_words, different, encoded, families, split_of, vocabulary

ARCHIVE = "vaderSentiment-3.3.2.tar.gz"
GET = "pip download --no-deps --no-binary :all: --dest data vaderSentiment==3.3.2"
INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
TABLE = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
SHA256 = "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350"
NUM_LABELLED = 250
NUM_WORDS = 4000
LENGTH = 32


def load() -> Task:
    """The task. Raises `ValueError` in one line when the data or the encoder is not there or not what it should be."""
    rated = read_snippets(find([ARCHIVE], task="snippets", get=f"get it with: {GET}"), SHA256)
    texts, labels = [text for _, text in rated], np.array([int(rating > 0) for rating, _ in rated])
    train, val, test = stratified(texts, labels, (70, 10, 20))
    numbers = vocabulary([texts[index] for index in train], NUM_WORDS, ascii_words)
    inputs = encoded(texts, numbers, LENGTH, ascii_words)
    test = test[different(inputs[test], ())]
    train = train[different(inputs[train], inputs[test])]
    val = val[different(inputs[val], [*inputs[test], *inputs[train]])]
    told = few(texts, labels, train, NUM_LABELLED)
    parts = {"train": train, "val": val, "test": test}
    written = {name: [texts[index] for index in own] for name, own in parts.items()}
    return Task(
        name="snippets",
        source="rated movie review snippets (Hutto and Gilbert 2014) in the source archive of vaderSentiment 3.3.2",
        num_classes=2,
        train=split_of(inputs[train], told, ("negative", "positive")),
        val=split_of(inputs[val], labels[val]),
        test=LockedSplit(split_of(inputs[test], labels[test])),
        families=families(NUM_WORDS),
        words=("", "<unknown>", *numbers),
        teacher=probed("snippets", written, told),
    )


def few(texts: list[str], labels: np.ndarray, train: np.ndarray, count: int) -> np.ndarray:
    """The train examples' labels, of all but `count`, as many of each class, replaced by `UNLABELLED`."""
    digests = [hashlib.sha256(f"label {texts[index]}".encode()).digest() for index in train]
    order = sorted(range(len(train)), key=digests.__getitem__)
    told = np.full(len(train), UNLABELLED)
    classes = np.unique(labels)
    for label in classes:
        own = [place for place in order if labels[train[place]] == label][: count // len(classes)]
        told[own] = label
    return told


def read_snippets(path: Path, sha256: str) -> list[tuple[float, str]]:
    """Every snippet's mean rating, -4 to 4, and its text, from the archive inside the archive at `path`.

    Raises `ValueError` in one line for a file that is no such archive, or whose table is another.
    """
    try:
        with tarfile.open(path, "r:gz") as outer:
            inner = _member(outer, INNER)
        with tarfile.open(fileobj=io.BytesIO(inner), mode="r:gz") as archive:
            raw = _member(archive, TABLE)
    except (OSError, EOFError, KeyError, tarfile.TarError, zlib.error) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"cannot read the snippets in {path} ({said}); download it again: {GET}") from None
    if hashlib.sha256(raw).hexdigest() != sha256:
        raise ValueError(f"the snippets in {path} are not those that this task was made with; download it again: {GET}")
    rows = [line.split("\t") for line in raw.decode("utf-8").splitlines()]
    return [(float(rating), text.strip()) for _, rating, text in rows]


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    """A file's bytes; nothing is unpacked to disk."""
    found = archive.extractfile(name)
    if found is None:
        raise KeyError(f"{name} is no file")
    return found.read()
