"""Texts as tasks: words numbered by a vocabulary of the train split, and splits without a text on two sides."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from harness.models import Family, bag, gru, transformer
from harness.tasks.task import LockedSplit, Split, Task, TeacherRecipe, stratified

log = logging.getLogger(__name__)
UNKNOWN = 1
"""The number of every word that is not in the vocabulary; 0 is no word."""


@dataclass(frozen=True)
class Texts:
    """Texts and what each is called, of a data set's own train and test parts."""

    train: Sequence[tuple[str, str]]  # label, text
    test: Sequence[tuple[str, str]]


Cut = Callable[[str], list[str]]
"""Cuts a text into its words."""


def words(text: str) -> list[str]:
    """The words of a text in any script, in lower case: letters, digits, apostrophes and underscores."""
    return re.findall(r"[\w']+", text.lower())


def ascii_words(text: str) -> list[str]:
    """As `words`, but of English letters alone: the rule that the tasks of this project were made with."""
    return re.findall(r"[a-z0-9']+", text.lower())


def vocabulary(texts: Sequence[str], most: int, cut: Cut = words) -> dict[str, int]:
    """The most frequent words of these texts by number, from 2; of equals the first by spelling."""
    counts = Counter(word for text in texts for word in cut(text))
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    return {word: number for number, word in enumerate(ordered[: most - 2], start=2)}


def encoded(texts: Sequence[str], numbers: Mapping[str, int], length: int, cut: Cut = words) -> np.ndarray:
    """The first words of every text, `[texts, length]` int64, filled up with 0."""
    found = np.zeros((len(texts), length), dtype=np.int64)
    for row, text in zip(found, texts, strict=True):
        own = [numbers.get(word, UNKNOWN) for word in cut(text)[:length]]
        row[: len(own)] = own
    return found


def families(num_words: int) -> dict[str, Family]:
    """The families of students for texts of so many different words."""
    return {
        "bag": bag(num_words),
        "gru": gru(num_words, pooled=True),
        "transformer": transformer(num_words, pooled=True),
    }


def text_task(
    *,
    name: str,
    source: str,
    texts: Texts,
    num_words: int,
    length: int,
    teacher: Callable[[Family], TeacherRecipe],
    cut: Cut = words,
) -> Task:
    """A task on labelled texts: the train part 80/20 into train and val by class, the test part locked.

    Vocabulary and labels are those of the train split. What a student sees twice, a text that is the same in its first
    `length` known words, is kept once, and not at all in train and val where the test split has it. `cut` is the rule
    that cuts a text into words. Raises `ValueError` in one line where no training text has a word, and for a label of
    the test part that train has none of; training texts without a word are logged.
    """
    titles = sorted({label for label, _ in texts.train})
    if new := sorted({label for label, _ in texts.test} - set(titles)):
        raise ValueError(f"task {name}: test has the label {new[0]!r}, and train none of it")
    if (bare := sum(not cut(text) for _, text in texts.train)) == len(texts.train):
        raise ValueError(f"task {name}: none of the {bare} training texts has a word")
    if bare:
        log.warning("task %s: %d of %d training texts have no word", name, bare, len(texts.train))
    labels = np.array([titles.index(label) for label, _ in texts.train])
    written = [text for _, text in texts.train]
    train, val, _ = stratified(written, labels, (80, 20, 0))
    numbers = vocabulary([written[index] for index in train], num_words, cut)
    inputs, tested = (encoded(part, numbers, length, cut) for part in (written, [text for _, text in texts.test]))
    once = different(tested, ())
    train = train[different(inputs[train], tested)]
    val = val[different(inputs[val], [*tested, *inputs[train]])]
    told = np.array([titles.index(label) for label, _ in texts.test])
    kinds = families(num_words)
    return Task(
        name=name,
        source=source,
        num_classes=len(titles),
        train=split_of(inputs[train], labels[train], tuple(titles)),
        val=split_of(inputs[val], labels[val]),
        test=LockedSplit(split_of(tested[once], told[once])),
        families=kinds,
        words=("", "<unknown>", *numbers),
        teacher=teacher(kinds["bag"]),
    )


def different(rows: np.ndarray, others: Iterable[np.ndarray]) -> np.ndarray:
    """Where each different row stands first, those left out that are among the others."""
    taken = {row.tobytes() for row in others}
    first: dict[bytes, int] = {}
    for index, row in enumerate(rows):
        first.setdefault(row.tobytes(), index)
    return np.array(sorted(index for row, index in first.items() if row not in taken), dtype=np.int64)


def split_of(inputs: np.ndarray, labels: np.ndarray, classes: tuple[str, ...] = ()) -> Split:
    """A split of arrays."""
    return Split(torch.from_numpy(np.ascontiguousarray(inputs)), torch.from_numpy(labels.astype(np.int64)), classes)
