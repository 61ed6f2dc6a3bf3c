
// The page of dgpo view: which problems are shown, in which order, and the sample that is chosen.

const data = JSON.parse($("data").textContent);
const UNJUDGED = "dx";
const state = { bench: 0, only: "all", sort: "order", find: "", left: 0, right: 0, at: null };
let nodes = []; // of the problems of the benchmark, by number
let shown = []; // numbers of the problems that are shown, in order

const evalsHere = () => data.evals.map((_, e) => e).filter((e) => data.evals[e].bench === state.bench);
const rowOf = (e, p) => data.evals[e].rows[p];
const countOf = (row, letter) => row.outcomes.split(letter).length - 1;
const storedOf = (row) => row.outcomes.length - countOf(row, "-");
const mostRight = (e, p) => rowOf(e, p) && 2 * countOf(rowOf(e, p), "c") > storedOf(rowOf(e, p));

const ONLY = { // what a filter says, and which samples it lets through
  all: ["all samples", () => true],
  wrong: ["wrong", (row, s) => "wo".includes(row.outcomes[s])],
  truncated: ["truncated", (row, s) => row.outcomes[s] === "t"],
  none: ["no answer", (row, s) => row.outcomes[s] === "n"],
  unjudged: ["not judged", (row, s) => UNJUDGED.includes(row.outcomes[s])],
  disputed: ["opinions differ", (row, s) => row.disputed.includes(s)],
  flips: ["flips between two models", (row, s, p) => isFlip(p)],
};
const SORTS = { // what an order says, and the key that rises
  order: ["as in the benchmark", (p) => p],
  hard: ["hardest first", (p) => meanRight(p)],
  easy: ["easiest first", (p) => -meanRight(p)],
  long: ["longest first", (p) => -meanLength(p)],
  difference: ["largest difference first", (p) => -Math.abs(shareOf(state.left, p) - shareOf(state.right, p))],
};

// Most samples are right in one of the two models only, as dgpo compare counts them.
function isFlip(p) {
  return rowOf(state.left, p) && rowOf(state.right, p) && mostRight(state.left, p) !== mostRight(state.right, p);
}

function shareOf(e, p) {
  const row = rowOf(e, p);
  return row && storedOf(row) ? countOf(row, "c") / storedOf(row) : 0;
}

function mean(values) {
  return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : 0;
}

const meanRight = (p) => mean(evalsHere().filter((e) => rowOf(e, p)).map((e) => shareOf(e, p)));
const meanLength = (p) => mean(evalsHere().flatMap((e) => rowOf(e, p)?.tokens ?? []).filter((n) => n !== null));

function isShown(e, p, s) {
  const row = rowOf(e, p);
  return Boolean(row) && row.outcomes[s] !== "-" && s < row.outcomes.length && Boolean(ONLY[state.only][1](row, s, p));
}

// All samples that the filter lets through, in reading order.
function shownSamples() {
  const found = [];
  for (const p of shown)
    for (const e of evalsHere()) {
      const count = rowOf(e, p)?.outcomes.length ?? 0;
      for (let s = 0; s < count; s += 1) if (isShown(e, p, s)) found.push({ e, p, s });
    }
  return found;
}

function lookOf(row, s) {
  const letter = row.outcomes[s];
  return (letter === "-" ? "gone" : letter) + (row.disputed.includes(s) ? " disputed" : "");
}

function newProblem(p) {
  const box = make("section", "problem");
  const id = make("button", "id", data.benches[state.bench].ids[p]);
  id.type = "button";
  box.append(id);
  box.rows = new Map();
  for (const e of evalsHere()) {
    const row = rowOf(e, p);
    const line = make("div", "samples");
    if (data.evals.length > 1) line.append(make("b", "", data.evals[e].letter));
    if (row) {
      const squares = make("div", "squares");
      for (let s = 0; s < row.outcomes.length; s += 1) squares.append(make("i", lookOf(row, s)));
      const said = `${countOf(row, "c")}/${storedOf(row)}`;
      squares.setAttribute("role", "img");
      squares.setAttribute("aria-label", `${data.evals[e].letter}: ${said} correct`);
      line.append(make("span", "num", said), squares);
      box.rows.set(e, squares);
    } else line.append(make("span", "none", "no sample"));
    box.append(line);
  }
  return box;
}

function build() {
  const most = Math.max(...evalsHere().map((e) => Math.max(0, ...data.evals[e].rows.map((row) => row?.outcomes.length ?? 0))));
  const wide = most <= 4 ? "few" : most <= 8 ? "some" : most <= 32 ? "many" : "most";
  $("problems").className = `problems ${wide}`;
  nodes = data.benches[state.bench].ids.map((_, p) => newProblem(p));
  nodes.forEach((node, p) => (node.dataset.p = p));
  const here = evalsHere();
  [state.left, state.right] = [here[0], here[1] ?? here[0]];
  for (const id of ["left", "right"]) {
    $(id).replaceChildren(...here.map((e) => new Option(`${data.evals[e].letter} ${data.evals[e].name}`, e)));
    $(id).value = state[id];
  }
  $("pair").hidden = here.length < 3;
  const kept = (names) => names.filter((name) => here.length > 1 || !["flips", "difference"].includes(name));
  fillChoices("only", ONLY, kept(Object.keys(ONLY)).filter((name) => name === "all" || isThere(name)));
  fillChoices("sort", SORTS, kept(Object.keys(SORTS)));
  state.at = null;
  refresh();
}

const isThere = (name) =>
  evalsHere().some((e) => data.evals[e].rows.some((row, p) => row && [...row.outcomes].some((_, s) => ONLY[name][1](row, s, p))));

function fillChoices(id, all, names) {
  $(id).replaceChildren(...names.map((name) => new Option(all[name][0], name)));
  if (!names.includes(state[id])) state[id] = names[0];
  $(id).value = state[id];
}

function refresh() {
  const { ids } = data.benches[state.bench];
  const find = state.find.trim().toLowerCase();
  const some = (p) => evalsHere().some((e) => [...(rowOf(e, p)?.outcomes ?? "")].some((_, s) => isShown(e, p, s)));
  const key = SORTS[state.sort][1];
  shown = ids.map((_, p) => p).filter((p) => ids[p].toLowerCase().includes(find) && (state.only === "all" || some(p)));
  const keys = new Map(shown.map((p) => [p, key(p)]));
  shown.sort((a, b) => keys.get(a) - keys.get(b) || a - b);
  for (const p of shown)
    for (const [e, squares] of nodes[p].rows)
      [...squares.children].forEach((square, s) => square.classList.toggle("off", state.only !== "all" && !isShown(e, p, s)));
  $("problems").replaceChildren(...shown.map((p) => nodes[p]));
  if (!shown.length) $("problems").append(make("p", "none", "No problem is left."));
  const samples = state.only === "all" ? "" : `, ${grouped(shownSamples().length)} samples`;
  $("count").textContent = `${grouped(shown.length)} of ${grouped(ids.length)} problems${samples}`;
}

function squareOf({ e, p, s }) {
  return nodes[p]?.rows.get(e)?.children[s];
}

function choose(at) {
  if (!at) return;
  if (state.at) squareOf(state.at)?.classList.remove("at");
  state.at = at;
  const square = squareOf(at);
  square?.classList.add("at");
  if ($("reader").open) read();
  else nodes[at.p].scrollIntoView({ block: "nearest" });
}

// The next or the previous sample that the filter lets through, also from one that it does not.
function step(way) {
  const all = shownSamples();
  if (!state.at) return choose(all[0]);
  const place = ({ e, p, s }) => [shown.indexOf(p), e, s];
  const here = place(state.at);
  const side = (at) => Math.sign(place(at).map((value, n) => value - here[n]).find(Boolean) ?? 0);
  choose(way > 0 ? all.find((at) => side(at) > 0) : all.findLast((at) => side(at) < 0));
}

// The sample beside it, whatever the filter says; the same place of the problem above or below.
function beside(way) {
  if (!state.at) return step(1);
  const { e, p, s } = state.at;
  const count = rowOf(e, p).outcomes.length;
  for (let next = s + way; next >= 0 && next < count; next += way)
    if (rowOf(e, p).outcomes[next] !== "-") return choose({ e, p, s: next });
}

function problem(way) {
  if (!state.at) return step(1);
  const at = shown.indexOf(state.at.p);
  for (let next = at + way; next >= 0 && next < shown.length; next += way) {
    const found = openable(shown[next], state.at.e, state.at.s);
    if (found) return choose(found);
  }
}

// A stored sample of a problem: this one, else the first that is shown.
function openable(p, e, s) {
  if (rowOf(e, p) && (rowOf(e, p).outcomes[s] ?? "-") !== "-" && (state.only === "all" || isShown(e, p, s))) return { e, p, s };
  for (const other of evalsHere()) {
    const count = rowOf(other, p)?.outcomes.length ?? 0;
    for (let next = 0; next < count; next += 1) if (isShown(other, p, next)) return { e: other, p, s: next };
  }
  return null;
}

// The square nearest to a click: a finger is larger than a square.
function nearest(squares, x, y) {
  const far = (square) => {
    const box = square.getBoundingClientRect();
    return Math.hypot(x - (box.left + box.right) / 2, y - (box.top + box.bottom) / 2);
  };
  return [...squares.children].reduce((best, square) => (far(square) < far(best) ? square : best));
}
