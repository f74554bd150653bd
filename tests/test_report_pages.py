"""Blocks and what each format makes of them: whatever a cell holds is read on the page, and nothing else happens."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import unicodedata
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from harness.files import read_json, write_json
from harness.report import html, latex, markdown
from harness.report.blocks import Figure, Heading, List, Paragraph, Span, Table, code, numeric_columns, plain, spans
from harness.report.build import write
from harness.report.findings import Report
from harness.report.page import SECTIONS, blocks
from tests.fake_study import FakeStudy, write_fake_study
from tests.test_report import POOR

VOID = {"meta", "img", "br", "link", "input"}
NASTY = (
    "<script>alert(1)</script>", "a|b", "\\", "*x*", "**x**", "`x`", "_x_", "&amp;", "&lt", "[a](b)", "![a](b)", "--",
    "%", "$x^2$", "#", "{}", "\\input{x}", "é", "中", "'''", '"', "<!--", "]]>", "~~x~~", "# x", "- x", "1. x",
    "[x]: y",
)  # fmt: skip
TEXT = st.one_of(
    st.sampled_from(NASTY), st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp", "Cn", "Co"]), max_size=30)
)

pytestmark = pytest.mark.usefixtures("_figures")


class Reader(HTMLParser):
    """A page read back: its cells, attributes and text, and whether what was opened was closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.cells: list[str] = []
        self.text: dict[str, str] = {}
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.text[self.open[-1]] = self.text.get(self.open[-1], "") + data
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data

    def values(self, name: str) -> list[str]:
        return [value for _, attribute, value in self.attributes if attribute == name]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, _figures: None) -> Report:
    return write(write_fake_study(tmp_path_factory.mktemp("results")))


@pytest.fixture(scope="module")
def text(report: Report) -> str:
    return (report.folder / "report.html").read_text()


def table(*cells: str) -> Table:
    return Table("some", "A caption.", ["first", "second"], [[cell, "x"] for cell in cells])


def squeezed(said: str) -> str:
    return " ".join(said.split())


@given(TEXT)
@example("<b>&amp;lt;</b>")
def test_any_text_in_a_cell_or_a_heading_is_read_back_from_html(said: str) -> None:
    page = Reader(html.page([Heading(said, 1), Heading(said), table(said), Paragraph(plain(said))], {}))
    assert not page.open and page.cells == ["first", "second", said, "x"]
    assert page.text.get("h1", "") == page.text.get("h2", "") == page.text.get("p", "") == said
    assert {tag for tag, _, _ in page.attributes} <= {
        "html", "meta", "header", "nav", "section", "h2", "figure", "span", "a", "div", "table", "th", "td"
    }  # fmt: skip


@given(TEXT)
def test_any_text_in_a_cell_or_a_paragraph_is_read_back_from_markdown(said: str) -> None:
    said = squeezed(said)
    page = (
        MarkdownIt("commonmark")
        .enable(["table", "strikethrough"])
        .render(markdown.page([table(said), Paragraph(f"so {plain(said)}"), List((plain(said),))]))
    )
    read = Reader(page)
    assert [squeezed(cell) for cell in read.cells] == ["first", "second", said, "x"]
    assert squeezed(read.text["p"]) == squeezed(f"so {said}")
    assert squeezed(read.text.get("li", "")) == said


@given(TEXT)
def test_any_text_in_a_cell_is_ascii_that_latex_takes_for_text(said: str) -> None:
    written = latex.escape(said)
    bare = re.sub(r"\\[a-z]+\{\}|\\[&%$#_{}]|\$[-\\][a-z]*\$|\{[*[\]]\}", "", written)
    assert not re.search(r"[\\&%$#_~^|<>\"`*]", bare.replace("~", "") if "\xa0" in said else bare)
    assert bare.count("{") == bare.count("}") and not re.match(r"[\[*]", written)
    assert all(character.isascii() or "À" <= character <= "ÿ" for character in written)


def test_markup_is_the_same_in_all_formats() -> None:
    said = "**A** *b* `c*d` e\\*f g * h * i **j"
    assert spans(said)[:5] == [
        Span("strong", "A"), Span("", " "), Span("emphasis", "b"), Span("", " "), Span("code", "c*d")
    ]  # fmt: skip
    assert html.inline(said) == "<strong>A</strong> <em>b</em> <code>c*d</code> e*f g * h * i **j"
    assert markdown.inline(said) == "**A** *b* `c*d` e\\*f g \\* h \\* i \\*\\*j"
    assert latex.inline(said) == r"\textbf{A} \emph{b} \texttt{c{*}d} e{*}f g {*} h {*} i {*}{*}j"
    assert code("a") == "`a`" and "".join(span.text for span in spans(code("a`b*c"))) == "a`b*c"


@given(TEXT)
def test_plain_text_has_no_markup(said: str) -> None:
    assert "".join(span.text for span in spans(plain(said))) == said
    assert {span.kind for span in spans(plain(said))} <= {""}


def test_latex_sets_numbers_as_numbers() -> None:
    assert latex.escape("-1.25 [-13.64, 11.13] a-b – 95.3 ± 0.4") == (
        r"$-$1.25 {[}$-$13.64, 11.13{]} a-{}b -- 95.3 $\pm$ 0.4"
    )


def test_columns_of_numbers_stand_to_the_right() -> None:
    rows = [["kl", "95.3 ± 0.4", "+0.5 [-1, 2]", "1,482", "–"], ["3x", "95", "plain training", "–", "–"]]
    assert numeric_columns(Table("t", "", list("abcde"), rows)) == [False, True, True, True, False]


def test_a_page_is_whole_and_says_what_it_is(report: Report, text: str) -> None:
    page = Reader(text)
    assert text.startswith("<!doctype html>\n") and not page.open
    assert ("html", "lang", "en") in page.attributes and page.text["title"] == "mnist5k: a distillation study"
    assert "width=device-width, initial-scale=1" in page.values("content")
    ids = page.values("id")
    assert len(ids) == len(set(ids)) and {f"#{name}" for name in ids} == {h for h in page.values("href") if h[0] == "#"}
    assert ids[0] == "confirmed-on-fresh-seeds" and ids[-1] == "protocol"
    alts = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")]
    assert len(alts) == len(report.drawn) == 12 and all(alts)
    assert text.index('class="question"') < text.index('class="answer"') < text.index("<nav") < text.index("<table")


def test_a_page_asks_nothing_of_a_network_and_links_to_files_beside_it(report: Report, text: str) -> None:
    page = Reader(text)
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.values("src"))
    assert not {tag for tag, _, _ in page.attributes} & {"link", "iframe", "object", "embed", "base", "form"}
    links = [link for link in page.values("href") if not link.startswith("#")]
    assert len(links) > 30 and all((report.folder / link).is_file() for link in links)
    assert not re.search(r"url\(|@import|\bfetch\b|XMLHttp", html.STYLE + html.SCRIPT)
    for picture in (base64.b64decode(source.partition(",")[2]).decode() for source in page.values("src")):
        linked = re.findall(r'(?:href|src)="([^"]*)"', picture)
        assert all(link.startswith(("#", "data:image/png;base64,")) for link in linked)
        assert "<text" not in picture and "<script" not in picture
    (policy,) = [content for content in page.values("content") if content.startswith("default-src 'none'")]
    assert "unsafe" not in policy and "http" not in policy


def test_each_caption_says_how_many_and_what_interval(report: Report, text: str) -> None:
    for drawn in report.drawn.values():
        assert re.search(r"\d+ (\w+ )*(trials|students)", drawn.note), drawn.note
        assert re.search(r"seeds|students", drawn.note), drawn.note
        kinds = r"95% t interval|95% intervals \(Hsu's, |[Nn]o interval|no spread|range of the seeds|span its seeds"
        assert re.search(kinds, drawn.note)
        assert escape(drawn.note) in text and drawn.caption in (report.folder / "summary.md").read_text()


def test_a_picture_on_the_page_has_no_foot_and_is_lower_for_it(report: Report) -> None:
    for stem, drawn in report.drawn.items():
        heights = [
            float(re.search(r'<svg[^>]* height="([\d.]+)pt"', svg)[1])  # type: ignore[index]
            for svg in (drawn.picture.decode(), (report.folder / "figures" / f"{stem}.svg").read_text())
        ]
        assert heights[0] < heights[1] - 10


def test_the_tables_of_the_page_are_latex_files(report: Report) -> None:
    names = {block.name for block in blocks(report) if isinstance(block, Table)}
    assert names == {path.stem for path in report.files if path.suffix == ".tex"}
    assert names == {"front", "gains", "budget", "indifference", "interactions", "robust"}
    for path in sorted((report.folder / "tables").iterdir()):
        written = path.read_text()
        assert written.count(r"\toprule") == written.count(r"\midrule") == written.count(r"\bottomrule") == 1
        columns = len(re.search(r"\\begin\{tabular\}\{([lr]+)\}", written)[1])  # type: ignore[index]
        rows = [line for line in written.splitlines() if line.endswith(r"\\")]
        assert all(len(re.findall(r"(?<!\\)&", row)) == columns - 1 for row in rows) and len(rows) > 1


@pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="needs pdflatex: apt-get install texlive-latex-recommended"
)
def test_latex_sets_the_tables_and_any_text(report: Report, tmp_path: Path) -> None:
    odd = [*NASTY, *"".join(map(chr, (*range(0x20, 0x7F), *range(0xA0, 0x180)))), "½ α τ 中 𝛼 🙂 ­ \u202e"]
    (tmp_path / "odd.tex").write_text(
        latex.table(Table("odd", plain("% & *"), ["a", "b"], [[cell, cell] for cell in odd]))
    )
    inputs = [report.folder / "tables" / f"{name}.tex" for name in ("front", "gains", "budget")]
    body = "\n".join(f"\\input{{{path}}}" for path in inputs)
    odd_body = (tmp_path / "odd.tex").read_text().replace("{table}", "{center}").replace(r"\caption", r"\textit")
    packages = r"\usepackage[T1]{fontenc}\usepackage{booktabs,graphicx}"
    source = f"\\documentclass[twocolumn]{{article}}{packages}\\begin{{document}}{body}{odd_body}\\end{{document}}"
    (tmp_path / "all.tex").write_text(source)
    done = subprocess.run(
        ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "all"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    said = done.stdout.decode(errors="replace")
    assert done.returncode == 0, said[-3000:]
    assert not re.findall(r"Missing character|undefined|Overfull \\hbox", said)


def test_a_figure_that_no_section_shows_is_shown_all_the_same(report: Report) -> None:
    first = next(iter(report.drawn.values()))
    object.__setattr__(report, "drawn", {**report.drawn, "new": first})
    try:
        found = blocks(report)
    finally:
        object.__setattr__(report, "drawn", {k: v for k, v in report.drawn.items() if k != "new"})
    headings = [block.text for block in found if isinstance(block, Heading)]
    assert headings[-2:] == ["Other figures", "Protocol"]
    assert [block.stem for block in found if isinstance(block, Figure)][-1] == "new"


@pytest.mark.parametrize("name", ["no trials", "one trial", "all diverged", "one width"])
def test_a_poor_study_has_a_whole_page(tmp_path: Path, name: str) -> None:
    written = write(write_fake_study(tmp_path, POOR[name]))
    page = Reader((written.folder / "report.html").read_text())
    said = " ".join(page.text.values())
    assert not page.open and "nan" not in said.lower().replace("nanoseconds", "") and "None" not in said
    missing = {"no trials": "Of 0 trials", "one trial": "no width has both", "all diverged": "none finished"}
    assert missing.get(name, "") in said
    assert all(len(drawn.note) > 20 for drawn in written.drawn.values())


def test_what_a_manifest_says_cannot_change_the_page(tmp_path: Path) -> None:
    folder = write_fake_study(tmp_path, FakeStudy(trials=6, controls=1, diverged=(), failed=(), running=()))
    manifest = read_json(folder / "study.json")
    evil = "<img src=x onerror=alert(1)> **x** `y` | \\ ]]> \udc80"
    manifest["task"] = {**manifest["task"], "name": evil, "source": evil}
    manifest["versions"] = {evil: evil}
    write_json(folder / "study.json", manifest | {"study": evil})
    written = write(folder)
    page = Reader((written.folder / "report.html").read_text())
    assert not page.open and not [value for value in page.values("src") if not value.startswith("data:")]
    assert not page.values("onerror") and "<img src=x onerror=alert(1)> **x** `y`" in page.text["li"]


def test_every_section_is_headed_once(report: Report) -> None:
    for section in SECTIONS:
        found = list(section(report))
        assert not found or isinstance(found[0], Heading)
        assert sum(isinstance(block, Heading) for block in found) <= 1
    assert unicodedata.is_normalized("NFC", markdown.page(blocks(report)))
