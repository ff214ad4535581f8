"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = Array.from(table.tHead.rows[0].cells);
  const key = (row, column) => row.cells[column].dataset.v ?? row.cells[column].textContent;
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const down = head.ariaSort !== "descending" && head.classList.contains("n") || head.ariaSort === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.ariaSort = down ? "descending" : "ascending";
      const number = head.classList.contains("n");
      const rows = Array.from(body.rows);
      rows.sort((a, b) => {
        const [x, y] = [key(a, column), key(b, column)];
        if (number) {
          const [p, q] = [x === "" ? NaN : Number(x), y === "" ? NaN : Number(y)];
          if (Number.isNaN(p) || Number.isNaN(q)) return Number.isNaN(p) - Number.isNaN(q);
          return down ? q - p : p - q;
        }
        return (down ? -1 : 1) * x.localeCompare(y, undefined, { numeric: true });
      });
      body.append(...rows);
    });
  });
}
for (const search of document.querySelectorAll("input[type=search]")) {
  const table = document.getElementById(search.getAttribute("aria-controls"));
  const count = document.getElementById(search.dataset.count);
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      if (!row.hidden) shown += 1;
    }
    count.textContent = `${shown} of ${table.tBodies[0].rows.length} shown`;
  };
  search.addEventListener("input", filter);
  filter();
}
