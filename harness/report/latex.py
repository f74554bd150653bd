"""Tables as LaTeX: `tables/<name>.tex`, to be read in by a paper. They need the packages booktabs and graphicx."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from harness.report.blocks import Block, Table, numeric_columns, spans

SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "`": r"\textasciigrave{}", "'": r"\textquotesingle{}", "-": "-{}",
    "[": "{[}", "]": "{]}", "*": "{*}", "–": "--", "—": "---", "±": r"$\pm$", "×": r"$\times$", "−": "$-$",
    "…": r"\ldots{}", "µ": r"\textmu{}", "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "λ": r"$\lambda$",
    "τ": r"$\tau$", "≤": r"$\le$", "≥": r"$\ge$", "→": r"$\to$", "\xa0": "~",
}  # fmt: skip
"""Brackets and stars stand in braces: after the end of a row LaTeX would take them for its argument."""
STYLES = {"": "{}", "strong": r"\textbf{{{}}}", "emphasis": r"\emph{{{}}}", "code": r"\texttt{{{}}}"}
HEAD = "% Needs \\usepackage{{booktabs,graphicx}} and a label of your own: this one is tab:{}.\n"


def tables(blocks: Iterable[Block]) -> dict[str, str]:
    """Each table of a page by its name."""
    return {block.name: table(block) for block in blocks if isinstance(block, Table)}


def table(block: Table) -> str:
    """A float with caption and label, made smaller where it is wider than the column."""
    columns = "".join("r" if numeric else "l" for numeric in numeric_columns(block))
    lines = [
        r"\begin{table}", r"\centering", rf"\caption{{{inline(block.caption)}}}", rf"\label{{tab:{block.name}}}",
        r"\resizebox{\ifdim\width>\linewidth \linewidth\else \width\fi}{!}{%", rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule", _row(block.head), r"\midrule", *(_row(row) for row in block.rows), r"\bottomrule",
        r"\end{tabular}}", r"\end{table}",
    ]  # fmt: skip
    return HEAD.format(block.name) + "\n".join(lines) + "\n"


def _row(cells: Iterable[str]) -> str:
    return " & ".join(escape(cell) for cell in cells) + r" \\"


def inline(text: str) -> str:
    """Marked-up text."""
    return "".join(STYLES[span.kind].format(escape(span.text)) for span in spans(text))


def escape(text: str) -> str:
    """Plain text as pdfLaTeX sets it: a minus before a number, and what its fonts lack by its code point."""
    parts = re.split(r"((?<![\w.)\]])-(?=[\d.]))", re.sub(r"\s+", " ", text))
    return "".join("$-$" if part == "-" and odd % 2 else _characters(part) for odd, part in enumerate(parts))


def _characters(text: str) -> str:
    return "".join(SPECIAL.get(character) or _character(character) for character in unicodedata.normalize("NFC", text))


def _character(character: str) -> str:
    if " " <= character <= "~" or ("À" <= character <= "ÿ" and character not in "ÐðÞþ"):
        return character
    return f"[U+{ord(character):04X}]".replace("[", "{[}").replace("]", "{]}")
