"""Small tasks on made-up texts: with all labels, with few, and with one at each position; study files bring them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from harness.models import Family, bag, gru, transformer
from harness.tasks import UNLABELLED, GivenTeacher, LockedSplit, Split, Task, TeacherRecipe

VOCABULARY, LENGTH, CLASSES = 14, 6, 3
POOLED: dict[str, Family] = {
    "bag": bag(VOCABULARY),
    "gru": gru(VOCABULARY, pooled=True),
    "transformer": transformer(VOCABULARY, pooled=True),
}
DECODERS: dict[str, Family] = {
    "gru": gru(VOCABULARY, pooled=False),
    "transformer": transformer(VOCABULARY, pooled=False),
}


def texts(count: int, seed: int = 0) -> Tensor:
    """Token numbers of texts of one to `LENGTH` words, filled up with 0."""
    source = torch.Generator().manual_seed(seed)
    found = torch.randint(2, VOCABULARY, (count, LENGTH), generator=source)
    lengths = torch.randint(1, LENGTH + 1, (count, 1), generator=source)
    return found * (torch.arange(LENGTH) < lengths)


def named(count: int, seed: int) -> Split:
    """Texts, called by their first word."""
    rows = texts(count, seed)
    return Split(rows, rows[:, 0] % CLASSES)


def pooled() -> Task:
    """A task on labelled texts."""
    recipe = TeacherRecipe(POOLED["bag"], width=8, epochs=2, batch_size=32)
    return Task("pooled", "made up", CLASSES, named(96, 1), named(30, 2), LockedSplit(named(30, 3)), POOLED, recipe)


def decoded() -> Task:
    """A task of naming what comes next: twice the token, or so."""

    def split(count: int, seed: int) -> Split:
        rows = texts(count, seed)
        return Split(rows, 2 * rows % VOCABULARY)

    recipe = TeacherRecipe(DECODERS["gru"], width=8, epochs=2, batch_size=32)
    parts = split(96, 1), split(30, 2), LockedSplit(split(30, 3))
    return Task("decoded", "made up", VOCABULARY, *parts, DECODERS, recipe)


def few(labelled: int = 12, *, lie: str = "", given: bool = True) -> Task:
    """A task where so many of 96 examples have a label; `lie` changes the others' "inputs", or the "answers" on them.

    The teacher is given, and names the class most of the time; or it is trained by a recipe.
    """
    whole, val, test = named(96, 1), named(30, 2), named(30, 3)
    has = torch.arange(96) % (96 // labelled) == 0
    assert int(has.sum()) == labelled
    rows = torch.where(has[:, None] | (lie != "inputs"), torch.as_tensor(whole.inputs), texts(96, 9))
    noise = torch.randn(96, CLASSES, generator=torch.Generator().manual_seed(4))
    said = 3 * torch.nn.functional.one_hot(whole.labels, CLASSES) + noise
    if lie == "answers":
        said = torch.where(has[:, None], said, said.flip(-1))

    def answer(split: str, inputs: object) -> Tensor:
        del inputs
        known = {"val": val, "test": test}
        return said if split == "train" else 3.0 * torch.nn.functional.one_hot(known[split].labels, CLASSES)

    train = Split(rows, torch.where(has, whole.labels, UNLABELLED))
    teacher = GivenTeacher("known", lambda: f"known {lie}", answer)
    recipe = TeacherRecipe(POOLED["bag"], width=8, epochs=2, batch_size=4)
    return Task("few", "made up", CLASSES, train, val, LockedSplit(test), POOLED, teacher if given else recipe)


def study(path: Path, call: str) -> str:
    """A study file whose task is that of a call here, such as `few(lie="inputs")`."""
    path.write_text(
        "from harness.space import Choice, Study\nfrom tests import small_texts\n\n\ndef made():\n"
        f"    return small_texts.{call}\n\n\n"
        'STUDY = Study(task=made, family="bag", space={"width": Choice(4)}, fixed={"form": "mse"})\n'
    )
    return str(path)
