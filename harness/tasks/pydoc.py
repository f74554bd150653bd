"""Language modelling on the reference manual inside Python itself: the next character, or the next piece of a word.

`pydoc_data.topics` holds some 80 texts of 465,000 characters; it differs by Python's version, so a study made with
one is not mixed with another's: splits are hashed. Stretches of some 3,000 characters are split, by their SHA-256.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch

from harness.models import gru, transformer
from harness.tasks.task import LockedSplit, Split, Task, TeacherRecipe
from harness.tasks.text import different

LENGTH = 64
"""Of an example in tokens."""
NUM_CHARACTERS = 96
NUM_PIECES = 256
STRETCH = 3000
UNKNOWN, UNREADABLE = 0, "\ufffd"
SHARES = (80, 10)
"""Of the characters that train and val have, in percent; test has the rest."""


def load_characters() -> Task:
    """The task of predicting the next character."""
    train, val, test = _texts()
    counts = Counter("".join(train))
    ordered = sorted(counts, key=lambda character: (-counts[character], character))[: NUM_CHARACTERS - 1]
    numbers = {character: number for number, character in enumerate(ordered, start=1)}

    def encode(text: str) -> list[int]:
        return [numbers.get(character, UNKNOWN) for character in text]

    return _task("pydoc_chars", [UNREADABLE, *ordered], (train, val, test), encode)


def load_pieces() -> Task:
    """The task of predicting the next of 256 pieces, by byte-pair encoding of the train split (Sennrich 2016,
    arXiv:1508.07909). Raises `ValueError` in one line where the package that makes them is missing."""
    try:
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    except ImportError:
        raise ValueError("task pydoc_pieces needs the package tokenizers: pip install -e '.[text]'") from None
    train, val, test = _texts()
    tokenizer = Tokenizer(models.BPE(unk_token="[unknown]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")
    kept = [character for character, count in Counter("".join(train)).items() if count >= 20]
    trainer = trainers.BpeTrainer(
        vocab_size=NUM_PIECES,
        special_tokens=["[unknown]"],
        initial_alphabet=sorted(kept),
        limit_alphabet=len(kept),
        show_progress=False,
    )
    tokenizer.train_from_iterator(train, trainer)

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text).ids)

    pieces = [str(tokenizer.id_to_token(number)) for number in range(tokenizer.get_vocab_size())]
    return _task("pydoc_pieces", [UNREADABLE, *pieces[1:]], (train, val, test), encode)


def _texts() -> tuple[list[str], list[str], list[str]]:
    """The stretches of train, val and test: each different one in the order of its SHA-256."""
    from pydoc_data import topics  # here, not above: half a megabyte that other tasks do not need

    stretches = {stretch for text in topics.topics.values() for stretch in _stretches(text)}
    ordered = sorted(stretches, key=lambda stretch: hashlib.sha256(stretch.encode()).digest())
    ends = np.cumsum([len(stretch) for stretch in ordered])
    limits = [share * ends[-1] / 100 for share in (SHARES[0], sum(SHARES))]
    parts: tuple[list[str], list[str], list[str]] = ([], [], [])
    for stretch, end in zip(ordered, ends, strict=True):
        parts[sum(end > limit for limit in limits)].append(stretch)
    return parts


def _stretches(text: str) -> list[str]:
    """A text cut at blank lines into stretches of some 3,000 characters."""
    found = [""]
    for paragraph in text.split("\n\n"):
        if len(found[-1]) > STRETCH:
            found.append("")
        found[-1] += paragraph + "\n\n"
    return found


def _task(
    name: str, vocabulary: Sequence[str], texts: Sequence[Sequence[str]], encode: Callable[[str], list[int]]
) -> Task:
    rows = [_windows(encode("".join(part))) for part in texts]
    seen: list[np.ndarray] = []  # what a student sees twice, whatever comes after it, is kept once
    for part, own in enumerate(rows):
        rows[part] = own[different(own[:, :-1], seen)]
        seen.extend(rows[part][:, :-1])
    splits = [Split(torch.from_numpy(own[:, :-1].copy()), torch.from_numpy(own[:, 1:].copy())) for own in rows]
    families = {"gru": gru(len(vocabulary), pooled=False), "transformer": transformer(len(vocabulary), pooled=False)}
    characters = sum(len(text) for text in texts[2])
    return Task(
        name=name,
        source="the topics of pydoc_data, Python's own manual",
        num_classes=len(vocabulary),
        train=splits[0],
        val=splits[1],
        test=LockedSplit(splits[2]),
        families=families,
        teacher=TeacherRecipe(families["gru"], width=192, epochs=12, batch_size=32, lr=3e-3),
        vocabulary=tuple(vocabulary),
        characters_a_label=characters / len(encode("".join(texts[2]))),
    )


def _windows(tokens: Sequence[int]) -> np.ndarray:
    """Successive stretches of `LENGTH` tokens and the one after them, `[examples, LENGTH + 1]`.

    The last token of one is the first of the next, so that every token but the first is predicted once. What is left
    over is left out.
    """
    starts = LENGTH * np.arange((len(tokens) - 1) // LENGTH)[:, None]
    found: np.ndarray = np.array(tokens, dtype=np.int64)[starts + np.arange(LENGTH + 1)]
    return found
