
// The page of dgpo inspect: builds the text, keeps what is chosen, and answers mouse and keys.

const data = JSON.parse($("data").textContent);
const state = { at: data.first, what: "weight", range: "2", sort: "weight", isLong: false };
const SHORT = 160; // tokens; a text up to here has room for larger letters
let view = null;

const numbers = (column) => Float64Array.from(column, (value) => (value === null ? NaN : value));

// A completion with everything that does not depend on tau and kappa.
function openAt(at) {
  const shown = { ...data.completions[at] };
  for (const name of ["logprob", "entropy", "d", "s", "w"]) shown[name] = numbers(shown[name]);
  shown.advantage ??= NaN;
  if (shown.stored) shown.trained = numbers(shown.stored.w);
  const count = shown.w.length;
  const along = alongOf(shown.values, count);
  const foreign = new Set(shown.env); // tokens that an environment wrote: they have no numbers
  const pieceOf = new Int32Array(count);
  shown.starts.forEach((start, piece) => pieceOf.fill(piece, start));
  state.at = at;
  view = {
    kept: -1,
    here: 0,
    shown,
    along,
    foreign,
    own: (values) => (foreign.size ? values.filter((_, t) => !foreign.has(t)) : values),
    s: shown.s,
    w: shown.w,
    pieceOf,
    h: shown.entropy.map((entropy) => gateOf(entropy, data.vocabSize)),
    range_of: (piece) => [shown.starts[piece], shown.starts[piece + 1] ?? count],
    storedTau: shown.tau ?? data.tau ?? 0.5,
    storedKappa: data.kappa ?? 1,
    isWhatIf: false,
    // Another rule than dgpo may have measured no distance, and then there is nothing to compute with.
    hasDistances: data.rule === "dgpo" || shown.d.some((d) => d > 0),
    canBeWeighed: !shown.signNote,
  };
  Object.assign(view, { tau: view.storedTau, kappa: view.storedKappa });
  showFacts();
  buildText();
  newStrip(view);
  newCurve(view);
  newSteps(view, STEPS_AT_FIRST);
  setSliders();
  recompute();
}

function showFacts() {
  const { shown } = view;
  $("name").textContent = shown.name;
  $("outcome").replaceChildren(make("span", shown.look, shown.verdict));
  $("reward").textContent = short(shown.reward ?? NaN);
  $("advantage").textContent = signed(shown.advantage);
  $("rule").textContent = shown.ruleName;
  const others = view.foreign.size;
  $("count").textContent = grouped(shown.w.length - others) + (others ? ` and ${grouped(others)} of the environment` : "");
  $("finish").textContent = shown.finish;
  $("prompt").textContent = shown.prompt;
  $("answer").textContent = shown.answer;
  for (const name of ["terms", "note"]) if ($(name)) $(name).textContent = shown[name];
  $("chooser").value = String(state.at);
  $("before").disabled = state.at === 0;
  $("after").disabled = state.at === data.completions.length - 1;
}

function buildText() {
  const { shown } = view;
  const box = make("div", shown.w.length <= SHORT ? "tokens short" : "tokens");
  const ends = new Set(shown.ends);
  let line = make("div", "line");
  view.spans = shown.texts.map((text, piece) => {
    const span = document.createElement("span");
    span.textContent = text;
    span.piece = piece;
    line.append(span);
    if (ends.has(piece)) {
      box.append(line);
      line = make("div", "line");
    }
    return span;
  });
  if (line.firstChild) box.append(line);
  view.looks = view.spans.map(() => "");
  if (view.spans.length) view.spans[0].tabIndex = 0;
  $("text").replaceChildren(box);
}

// Scores and weights: those that came with the page, or the rule's under the sliders.
function recompute() {
  const { shown } = view;
  if (view.isWhatIf) {
    const { tau, kappa } = view;
    const options = { tau, kappa, vocabSize: data.vocabSize };
    const found = dgpoCredit(view.own(shown.entropy), view.own(shown.d), options);
    let next = 0;
    const places = shown.w.map((_, t) => (view.foreign.has(t) ? -1 : next++));
    const spread = (values) => places.map((place) => (place < 0 ? 0 : values[place]));
    Object.assign(view, { s: spread(found.scores), w: spread(found.weights) });
  } else {
    Object.assign(view, { s: shown.s, w: shown.w });
  }
  view.isDgpo = view.canBeWeighed && (view.isWhatIf || data.rule === "dgpo");
  view.ruleName = view.isWhatIf ? `dgpo, tau ${view.tau}, kappa ${view.kappa}${data.sign}` : shown.ruleName;
  view.byWeight = ordered(view, "weight");
  view.ranks = new Int32Array(view.w.length);
  view.byWeight.forEach((t, at) => (view.ranks[t] = at + 1));
  showCredit();
  repaint();
}

function repaint() {
  view.factor = factorOf(view.own(view.w));
  view.order = state.sort === "weight" ? view.byWeight : ordered(view, state.sort);
  setScale();
  const isUniform = state.what === "weight" ? view.factor === 1 : view.scale.low === view.scale.high;
  const listed = new Set(isUniform ? [] : view.order.slice(0, TOP).map((t) => view.pieceOf[t]));
  view.spans.forEach((span, piece) => {
    let look = view.foreign.has(view.shown.starts[piece]) ? "env" : levelClass(view, view.pieceLevels[piece]);
    if (listed.has(piece)) look += " listed";
    if (piece === view.kept) look += " kept";
    if (look !== view.looks[piece]) span.className = view.looks[piece] = look;
  });
  paintStrip(view);
  showLegend(view);
  showTop(view, state.sort, state.isLong);
  fillSteps(view);
  showDetail(view, view.kept);
}

const WHATS = { // of a token; the parts of a character add up
  weight: (t) => view.w[t],
  advantage: (t) => view.shown.advantage * view.w[t],
  score: (t) => view.s[t],
  hellinger: (t) => view.shown.d[t],
  entropy: (t) => view.shown.entropy[t],
  logprob: (t) => -view.shown.logprob[t],
  value: (t) => (view.along ? view.along.move(t) : NaN),
};

function setScale() {
  const value = WHATS[state.what];
  const values = Array.from(view.w, (_, t) => (view.foreign.has(t) ? NaN : value(t)));
  const isWeight = state.what === "weight";
  const end = endOf(values);
  const fits = state.range === "fit" || view.factor === 1;
  const factor = fits ? view.factor : Number(state.range);
  const neutral = fits ? Math.pow(factor, 0.5 / STEPS) : NEUTRAL;
  const share = (x) => (isWeight ? weightShare(x, factor) : linearShare(x, end));
  const level = (x) => (isWeight ? weightLevel(x, factor, neutral) : levelOf(share(x)));
  view.shares = values.map(share);
  view.levels = values.map(level);
  view.pieceLevels = view.shown.starts.map((start, piece) => {
    const [, stop] = view.range_of(piece);
    return stop - start === 1 ? view.levels[start] : level(sum(values.slice(start, stop)));
  });
  view.scale = isWeight ? weightScale(factor, fits) : linearScale(end, values);
  $("range-box").hidden = !isWeight;
}

// Characters that several tokens make have the colour of a sum, which may lie beyond the scale.
const summed = () => (view.shown.starts.length < view.w.length ? ["characters made of several tokens: their sum"] : []);
const UNDERLINED = `underlined: first ${TOP} of the table`;
const foreignNote = () => (view.foreign.size ? ["italic: written by the environment"] : []);

function weightScale(factor, fits) {
  if (factor === 1) return { arms: "du", low: "", high: "", notes: ["every token has weight 1"] };
  const [low, high] = [1 / factor, factor].map((end) => weightEnd(end, factor));
  const below = view.own(view.w).some((weight) => logWeight(weight) < -Math.log(factor) - 1e-6);
  const above = view.own(view.w).some((weight) => logWeight(weight) > Math.log(factor) + 1e-6);
  const negative = view.own(view.w).some((weight) => weight < 0);
  return {
    arms: "du",
    low: (below ? "≤ " : "") + low,
    high: (above ? "≥ " : "") + high,
    notes: ["log scale, 1 in the middle", ...(fits ? [] : ["0.8 to 1.25: no colour"]), ...(negative ? ["below 0: as the lowest"] : []), "bold: above 1", UNDERLINED, ...summed(), ...foreignNote()],
  };
}

function linearScale(end, values) {
  const hasBoth = state.what === "score" && values.some((value) => value < 0);
  const isSigned = state.what === "advantage" || state.what === "value" || hasBoth;
  if (end === 0) {
    const isUnknown = values.length > 0 && values.every(Number.isNaN);
    const found = isUnknown ? "not known" : "0 for every token";
    return { arms: isSigned ? "du" : "q", low: "", high: "", notes: [`it is ${found}`] };
  }
  return {
    arms: isSigned ? "du" : "q",
    low: isSigned ? linearEnd(-end, true) : "0",
    high: linearEnd(end, isSigned),
    notes: [isSigned ? "linear scale, 0 in the middle" : "linear scale", UNDERLINED, ...summed(), ...foreignNote()],
  };
}

function showCredit() {
  const { shown, w } = view;
  const base = shown.stored ? "as trained" : "as computed";
  const tile = (id, text, was) => {
    const changed = (view.isWhatIf || shown.stored) && was !== text;
    $(id).replaceChildren(text, make("span", "was", changed ? `${base} ${was}` : ""));
  };
  const own = view.own(w);
  const found = spreadTexts(own);
  view.was ??= spreadTexts(view.own(shown.trained ?? shown.w));
  for (const id of ["fraction", "largest", "tops"]) tile(id, found[id], view.was[id]);
  const total = sum(w.map((weight) => weight * shown.advantage));
  const expected = own.length * shown.advantage;
  const holds = Math.abs(total - expected) <= Math.max(1e-9, 1e-4 * Math.abs(expected));
  const check = `${holds ? "✓" : "✗"} ${fixed(total, 4)}${holds ? "" : `, not ${fixed(expected, 4)}`}`;
  const totalText = Number.isNaN(expected) ? "unknown" : check;
  tile("sum", totalText, totalText);
  $("words").textContent = inWords(own);
  $("tau-value").textContent = String(view.tau);
  $("kappa-value").textContent = String(view.kappa);
  $("tau").setAttribute("aria-valuetext", `tau ${view.tau}`);
  $("what-if").textContent = whatIfText();
  $("reset").disabled = !view.isWhatIf;
}

// Which rule gave the weights that are shown, and what that changes.
function whatIfText() {
  const { shown, isWhatIf, ruleName } = view;
  const share = percent(moved(view.own(shown.trained ?? shown.w), view.own(view.w)));
  const base = shown.stored ? `Trained with: ${shown.stored.name}.` : `As computed: ${shown.ruleName}.`;
  if (isWhatIf) return `What if: ${ruleName}, computed here from d and h. ${base} Credit that moves: ${share}.`;
  const shows = shown.stored ? `What if: ${ruleName}. ${base} Credit that moves: ${share}.` : base;
  if (!view.canBeWeighed) return `${shows} ${shown.signNote}`;
  if (!view.hasDistances) return `${shows} No distances were measured to compute other weights from.`;
  const rule = data.rule === "dgpo" ? "other settings" : "the rule dgpo instead";
  return `${shows} Move a slider to see the weights under ${rule}.`;
}

function spreadTexts(w) {
  const shares = sharesOfTop(w, [0.01, 0.05, 0.1]).map((share) => percent(share));
  return {
    fraction: fraction(effectiveFraction(w)),
    largest: weightText(largest(w), factorOf(w)),
    tops: shares.join(" / "),
  };
}

function inWords(w) {
  if (!w.length) return "This completion has no tokens.";
  const spread = spreadOf(w);
  if (spread < 1e-6) return "Every token has weight 1: credit is exactly GRPO's here.";
  const held = sharesOfTop(w, [0.1])[0];
  if (spread < 0.01 || held < 0.105) {
    const effective = fraction(effectiveFraction(w));
    return `Weights are nearly uniform: effective token fraction ${effective}; credit is close to GRPO's here.`;
  }
  return `The top 10% of tokens hold ${percent(held, 0)} of the credit (GRPO: 10%).`;
}

function setSliders() {
  const tau = Math.log10(view.tau);
  const bounds = { min: Math.min(-4, Math.floor(tau)), max: Math.max(1, Math.ceil(tau)) };
  $("tau").disabled = $("kappa").disabled = !(view.hasDistances && view.canBeWeighed);
  Object.assign($("tau"), { ...bounds, step: 0.01, value: tau });
  Object.assign($("kappa"), { min: 0, max: Math.max(3, view.kappa), step: 0.05, value: view.kappa });
}
