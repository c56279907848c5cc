"use strict";
// Sort a table by the column whose heading is pressed: numbers first and by value, then words; again turns it around.
const number = (cell) => parseFloat(cell.textContent.trim());
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const body = head.closest("table").tBodies[0];
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const compare = (one, two) => {
      const [a, b] = [one.cells[head.cellIndex], two.cells[head.cellIndex]];
      const [x, y] = [number(a), number(b)];
      if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
      const order = Number.isNaN(x) ? a.textContent.localeCompare(b.textContent) : x - y;
      return up ? order : -order;
    };
    body.append(...[...body.rows].sort(compare));
  });
}
// Few columns first, all on demand.
for (const button of document.querySelectorAll(".columns")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    const all = document.getElementById(button.getAttribute("aria-controls")).classList.toggle("all");
    button.textContent = all ? "fewer columns" : "all columns";
    button.setAttribute("aria-expanded", all);
  });
}
for (const figure of document.querySelectorAll("figure")) {
  // The legend hides and shows what it stands for.
  for (const button of figure.querySelectorAll("[aria-pressed]")) {
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", shown);
      for (const part of figure.querySelectorAll(`[data-series="${button.dataset.of}"]`)) part.classList.toggle("off", !shown);
    });
  }
  // The value of the mark that is nearest to the pointer, or under the finger.
  const output = figure.querySelector("output");
  const marks = [...figure.querySelectorAll("[data-series] title")].map((title) => title.parentNode);
  const nearest = (event) => {
    let [best, least] = [null, 30 * 30];
    for (const mark of marks) {
      const box = mark.getBoundingClientRect();
      if (!box.width && !box.height) continue;
      const dx = Math.max(box.left - event.clientX, 0, event.clientX - box.right);
      const dy = Math.max(box.top - event.clientY, 0, event.clientY - box.bottom);
      if (dx * dx + dy * dy < least) [best, least] = [mark, dx * dx + dy * dy];
    }
    output.textContent = best ? best.querySelector("title").textContent : output.dataset.empty;
  };
  for (const kind of ["pointermove", "pointerdown"]) figure.querySelector("svg[role=img]").addEventListener(kind, nearest);
  output.textContent = marks.length ? output.dataset.empty : "";
}
// A link to a run opens what hides it.
addEventListener("hashchange", () => {
  const details = document.getElementById(location.hash.slice(1))?.closest("details");
  if (details) details.open = true;
});
// A printed page has no details to open: the commands are printed, and folded again afterwards.
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll(".experiment:not([open]), .threats details:not([open])")];
  for (const one of opened) one.open = true;
});
addEventListener("afterprint", () => {
  for (const one of opened) one.open = false;
});
