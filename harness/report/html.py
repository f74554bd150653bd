"""Blocks as one page of HTML, `report.html`, that asks nothing of any network: style, script and figures are within.

The page forbids itself everything else by its Content-Security-Policy. Without its script (`page.js`, which sorts
tables) it only cannot sort. How it looks is in `page.css`.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape as escaped
from pathlib import Path

from harness.report.blocks import Block, Figure, Heading, List, Paragraph, Table, numeric_columns, spans

STYLE = Path(__file__).with_name("page.css").read_text(encoding="utf-8").strip()
SCRIPT = Path(__file__).with_name("page.js").read_text(encoding="utf-8").strip()
TAGS = {"strong": "strong", "emphasis": "em", "code": "code"}
NAMES = {"csv": "CSV", "pdf": "PDF", "svg": "SVG", "png": "PNG", "tex": "LaTeX"}


def page(blocks: Sequence[Block], pictures: Mapping[str, bytes]) -> str:
    """The whole page. `pictures` are the figures as SVG, by stem; what a reader's fonts are must not matter to them."""
    title = next((block.text for block in blocks if isinstance(block, Heading) and block.level == 1), "report")
    head, *sections = _sections(blocks)
    ids = _ids([str(section[0].text) for section in sections if isinstance(section[0], Heading)])
    body = [
        '<header class="top">', *_blocks(head, pictures), "</header>", *_contents(sections, ids), "<main>",
        *itertools.chain.from_iterable(
            (f'<section aria-labelledby="{name}">', *_section(section, name, pictures), "</section>")
            for section, name in zip(sections, ids, strict=True)
        ),
        "</main>",
    ]  # fmt: skip
    return _frame(title, "\n".join(body))


def _frame(title: str, body: str) -> str:
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(STYLE)}'; script-src '{_digest(SCRIPT)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escaped(title)}: a distillation study</title>
<style>{STYLE}</style>
</head>
<body>
{body}
<script>{SCRIPT}</script>
</body>
</html>
"""


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _sections(blocks: Sequence[Block]) -> list[list[Block]]:
    """What stands before the first section, then each section from its heading on."""
    found: list[list[Block]] = [[]]
    for block in blocks:
        if isinstance(block, Heading) and block.level == 2:
            found.append([])
        found[-1].append(block)
    return found


def _ids(titles: Sequence[str]) -> list[str]:
    """An anchor for each section, the same as long as its title is."""
    found: list[str] = []
    for title in titles:
        name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
        found.append(name if name not in found else f"{name}-{len(found)}")
    return found


def _contents(sections: Sequence[Sequence[Block]], ids: Sequence[str]) -> Iterator[str]:
    if not sections:
        return
    yield '<nav aria-label="Contents"><ul>'
    for section, name in zip(sections, ids, strict=True):
        if isinstance(section[0], Heading):
            yield f'<li><a href="#{name}">{escaped(section[0].text)}</a></li>'
    yield "</ul></nav>"


def _section(section: Sequence[Block], name: str, pictures: Mapping[str, bytes]) -> Iterator[str]:
    first, *rest = section
    if isinstance(first, Heading):
        yield f'<h2 id="{name}">{escaped(first.text)}</h2>'
    yield from _blocks(rest, pictures)


def _blocks(blocks: Iterable[Block], pictures: Mapping[str, bytes]) -> Iterator[str]:
    for block in blocks:
        match block:
            case Heading(text, level):
                yield f"<h{level}>{escaped(text)}</h{level}>"
            case Paragraph(text, role):
                yield (f'<p class="{role}">' if role else "<p>") + inline(text) + "</p>"
            case List(items):
                yield "<ul>" + "".join(f"<li>{inline(item)}</li>" for item in items) + "</ul>"
            case Table():
                yield from _table(block)
            case Figure():
                yield from _figure(block, pictures.get(block.stem))


def _table(table: Table) -> Iterator[str]:
    """A table that scrolls within its own box; the script makes a button of each head."""
    kinds = [' class="n"' if numeric else "" for numeric in numeric_columns(table)]
    label = escaped("".join(span.text for span in spans(table.caption)))
    yield '<figure class="table">'
    yield f"<figcaption>{inline(table.caption)} {_links(f'tables/{table.name}.tex', table.data)}</figcaption>"
    yield f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table aria-label="{label}">'
    cells = (f'<th scope="col"{kind}>{escaped(cell)}</th>' for cell, kind in zip(table.head, kinds, strict=True))
    yield f"<thead><tr>{''.join(cells)}</tr></thead>"
    yield "<tbody>"
    for row in table.rows:
        cells = (f"<td{kind}>{escaped(cell)}</td>" for cell, kind in zip(row, kinds, strict=True))
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</tbody>"
    yield "</table></div></figure>"


def _figure(figure: Figure, picture: bytes | None) -> Iterator[str]:
    stem = figure.stem
    yield '<figure class="picture">'
    if picture is not None:
        data = base64.b64encode(picture).decode()
        yield f'<img alt="{escaped(figure.caption)}" src="data:image/svg+xml;base64,{data}">'
    files = _links(*(f"figures/{stem}.{kind}" for kind in ("pdf", "svg", "png")), figure.data)
    caption = f"<strong>{escaped(figure.caption)}</strong>" + (f" {escaped(figure.note)}" if figure.note else "")
    yield f"<figcaption>{caption} {files}</figcaption>"
    yield "</figure>"


def _links(*paths: str) -> str:
    """Links to files beside the page, named by their kind."""
    links = (f'<a href="{escaped(path)}">{NAMES[path.rpartition(".")[2]]}</a>' for path in paths if path)
    return f'<span class="files">{" ".join(links)}</span>'


def inline(text: str) -> str:
    """Marked-up text."""
    return "".join(
        f"<{TAGS[span.kind]}>{escaped(span.text)}</{TAGS[span.kind]}>" if span.kind else escaped(span.text)
        for span in spans(text)
    )
