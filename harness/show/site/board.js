// Sorts and filters the tables of submissions. Without this script, every table shows all rows, the newest first.
"use strict";

const boards = [...document.querySelectorAll("table.board")];

const text = (row, column) => row.cells[column].textContent.trim();

// Rows without a value stay last in both directions. Rows with equal values keep their order.
function sort(table, column, descending) {
  const numeric = table.tHead.rows[0].cells[column].dataset.sort === "number";
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [text(row, column).replace(/[×,]/g, ""), row]);
  rows.sort(([a], [b]) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    const order = numeric ? a - b : a.localeCompare(b, "en");
    return descending ? -order : order;
  });
  body.append(...rows.map(([, row]) => row));
  for (const [place, head] of [...table.tHead.rows[0].cells].entries()) {
    if (place === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
}

for (const table of boards) {
  for (const head of table.tHead.querySelectorAll("[data-sort]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () =>
      sort(table, head.cellIndex, head.getAttribute("aria-sort") === "ascending"));
    head.append(button);
  }
}

const controls = document.querySelector(".controls");
if (controls) {
  const find = document.getElementById("find");
  const ticks = [...controls.querySelectorAll("[name=result]")];
  const rows = boards.flatMap((table) => [...table.tBodies[0].rows]);

  // The address contains the filter, so that a link shows the same rows to somebody else.
  const filter = () => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = new Set(ticks.filter((tick) => tick.checked).map((tick) => tick.value));
    let count = 0;
    for (const row of rows) {
      const track = row.closest("table").dataset.track;
      const all = `${row.textContent.trim()} ${track}`.toLowerCase().replace(/\s+/g, " ");
      const number = `#${text(row, 0)}`;
      const matches = words.every((word) => word.startsWith("#") ? word === number : all.includes(word));
      row.hidden = !(matches && shown.has(row.dataset.result));
      count += !row.hidden;
    }
    for (const table of boards) {
      table.closest("section").hidden = [...table.tBodies[0].rows].every((row) => row.hidden);
    }
    document.getElementById("count").textContent = `${count} of ${rows.length}`;
    document.getElementById("nothing").hidden = count > 0;
    const query = new URLSearchParams();
    if (words.length) query.set("q", words.join(" "));
    if (shown.size < ticks.length) query.set("show", [...shown].join(" "));
    history.replaceState(null, "", `${location.pathname}${query.size ? `?${query}` : ""}${location.hash}`);
  };

  const asked = new URLSearchParams(location.search);
  find.value = asked.get("q") ?? "";
  if (asked.has("show")) {
    for (const tick of ticks) tick.checked = asked.get("show").split(" ").includes(tick.value);
  }
  controls.addEventListener("input", filter);
  document.getElementById("reset").addEventListener("click", () => {
    find.value = "";
    for (const tick of ticks) tick.checked = true;
    filter();
    find.focus();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !event.target.matches("input")) {
      event.preventDefault();
      find.focus();
    }
  });
  controls.hidden = false;
  filter();
}
