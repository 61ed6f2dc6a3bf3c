
// The reader of dgpo view: one sample, or those of two models side by side; keys; the start.

const opened = new Map(); // blocks of texts that were decompressed
let turn = 0; // of what is drawn: what was asked for meanwhile wins
let other = null; // the model beside; null for none
let withGold = false;
let withThoughts = false;

async function textsOf(row) {
  if (!opened.has(row)) opened.set(row, unpacked(row.texts));
  return opened.get(row);
}

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

function openReader(at) {
  if (!at) return;
  if (!$("reader").open) {
    $("reader").showModal();
    $("reader").focus(); // no button has the focus, so that Enter and space press none
  }
  const here = evalsHere().filter((e) => e !== at.e);
  if (other === null || !here.includes(other)) other = here.includes(state.right) ? state.right : (here[0] ?? null);
  choose(at);
}

async function read() {
  const mine = (turn += 1);
  const { e, p, s } = state.at;
  const beside = other !== null && other !== e && rowOf(other, p) ? other : null;
  const sides = (beside === null ? [e] : [e, beside]).sort((a, b) => a - b); // each keeps its side
  const texts = await Promise.all(sides.map((each) => textsOf(rowOf(each, p))));
  if (mine !== turn) return;
  $("asked-id").textContent = data.benches[state.bench].ids[p];
  $("place").textContent = `problem ${grouped(shown.indexOf(p) + 1)} of ${grouped(shown.length)}`;
  const own = texts[sides.indexOf(e)];
  $("messages").replaceChildren(...own.asked.map(([role, text]) => message(role, text, own.asked.length > 1)));
  $("asked").hidden = !own.asked.length;
  $("answer").hidden = !withGold;
  $("answer").textContent = withGold ? `expected answer: ${own.gold}` : "";
  const at = (each) => (each === e ? s : Math.min(s, rowOf(each, p).outcomes.length - 1));
  $("panes").className = sides.length > 1 ? "panes two" : "panes";
  $("panes").replaceChildren(...sides.map((each, side) => pane(each, p, at(each), texts[side])));
  $("gold").setAttribute("aria-pressed", withGold);
  $("gold").textContent = withGold ? "Hide answer" : "Answer";
  $("thoughts").setAttribute("aria-pressed", withThoughts);
}

function message(role, text, named) {
  const box = make("div");
  if (named) box.append(make("span", "muted", role));
  box.append(make("div", "said", text));
  return box;
}

function pane(e, p, s, texts) {
  const row = rowOf(e, p);
  const isBeside = e !== state.at.e;
  const box = make("article", isBeside ? "pane" : "pane here");
  box.append(evalsHere().length < 2 ? make("h3", "", data.evals[e].name) : models(e, isBeside));
  const strip = make("div", "strip");
  for (let at = 0; at < row.outcomes.length; at += 1) {
    const button = make("button", lookOf(row, at) + (at === s ? " at" : ""));
    button.type = "button";
    button.disabled = row.outcomes[at] === "-";
    button.title = `sample ${at}: ${data.names[row.outcomes[at]]}`;
    button.setAttribute("aria-label", button.title);
    button.addEventListener("click", () => {
      if (isBeside) other = state.at.e;
      choose({ e, p, s: at });
    });
    strip.append(button);
  }
  const own = texts.samples[s];
  box.append(strip, ...(own ? [facts(row, s, own), ...said(own)] : [make("p", "none", "This sample is not stored.")]));
  return box;
}

// The chooser of a pane: its model; for the one beside none, and for the only one what to put beside.
function models(e, isBeside) {
  const select = make("select");
  select.setAttribute("aria-label", isBeside ? "Model beside" : "Model");
  const here = evalsHere().filter((each) => rowOf(each, state.at.p));
  const names = here.map((each) => new Option(`${data.evals[each].letter} ${data.evals[each].name}`, each));
  const added = here.filter((each) => each !== e).map((each) => new Option(`beside ${data.evals[each].letter}`, `+${each}`));
  select.append(...names, ...(isBeside ? [new Option("none", "")] : other === null ? added : []));
  select.value = e;
  select.addEventListener("change", () => {
    const chosen = select.value === "" ? null : Number(select.value);
    if (isBeside || select.value.startsWith("+")) {
      if (chosen === state.at.e) state.at = openable(state.at.p, e, state.at.s) ?? state.at; // they change places
      other = chosen;
      return read();
    }
    if (chosen === other) other = e;
    choose(openable(state.at.p, chosen, state.at.s) ?? state.at);
  });
  const line = make("div", "row");
  line.append(select);
  return line;
}

function facts(row, s, own) {
  const list = make("dl", "fields");
  const add = (name, value, look = "") => {
    const pair = make("div");
    pair.append(make("dt", "", name), make("dd", look, value));
    list.append(pair);
  };
  const isRight = row.outcomes[s] === "c";
  add(`sample ${s}`, data.names[row.outcomes[s]], isRight ? "good" : "bad");
  add("tokens", row.tokens[s] === null ? UNKNOWN : grouped(row.tokens[s]), "num");
  if (own.finish !== undefined) add("finish", own.finish);
  if (own.finish !== undefined) add("read as answer", own.read ?? "nothing", own.read === undefined ? "muted" : "mono");
  if (own.second !== undefined) add("second opinion", own.second, row.disputed.includes(s) ? "warn" : "");
  return list;
}

function said(own) {
  if (own.finish === undefined) return [make("p", "none", "Its text is not stored.")];
  const parts = [];
  const isOnlyThought = own.text === undefined;
  for (const [name, text] of [["Reasoning, in a field of its own", own.reasoning], ["Thought", own.thought]]) {
    if (text === undefined) continue;
    const fold = make("details");
    fold.open = withThoughts || isOnlyThought;
    fold.append(make("summary", "", `${name}, ${grouped(text.length)} characters`), make("div", "said mono thought", text));
    parts.push(fold);
  }
  parts.push(isOnlyThought ? make("p", "none", parts.length ? "Nothing follows the thought." : "The text is empty.") : make("div", "said mono", own.text));
  return parts;
}

const KEYS = {
  j: () => step(1),
  k: () => step(-1),
  ArrowRight: () => beside(1),
  ArrowLeft: () => beside(-1),
  ArrowDown: () => problem(1),
  ArrowUp: () => problem(-1),
};

function onKey(event) {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.target.matches("select, input")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.key in KEYS) KEYS[event.key]();
  else if (event.key === "Enter" && !event.target.matches("button, summary") && !$("reader").open) openReader(state.at);
  else if (event.key === "a" && $("reader").open) toggleGold();
  else if (event.key === "t" && $("reader").open) toggleThoughts();
  else if (event.key === "/" && !$("reader").open) $("find").focus();
  else return;
  event.preventDefault();
}

function toggleGold() {
  withGold = !withGold;
  read();
}

function toggleThoughts() {
  withThoughts = !withThoughts;
  read();
}

function onProblems(event) {
  const box = event.target.closest(".problem");
  if (!box) return;
  const p = Number(box.dataset.p);
  if (event.target.closest(".id")) return openReader(openable(p, state.at?.e ?? state.left, 0));
  const line = event.target.closest(".samples");
  const found = [...box.rows].find(([, squares]) => line?.contains(squares));
  if (!found) return;
  const [e, squares] = found;
  const s = [...squares.children].indexOf(nearest(squares, event.clientX, event.clientY));
  if (rowOf(e, p).outcomes[s] !== "-") openReader({ e, p, s });
}

for (const name of ["only", "sort", "find", "left", "right", "bench"]) {
  $(name)?.addEventListener("input", () => {
    const isNumber = ["left", "right", "bench"].includes(name);
    state[name] = isNumber ? Number($(name).value) : $(name).value;
    if (name === "bench") build();
    else refresh();
  });
}
$("problems").addEventListener("click", onProblems);
$("before").addEventListener("click", () => step(-1));
$("after").addEventListener("click", () => step(1));
$("gold").addEventListener("click", toggleGold);
$("thoughts").addEventListener("click", toggleThoughts);
$("close").addEventListener("click", () => $("reader").close());
$("reader").addEventListener("close", () => state.at && nodes[state.at.p].scrollIntoView({ block: "nearest" }));
document.addEventListener("keydown", onKey);
for (const part of document.querySelectorAll("[data-script]")) part.hidden = false;
$("no-script").hidden = true;
build();
