"""What a page is made of: headings, paragraphs, lists, tables and figures, as values that every format renders.

Text has a little markup, the same in all formats: `**strong**`, `*emphasis*`, code in backticks, and a backslash before
what is to stand for itself. What comes from a file goes in through `plain` or `code`. Headings and the cells of tables
have no markup: they are shown as they are. A new kind of block is a class here and a line in each renderer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

NONE = "–"
"""The cell of a table where there is no value."""
NUMBER = re.compile(r"[+-]?(\d[\d,]*(\.\d*)?|\.\d+)(e[+-]?\d+)?(?![\w.])", re.IGNORECASE)
MARKS = re.compile(
    r"\\(?P<literal>[\\*`])"
    r"|`(?P<code>[^`]+)`"
    r"|\*\*(?=\S)(?P<strong>(?:\\.|[^\\*])+)(?<=\S)\*\*"
    r"|\*(?=[^\s*])(?P<emphasis>(?:\\.|[^\\*])+)(?<=\S)\*",
    re.DOTALL,
)


@dataclass(frozen=True)
class Heading:
    """Level 1 is the page's title, of which there is one; level 2 a section's."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """Marked-up text. Its role is what a format may set apart: the study's question, and the answer to it."""

    text: str
    role: Literal["", "question", "answer"] = ""


@dataclass(frozen=True)
class List:
    """Items of marked-up text, in no order that counts."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Cells of plain text. `name` is that of its LaTeX file; `data` the CSV beside the page that has the same in full.

    The caption is marked-up text; Markdown, where the paragraph below says it all, leaves it out.
    """

    name: str
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    data: str = ""


@dataclass(frozen=True)
class Figure:
    """The figure in `figures/<stem>.png`, `.pdf` and `.svg`; `data` is the CSV with its numbers.

    The caption says what it shows, `note` how many trials and seeds and what kind of interval: the files have it at
    their foot, and where the picture is shown without its foot, the page has to print it. Both are plain text.
    """

    stem: str
    caption: str
    note: str = ""
    data: str = ""


Block = Heading | Paragraph | List | Table | Figure


@dataclass(frozen=True)
class Span:
    """A run of text in one style."""

    kind: Literal["", "code", "strong", "emphasis"]
    text: str


def plain(text: object) -> str:
    """Text that is to stand on the page as it is, whatever it holds."""
    return re.sub(r"([\\*`])", r"\\\1", str(text))


def code(text: object) -> str:
    """Text in the type of code; what has a backtick in it stays in the type of text."""
    return plain(text) if not str(text).strip() or "`" in str(text) else f"`{text}`"


def spans(text: str) -> list[Span]:
    """Marked-up text as its runs. A mark that is not closed stands for itself."""
    found: list[Span] = []
    end = 0
    for match in MARKS.finditer(text):
        if end < match.start():
            found.append(Span("", text[end : match.start()]))
        end = match.end()
        if match["literal"]:
            found.append(Span("", match["literal"]))
        elif match["code"]:
            found.append(Span("code", match["code"]))
        elif match["strong"]:
            found.append(Span("strong", _unescaped(match["strong"])))
        else:
            found.append(Span("emphasis", _unescaped(match["emphasis"])))
    if end < len(text):
        found.append(Span("", text[end:]))
    return found


def _unescaped(text: str) -> str:
    return re.sub(r"\\([\\*`])", r"\1", text)


def numeric_columns(table: Table) -> list[bool]:
    """Which columns are of numbers: of the cells that say something, at least half begin with one."""
    columns = [[row[place] for row in table.rows] for place in range(len(table.head))]
    said = [[cell for cell in column if cell.strip() not in ("", NONE)] for column in columns]
    return [2 * sum(NUMBER.match(cell) is not None for cell in cells) >= max(len(cells), 1) for cells in said]
