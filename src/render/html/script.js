"use strict";
// An opened histogram has a row of its own below that of its tensor, as wide as the table.
const close = (table) => table.querySelectorAll("details[open]").forEach((details) => details.removeAttribute("open"));
for (const details of document.querySelectorAll("td.name details")) {
  const content = details.querySelector("div");
  const row = details.closest("tr");
  let below = null;
  details.addEventListener("toggle", () => {
    if (details.open && !below) {
      below = document.createElement("tr");
      below.className = "open";
      const cell = below.insertCell();
      cell.colSpan = row.cells.length;
      cell.append(content);
      row.after(below);
    } else if (!details.open && below) {
      details.append(content);
      below.remove();
      below = null;
    }
  });
}
const rowsOf = (table) => Array.from(table.tBodies[0].rows).filter((row) => row.className !== "open");
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = Array.from(table.tHead.rows[0].cells);
  const inFile = rowsOf(table);
  const key = (row, column) => row.cells[column].dataset.v ?? row.cells[column].textContent;
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    const number = head.classList.contains("n");
    // Numbers from the largest, text from A; then the other way round; then the order of the file.
    const states = number ? ["descending", "ascending", ""] : ["ascending", "descending", ""];
    button.addEventListener("click", () => {
      const state = states[(states.indexOf(head.ariaSort ?? "") + 1) % 3];
      close(table);
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      if (!state) return setTimeout(() => body.append(...inFile));
      head.ariaSort = state;
      const down = state === "descending";
      const rows = inFile.slice();
      rows.sort((a, b) => {
        const [x, y] = [key(a, column), key(b, column)];
        if (number) {
          const [p, q] = [x === "" ? NaN : Number(x), y === "" ? NaN : Number(y)];
          if (Number.isNaN(p) || Number.isNaN(q)) return Number.isNaN(p) - Number.isNaN(q);
          return down ? q - p : p - q;
        }
        return (down ? -1 : 1) * x.localeCompare(y, undefined, { numeric: true });
      });
      setTimeout(() => body.append(...rows));
    });
  });
}
// A word is found anywhere in a row; one with * or ? is a pattern of the whole name, as on the command line.
const pattern = (word) => {
  if (!/[*?]/.test(word)) return (row, text) => text.includes(word);
  const source = word.replace(/[.+^${}()|[\]\\]/g, "\\$&").replace(/\*/g, ".*").replace(/\?/g, ".");
  const whole = new RegExp(`^${source}$`);
  const name = (row) => (row.cells[0].querySelector("summary") ?? row.cells[0]).textContent.trim().toLowerCase();
  return (row) => whole.test(name(row));
};
for (const search of document.querySelectorAll("input[type=search]")) {
  const table = document.getElementById(search.getAttribute("aria-controls"));
  const count = document.getElementById(search.dataset.count);
  const filter = () => {
    close(table);
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean).map(pattern);
    const rows = rowsOf(table);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => word(row, text));
      if (!row.hidden) shown += 1;
    }
    count.textContent = `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")} shown`;
  };
  search.addEventListener("input", filter);
  filter();
}
