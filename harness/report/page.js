"use strict";
// Sorts a table by a click on a head of it, and hides the links to files where the page stands without them.
(() => {
  if (!/^(file|https?):$/.test(location.protocol)) document.documentElement.classList.add("alone");
  const number = /^[+\-\u2212]?(?:\d[\d,]*(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?(?![\w.])/i;

  // A cell as [rank, value]: numbers first, by the number they begin with, then words; what is missing always last.
  const key = (cell) => {
    const text = cell.textContent.trim();
    if (text === "" || text === "\u2013") return [2, ""];
    const found = text.match(number);
    return found ? [0, Number(found[0].replace(/,/g, "").replace("\u2212", "-"))] : [1, text];
  };

  const compare = (a, b, sign) => {
    if (a[0] !== b[0]) return a[0] - b[0];
    if (a[0] === 2) return 0;
    return sign * (a[0] === 0 ? a[1] - b[1] : a[1].localeCompare(b[1], "en", { numeric: true }));
  };

  const sort = (table, head) => {
    const descending = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const body = table.tBodies[0];
    const rows = Array.from(body.rows, (row) => [key(row.cells[head.cellIndex]), row]);
    rows.sort((a, b) => compare(a[0], b[0], descending ? -1 : 1));
    body.append(...rows.map(([, row]) => row));
  };

  const heads = Array.from(document.querySelectorAll("figure.table table"))
    .filter((table) => table.tBodies[0].rows.length > 1)
    .flatMap((table) => Array.from(table.tHead.rows[0].cells, (head) => [table, head]));

  const wrap = ([table, head]) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(table, head));
    head.replaceChildren(button);
    if (!head.hasAttribute("aria-sort")) head.setAttribute("aria-sort", "none");
  };

  heads.forEach(wrap);
  // A head with a button in it is not repeated on the pages that a table goes on to.
  addEventListener("beforeprint", () => heads.forEach(([, head]) => head.replaceChildren(...head.firstChild.childNodes)));
  addEventListener("afterprint", () => heads.forEach(wrap));
})();
