"""Blocks as Markdown: `summary.md`, which GitHub and MLflow show."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from harness.report.blocks import Block, Figure, Heading, List, Paragraph, Table, spans

SPECIAL = re.compile(r"[\\`*<|~]|(?<![^\W_])_|_(?![^\W_])|](?=[(\[:])|!(?=\[)|&(?=#?\w+;)")
"""What Markdown would take for a mark; an underscore within a word is none, nor a bracket that no link follows."""
MARK = {"": "", "strong": "**", "emphasis": "*"}


def page(blocks: Iterable[Block]) -> str:
    """The whole page, ending in a newline."""
    return "\n\n".join(_block(block) for block in blocks) + "\n"


def _block(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {escape(text)}"
        case Paragraph(text):
            return _no_list(inline(text))
        case List(items):
            return "\n".join(f"- {_no_list(inline(item))}" for item in items)
        case Table(head=head, rows=rows):
            return "\n".join(_row(line) for line in _lines(head, rows))
        case Figure(stem, caption, note):
            alt = re.sub(r"[\[\]]", r"\\\g<0>", escape(f"{caption} {note}".strip()))
            links = f"[PDF](figures/{stem}.pdf) [SVG](figures/{stem}.svg)"
            return f"![{alt}](figures/{stem}.png)\n\n*{escape(caption)}* {links}"


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[Sequence[str]]:
    yield [escape(cell) for cell in head]
    yield ["---"] * len(head)
    yield from ([escape(cell) for cell in row] for row in rows)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def inline(text: str) -> str:
    """Marked-up text on one line; what only looks like a mark is escaped."""
    parts = []
    for span in spans(_one_line(text)):
        if span.kind == "code":
            parts.append(f"`{span.text}`")
        else:
            parts.append(MARK[span.kind] + escape(span.text) + MARK[span.kind])
    return "".join(parts)


def escape(text: str) -> str:
    """Plain text on one line, so written that Markdown shows it as it is."""
    return SPECIAL.sub(r"\\\g<0>", _one_line(text))


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())


def _no_list(text: str) -> str:
    """A paragraph that would begin a heading, a list or a quotation by chance begins none."""
    return re.sub(r"^(\d{1,9}(?=[.)])|(?=[#>+=-]))", r"\1\\", text)
