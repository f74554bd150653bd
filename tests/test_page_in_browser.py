"""The page as a browser takes it: no errors, no wider than a phone, sorted by a click, printed, and in MLflow's frame.

Headless Chromium opens a copy of the page within a frame of a phone's width, as MLflow does: from a blob, in a sandbox
that allows scripts and nothing else, where the files beside the page are not to be had. A script that the copy alone
has says what it finds to the frame's page, whose text is dumped.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness.report.build import write
from tests.fake_study import FakeStudy, write_fake_study

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome on the PATH")
PROBE = """
const table = document.querySelector("#distillation-against-plain-training ~ figure table");
const column = (head) => Array.from(table.tBodies[0].rows, (row) => row.cells[head.cellIndex].textContent);
const heads = Array.from(table.tHead.rows[0].cells);
const head = heads.find((cell) => cell.textContent === "gain (points)");
const found = {
  width: innerWidth, wide: document.documentElement.scrollWidth, alone: document.documentElement.className,
  pictures: Array.from(document.images, (image) => image.complete && image.naturalWidth > 0),
  boxes: Array.from(document.querySelectorAll(".scroll"), (box) => box.scrollWidth > box.clientWidth),
  before: column(head), sorted: [], marks: [],
};
head.querySelector("button").focus();
found.focused = document.activeElement.textContent;
for (let time = 0; time < 2; time++) {
  head.querySelector("button").click();
  found.sorted.push(column(head));
  found.marks.push(heads.map((cell) => cell.getAttribute("aria-sort")));
}
const cells = ["95.3 \\u00b1 0.4", "+0.5 [-1, 2]", "1,482", "\\u2013", "-3 [no interval]", "plain training",
  "9.1e+02", ""];
const body = table.tBodies[0], row = body.rows[0];
body.replaceChildren(...cells.map((text) => {
  const copy = row.cloneNode(true);
  copy.cells[head.cellIndex].textContent = text;
  return copy;
}));
for (let time = 0; time < 2; time++) { head.querySelector("button").click(); found.sorted.push(column(head)); }
parent.postMessage(JSON.stringify(found), "*");
"""
BUDGETS_MS = (3_000, 30_000, 300_000)
"""Virtual time may end before the frame has said anything: 3 seconds of it did so in one of four quiet runs."""
FRAME = """<!doctype html><body><pre id="found"></pre><script>
addEventListener("message", (event) => { document.getElementById("found").textContent = event.data; });
</script><iframe style="width:WIDTHpx;height:800px;border:0" sandbox="allow-scripts"></iframe><script>
document.querySelector("iframe").src = URL.createObjectURL(new Blob([PAGE], { type: "text/html" }));
</script></body>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, _figures: None) -> Path:
    fake = FakeStudy(trials=24, controls=3)
    return write(write_fake_study(tmp_path_factory.mktemp("results"), fake)).folder / "report.html"


def browse(folder: Path, *arguments: str, budget_ms: int = 3000) -> tuple[str, list[str]]:
    """What the browser prints after so much of its virtual time, and what the page wrote to its console."""
    assert BROWSER is not None
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--enable-logging=stderr",
        f"--virtual-time-budget={budget_ms}", f"--user-data-dir={folder / 'profile'}", *arguments,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, re.findall(r"CONSOLE.*", done.stderr)


def probed(page: Path, folder: Path, width: int) -> dict[str, Any]:
    text = page.read_text()
    text = re.sub(r"script-src 'sha256-[^']*'", "script-src 'unsafe-inline'", text)
    script = f"<script>addEventListener('load', () => {{{PROBE}}});</script></body>"
    within = json.dumps(text.replace("</body>", script)).replace("</", "<\\/")
    (folder / "frame.html").write_text(FRAME.replace("WIDTH", str(width)).replace("PAGE", within))
    for budget_ms in BUDGETS_MS:
        dumped, console = browse(folder, "--dump-dom", (folder / "frame.html").as_uri(), budget_ms=budget_ms)
        assert console == []
        if said := re.search(r'<pre id="found">(.+?)</pre>', dumped, re.S):
            found: dict[str, Any] = json.loads(html.unescape(said[1]))
            return found
    raise AssertionError(f"the page within the frame said nothing within {BUDGETS_MS[-1]} ms")


def test_the_page_has_no_errors_in_its_console_and_its_own_script_runs(page: Path, tmp_path: Path) -> None:
    dumped, console = browse(tmp_path, "--dump-dom", page.as_uri())
    assert console == []
    assert '<th scope="col" class="n" aria-sort="none"><button type="button">' in dumped


@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_is_no_wider_than_its_window_and_sorts_by_a_click(page: Path, tmp_path: Path, width: int) -> None:
    found = probed(page, tmp_path, width)
    assert found["width"] == width and found["wide"] <= width
    assert len(found["pictures"]) == 11 and all(found["pictures"])
    assert (any(found["boxes"]) or width > 390) and found["alone"] == "alone"
    gains = [[float(cell.split()[0]) for cell in cells] for cells in (found["before"], *found["sorted"][:2])]
    assert gains[1] == sorted(gains[0]) and gains[2] == gains[1][::-1] and len(gains[0]) == 5
    assert found["focused"] == "gain (points)"
    assert [sorted({*marks} - {"none"}) for marks in found["marks"]] == [["ascending"], ["descending"]]


def test_cells_are_sorted_by_the_number_they_begin_with_and_missing_ones_stand_last(page: Path, tmp_path: Path) -> None:
    numbers = ["-3 [no interval]", "+0.5 [-1, 2]", "95.3 ± 0.4", "9.1e+02", "1,482"]
    up, down = probed(page, tmp_path, 390)["sorted"][2:]
    assert up == [*numbers, "plain training", "–", ""] and down == [*numbers[::-1], "plain training", "–", ""]


def test_the_page_prints_on_pages_of_paper(page: Path, tmp_path: Path) -> None:
    paper = tmp_path / "page.pdf"
    browse(tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={paper}", page.as_uri())
    content = paper.read_bytes()
    assert content.startswith(b"%PDF") and 3 <= len(re.findall(rb"/Type\s*/Page\b", content)) <= 15


def test_without_its_script_the_page_is_whole(page: Path, tmp_path: Path) -> None:
    """As in a frame that allows none."""
    (tmp_path / "page.html").write_text(re.sub(r"<script>.*</script>", "", page.read_text(), flags=re.S))
    dumped, console = browse(tmp_path, "--dump-dom", (tmp_path / "page.html").as_uri())
    assert console == [] and "<table" in dumped and "<button" not in dumped
