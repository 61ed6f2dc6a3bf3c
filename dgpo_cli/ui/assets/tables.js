
// What stands around the coloured text: legend, strip, the numbers of one token, both tables.

const TOP = 10; // tokens that are underlined in the text, and rows of the table at first
const MORE = 100; // rows of the table on request
const STEPS_AT_FIRST = 100; // rows of the table of steps until all are asked for
const BARS = 250; // of the strip
const SORTS = { // column: [head, numbers to sort by, whether the largest come first]
  token: ["token", (view, t) => t, false],
  weight: ["weight", (view, t) => view.w[t], true],
  advantage: ["A·w", (view, t) => Math.abs(view.shown.advantage * view.w[t]), true],
  score: ["s", (view, t) => view.s[t], true],
  hellinger: ["d", (view, t) => view.shown.d[t], true],
  gate: ["h", (view, t) => view.h[t], true],
  entropy: ["H", (view, t) => view.shown.entropy[t], true],
  prob: ["prob", (view, t) => view.shown.logprob[t], false],
  value: ["move of V", (view, t) => (view.along ? Math.abs(view.along.move(t)) : NaN), true],
};
const columnsOf = (view) => Object.entries(SORTS).filter(([column]) => column !== "value" || view.along);

function shape(svg, name, attributes) { // of SVG, in the namespace that the page's parser gave
  const element = document.createElementNS(svg.namespaceURI, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function named(view, piece) {
  const text = view.shown.texts[piece].replaceAll("\n", "");
  return text.replaceAll(" ", "·") || "∅";
}

// Positions by a column; ties by weight, score and d, then the first comes first.
function ordered(view, column) {
  const [, key, down] = SORTS[column];
  const keys = Float64Array.from(view.w, (_, t) => {
    const value = key(view, t);
    return Number.isNaN(value) ? Infinity : down ? -value : value;
  });
  const { w, s } = view;
  const { d } = view.shown;
  return view.own(Array.from(keys, (_, t) => t)).sort(
    (a, b) => keys[a] - keys[b] || w[b] - w[a] || s[b] - s[a] || d[b] - d[a] || a - b,
  );
}

function showLegend(view) {
  const { low, high, arms, notes } = view.scale;
  const box = make("span", "swatches");
  const down = Array.from({ length: STEPS }, (_, at) => "d" + (STEPS - at));
  const up = Array.from({ length: STEPS }, (_, at) => (arms === "q" ? "q" : "u") + (at + 1));
  const names = [...(arms === "q" ? [] : down), "one", ...up];
  for (const name of names) box.append(make("i", name));
  const bar = make("span", "scale");
  bar.append(make("span", "", low), box, make("span", "", high));
  bar.hidden = low === high;
  $("legend").replaceChildren(bar, make("span", "", notes.join(" · ")));
}

function newStrip(view) {
  const svg = $("strip");
  const count = Math.min(BARS, view.w.length);
  const width = 1000 / Math.max(1, count);
  view.bars = Array.from({ length: count }, (_, at) =>
    shape(svg, "rect", { x: at * width, width: width * (count > 100 ? 1 : 0.9), y: 30, height: 0 }),
  );
  view.mark = shape(svg, "line", { class: "mark", x1: -9, x2: -9, y1: 0, y2: 60 });
  view.axis = shape(svg, "line", { class: "axis", x1: 0, x2: 1000, y1: 30, y2: 30 });
  svg.replaceChildren(...view.bars, view.axis, view.mark);
}

// Each bar stands for its most remarkable token, the one furthest from the middle.
function paintStrip(view) {
  const count = view.bars.length;
  const total = view.w.length;
  const middle = view.scale.arms === "q" ? 60 : 30;
  for (let at = 0; at < count; at += 1) {
    const start = Math.floor((at * total) / count);
    const stop = Math.max(start + 1, Math.floor(((at + 1) * total) / count));
    let furthest = start;
    for (let t = start + 1; t < stop; t += 1) {
      if (Math.abs(view.shares[t]) > Math.abs(view.shares[furthest])) furthest = t;
    }
    const most = view.shares[furthest];
    const height = middle * Math.abs(most);
    const bar = view.bars[at];
    bar.setAttribute("class", levelClass(view, view.levels[furthest]) || "faint");
    bar.setAttribute("y", most > 0 || middle === 60 ? middle - height : middle);
    bar.setAttribute("height", height);
  }
  view.axis.setAttribute("y1", middle);
  view.axis.setAttribute("y2", middle);
}

function levelClass(view, level) {
  if (level === 0) return "";
  return (view.scale.arms === "q" ? "q" : level > 0 ? "u" : "d") + Math.abs(level);
}

function showMark(view, t) {
  const x = t < 0 ? -9 : ((t + 0.5) * 1000) / view.w.length;
  view.mark.setAttribute("x1", x);
  view.mark.setAttribute("x2", x);
  view.curveMark?.setAttribute("x1", x);
  view.curveMark?.setAttribute("x2", x);
}

function numbersOf(view, t) {
  const { shown } = view;
  return [
    ["weight w", weightText(view.w[t], view.factor)],
    ...(shown.trained ? [["w that trained", weightText(shown.trained[t], view.factor)]] : []),
    ["rank", `${view.ranks[t]} of ${view.w.length}`],
    ...valuesOf(view, t),
    ["token advantage", signed(shown.advantage * view.w[t])],
    ["score s", small(view.s[t])],
    ["distance d", small(shown.d[t])],
    ["gate h", small(view.h[t])],
    ["entropy, nats", small(shown.entropy[t])],
    ["probability", probability(shown.logprob[t])],
    ["log p", small(shown.logprob[t])],
    ["token id", String(shown.ids[t])],
  ];
}

function showDetail(view, piece) {
  const box = $("detail");
  const isFirst = piece < 0; // nothing is chosen: the first of the table stands for an example
  if (isFirst) piece = view.pieceOf[view.order[0]] ?? -1;
  if (piece < 0) return box.replaceChildren();
  const [start, stop] = view.range_of(piece);
  const close = make("button", "close", "Close");
  close.type = "button";
  close.dataset.close = "";
  const token = make("p", "token");
  token.append(make("span", levelClass(view, view.levels[start]), named(view, piece)));
  const parts = [make("p", "place", isFirst ? "First of the table; point at another token." : ""), token];
  if (!isFirst) parts[0] = close;
  for (let t = start; t < stop; t += 1) {
    const part = stop - start > 1 ? `, part ${t - start + 1} of ${stop - start}` : "";
    parts.push(make("p", "place", `token ${t}${part}`));
    const list = make("dl", "fields");
    for (const [name, value] of numbersOf(view, t)) list.append(make("dt", "", name), make("dd", "", value));
    parts.push(list);
  }
  box.replaceChildren(...parts, formula(view, start), keysNote());
  showMark(view, start);
}

function formula(view, t) {
  if (!view.isDgpo) return make("p", "note", `credit rule: ${view.ruleName}`);
  const power = view.kappa === 1 ? "" : `^${view.kappa}`;
  return make(
    "p",
    "note num",
    `s = ${small(view.shown.d[t])} × ${small(view.h[t])}${power} = ${small(view.s[t])}; ` +
      `w = T·softmax(s / ${view.tau}) = ${weightText(view.w[t], view.factor)}`,
  );
}

function keysNote() {
  const note = make("p", "note keys");
  const keys = [["←→↑↓", "move"], ["Enter", "keep"], ["Esc", "let go"]];
  for (const [key, what] of keys) note.append(make("kbd", "", key), ` ${what} `);
  return note;
}

function jumpButton(t, piece) {
  const button = make("button", "", String(t));
  button.type = "button";
  button.dataset.piece = piece;
  button.setAttribute("aria-label", `Go to token ${t}`);
  return button;
}

function showTop(view, sort, isLong) {
  const table = $("top");
  const head = make("tr");
  head.append(make("th", "", "#"));
  for (const [column, [name, , down]] of columnsOf(view)) {
    const cell = make("th");
    const button = make("button", "", name);
    button.type = "button";
    button.dataset.sort = column;
    if (column === sort) cell.setAttribute("aria-sort", down ? "descending" : "ascending");
    if (column === sort) button.textContent = name + (down ? " ↓" : " ↑");
    cell.append(button);
    head.append(cell);
    if (column === "weight") head.append(make("th", "text", "in context"));
  }
  const rows = view.order.slice(0, isLong ? MORE : TOP).map((t, at) => topRow(view, t, at + 1));
  const kept = table.contains(document.activeElement) && document.activeElement.dataset.sort;
  const top = make("thead");
  top.append(head);
  const body = make("tbody");
  body.append(...rows);
  table.replaceChildren(top, body);
  if (kept) table.querySelector(`[data-sort="${kept}"]`).focus();
  $("more").hidden = view.order.length <= TOP;
  $("more").textContent = isLong ? `Show ${TOP}` : `Show ${Math.min(MORE, view.order.length)}`;
}

function topRow(view, t, rank) {
  const { shown } = view;
  const piece = view.pieceOf[t];
  const row = make("tr");
  const jump = make("td");
  jump.append(jumpButton(t, piece));
  const context = make("td", "context");
  const [before, after] = [-1, 1].map((way) => around(view, piece, way));
  context.append(before, make("span", levelClass(view, view.levels[t]), named(view, piece)), after);
  row.append(make("td", "", String(rank)), jump, make("td", "", weightText(view.w[t], view.factor)), context);
  const cells = [
    signed(shown.advantage * view.w[t]),
    small(view.s[t]),
    small(shown.d[t]),
    small(view.h[t]),
    small(shown.entropy[t]),
    probability(shown.logprob[t]),
    ...(view.along ? [signedWorth(view.along.move(t))] : []),
  ];
  for (const cell of cells) row.append(make("td", "", cell));
  return row;
}

function around(view, piece, way) {
  const room = innerWidth < 640 ? 6 : 18;
  let text = "";
  for (let at = piece + way; at in view.shown.texts && [...text].length < room; at += way) {
    const next = view.shown.texts[at].replaceAll("\n", "");
    text = way < 0 ? next + text : text + next;
  }
  const chars = [...text];
  return way > 0 ? chars.slice(0, room).join("") : chars.slice(-room).join("").padStart(room, " ");
}

function newSteps(view, most) {
  const { steps } = view.shown;
  const rows = steps.slice(0, most).map((start, at) => {
    const stop = steps[at + 1] ?? view.w.length;
    const row = make("tr");
    const jump = make("td");
    jump.append(jumpButton(start, view.pieceOf[start]));
    const bar = make("td");
    const svg = shape($("strip"), "svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none" });
    const share = shape(svg, "rect", { class: "share", height: 10 });
    const even = shape(svg, "line", { class: "even", y1: 0, y2: 10 });
    svg.append(share, even);
    bar.append(svg);
    const cells = Array.from({ length: 3 }, () => make("td"));
    const text = make("td", "step", textOf(view, start, stop));
    const count = view.foreign.has(start) ? 0 : stop - start; // 0: what an environment said
    row.append(jump, text, make("td", "", count ? String(count) : "env."), cells[0], bar, cells[1], cells[2]);
    for (const value of stepValues(view, start, stop)) row.append(make("td", "", value));
    return { row, start, stop, count, share, even, cells };
  });
  view.stepRows = rows;
  const head = make("tr");
  head.append(make("th", "", "from"), make("th", "text", "step"));
  const names = ["tokens", "share", "", "mean w", "Σ A·w", ...(view.along ? ["V after", "move of V"] : [])];
  for (const name of names) head.append(make("th", "", name));
  const [top, body] = [make("thead"), make("tbody")];
  top.append(head);
  body.append(...rows.map(({ row }) => row));
  $("more-steps").hidden = steps.length <= most;
  $("more-steps").textContent = `Show all ${grouped(steps.length)}`;
  $("steps").replaceChildren(top, body);
}

function textOf(view, start, stop) {
  const texts = view.shown.texts.slice(view.pieceOf[start], (view.pieceOf[stop - 1] ?? 0) + 1);
  const chars = [...texts.slice(0, 200).join("").replaceAll("\n", "").trim()];
  return chars.length > 90 ? chars.slice(0, 89).join("") + "…" : chars.join("");
}

function fillSteps(view) {
  const total = sum(view.w);
  const shares = view.stepRows.map(({ start, stop }) => sum(view.w.slice(start, stop)) / total);
  const tokens = view.w.length - view.foreign.size;
  const most = Math.max(...shares, ...view.stepRows.map((row) => row.count / tokens));
  view.stepRows.forEach((step, at) => {
    const { count } = step;
    if (!count) return;
    const even = (100 * count) / tokens / most;
    step.cells[0].textContent = percent(shares[at]);
    step.cells[1].textContent = weightText((shares[at] * total) / count, view.factor);
    step.cells[2].textContent = signed(shares[at] * total * view.shown.advantage);
    step.share.setAttribute("width", (100 * shares[at]) / most || 0);
    step.even.setAttribute("x1", even || 0);
    step.even.setAttribute("x2", even || 0);
  });
}
