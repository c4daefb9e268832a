
// Sorts a table by the heading that is clicked: ascending, descending, then as it was. Missing values stay last.
// Keeps the semantics of tables that phones show as lists, and makes a region a tab stop while it can be scrolled.
const UNITS = {k: 1e3, M: 1e6, G: 1e9, T: 1e12, kJ: 1e3, kWh: 3.6e6, min: 60, h: 3600};
const NUMBER = /^[<\u2248(+]*\s*(-?[\d.]+(?:e[+-]?\d+)?)(?: (k|M|G|T|kJ|kWh|min|h)\b(?: (\d+) (min|s)\b)?)?/;

// '+1.23 [0.45, 2.01]', '3 of 5', '11.17 M', '1.11 G', '1 h 07 min' and '41.2 kJ' as numbers; NaN for other text.
function numberIn(text) {
  const match = NUMBER.exec(text.replaceAll(",", "").replace("\u2212", "-"));
  if (!match) return NaN;
  const [, value, unit, rest, smallUnit] = match;
  return value * (UNITS[unit] ?? 1) + (rest ? rest * (UNITS[smallUnit] ?? 1) : 0);
}

function order(left, right) {
  const [a, b] = [numberIn(left), numberIn(right)];
  return isNaN(a) || isNaN(b) ? left.localeCompare(right, "en", {numeric: true}) : a - b;
}

// Browsers remove the semantics of a table whose rows are grids.
const ROLES = {TABLE: "table", THEAD: "rowgroup", TBODY: "rowgroup", TR: "row", TD: "cell"};
for (const element of document.querySelectorAll("table, thead, tbody, tr, td"))
  element.setAttribute("role", ROLES[element.tagName]);
for (const heading of document.querySelectorAll("th"))
  heading.setAttribute("role", heading.scope === "col" ? "columnheader" : "rowheader");

function updateTabStop(region) {
  if (region.scrollWidth > region.clientWidth) region.tabIndex = 0;
  else region.removeAttribute("tabindex");
}

const sizes = new ResizeObserver(entries => entries.forEach(entry => updateTabStop(entry.target)));
for (const region of document.querySelectorAll(".scroll")) {
  updateTabStop(region);
  sizes.observe(region);
}

for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0], rows = [...body.rows], headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    heading.setAttribute("aria-label", heading.textContent.trim()); // phones hide the button
    button.append(...heading.childNodes);
    heading.append(button);
    const textOf = row => row.cells[column]?.textContent.trim() ?? "";
    const isMissing = row => ["", "\u2013"].includes(textOf(row));
    button.addEventListener("click", () => {
      const state = {null: "ascending", ascending: "descending"}[heading.getAttribute("aria-sort")];
      headings.forEach(other => other.removeAttribute("aria-sort"));
      const sorted = [...rows];
      if (state) {
        heading.setAttribute("aria-sort", state);
        const sign = state === "ascending" ? 1 : -1;
        sorted.sort((a, b) => isMissing(a) - isMissing(b) || sign * order(textOf(a), textOf(b)));
      }
      body.append(...sorted);
    });
  });
}
