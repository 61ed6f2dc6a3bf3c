
// Which variants stand out, and the order of the table, on the page of a study.

const chosen = new Set();
const [baseline] = Object.keys(data.variants); // never dimmed
const isCrowded = document.querySelector(".swatch.s0") !== null;
let pointed = null;

// A variant without a colour of its own gets one while it stands out.
function stand() {
  const shown = [...new Set([...chosen, pointed])].filter(Boolean);
  document.documentElement.classList.toggle("choosing", shown.length > 0);
  const keyOf = (each) => each.dataset.variant ?? each.dataset.points;
  for (const each of all(document, "[data-variant], .series[data-points]")) {
    const place = shown.indexOf(keyOf(each));
    each.classList.toggle("chosen", place >= 0 || keyOf(each) === baseline);
    if (!each.matches(".series, .swatch")) continue;
    each.dataset.look ??= each.getAttribute("class").match(/\bs\d\b/)[0];
    const look = each.dataset.look === "s0" && place >= 0 ? `s${2 + (place % 7)}` : each.dataset.look;
    each.setAttribute("class", each.getAttribute("class").replace(/\bs\d\b/, look));
  }
  for (const svg of all(document, ".plot:not(.forest)")) {
    const circles = all(svg, ".here");
    all(svg, ".series").forEach((each, at) => {
      circles[at].setAttribute("class", `here ${each.getAttribute("class").match(/\bs\d\b/)[0]}`);
    });
  }
}

function pointAt(letter) {
  if (pointed === letter) return;
  pointed = letter;
  stand();
}

// The curve under the pointer, if one is near.
function curveAt(svg, event) {
  const plot = [...charts].flatMap(({ plots }) => plots ?? []).find((each) => each.svg === svg);
  if (!plot || plot.series.length < 2) return pointed;
  const box = svg.getBoundingClientRect();
  const unitsOf = svg.viewBox.baseVal.width / box.width;
  const [x, y] = [(event.clientX - box.left) * unitsOf, (event.clientY - box.top) * unitsOf];
  let [best, least] = [null, 18];
  for (const each of plot.shown.seen) {
    const at = each.xs.reduce((near, here, i) => (Math.abs(here - x) < Math.abs(each.xs[near] - x) ? i : near), 0);
    const far = Math.abs(place(each.tops[at] ?? Infinity, plot.shown.y) - y);
    if (far < least) [best, least] = [each.group.dataset.points, far];
  }
  return best;
}

document.addEventListener("pointermove", (event) => {
  const svg = event.target.closest(".plot:not(.forest)");
  const row = event.target.closest(".pick, tr[data-variant], .forest .series");
  pointAt(row ? row.dataset.variant : svg && isCrowded ? curveAt(svg, event) : null);
});
document.addEventListener("focusin", (event) => pointAt(event.target.closest(".pick")?.dataset.variant ?? null));
document.addEventListener("focusout", () => pointAt(null));
for (const button of all(document, ".pick")) {
  button.addEventListener("click", () => {
    const { variant } = button.dataset;
    if (!chosen.delete(variant)) chosen.add(variant);
    button.setAttribute("aria-pressed", String(chosen.has(variant)));
    stand();
  });
}
for (const button of all(document, ".metric")) button.addEventListener("click", stand);

for (const table of all(document, ".sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[1].cells];
  const originals = [...body.rows];
  const keyOf = (row, at) => Number(row.cells[at]?.dataset.sort ?? NaN);
  heads.forEach((head, at) => head.querySelector(".sort")?.addEventListener("click", () => {
    const order = { none: "descending", descending: "ascending", ascending: "none" }[head.ariaSort ?? "none"];
    for (const each of heads) each.ariaSort = null;
    if (order !== "none") head.ariaSort = order;
    const sign = order === "ascending" ? 1 : -1;
    const rows = [...originals]; // what is unknown comes last
    const compare = (a, b) => Number.isNaN(a) - Number.isNaN(b) || sign * (a - b) || 0;
    if (order !== "none") rows.sort((a, b) => compare(keyOf(a, at), keyOf(b, at)));
    body.append(...rows);
  }));
}
