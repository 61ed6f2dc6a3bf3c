
// Mouse, touch and keys on the page of dgpo inspect; the last script, it starts the page.

function choose(piece, { keep = false, focus = false } = {}) {
  if (piece < 0 || piece >= view.spans.length) return;
  if (piece !== view.here) view.spans[view.here].removeAttribute("tabindex"); // takes its focus away
  view.here = piece;
  view.spans[piece].tabIndex = 0;
  if (keep) keepOnly(piece);
  if (focus) view.spans[piece].focus({ preventScroll: true });
  if (focus) view.spans[piece].scrollIntoView({ block: "nearest", inline: "nearest" });
  showDetail(view, piece);
}

function keepOnly(piece) {
  for (const [at, on] of [[view.kept, false], [piece, true]]) {
    if (at < 0) continue;
    view.spans[at].classList.toggle("kept", on);
    view.looks[at] = view.spans[at].className;
  }
  view.kept = piece;
  $("detail").classList.toggle("open", piece >= 0);
  document.body.classList.toggle("reading", piece >= 0);
}

function jump(piece) {
  choose(piece, { keep: true, focus: true });
  view.spans[piece].scrollIntoView({ block: "center" });
}

// The piece of the visual line above or below that is nearest in x.
function vertical(piece, way) {
  const middle = (box) => (box.left + box.right) / 2;
  const lineOf = (at) => view.spans[at].getClientRects()[0];
  const from = lineOf(piece);
  if (!from) return piece;
  let best = piece;
  let line = null;
  for (let at = piece + way; at in view.spans; at += way) {
    const box = lineOf(at);
    if (!box || Math.abs(box.top - from.top) < from.height / 2) continue;
    if (line !== null && Math.abs(box.top - line) > from.height / 2) break;
    if (line === null || Math.abs(middle(box) - middle(from)) <= Math.abs(middle(lineOf(best)) - middle(from))) best = at;
    line = box.top;
  }
  return best;
}

function lineEnd(piece, way) {
  const top = (at) => view.spans[at].getClientRects()[0]?.top;
  let at = piece;
  while (at + way in view.spans && top(at + way) === top(piece)) at += way;
  return at;
}

const KEYS = {
  ArrowLeft: (piece) => piece - 1,
  ArrowRight: (piece) => piece + 1,
  ArrowUp: (piece) => vertical(piece, -1),
  ArrowDown: (piece) => vertical(piece, 1),
  Home: (piece, whole) => (whole ? 0 : lineEnd(piece, -1)),
  End: (piece, whole) => (whole ? view.spans.length - 1 : lineEnd(piece, 1)),
};

function onTokenKey(event) {
  const piece = event.target.piece;
  if (piece === undefined || event.altKey || event.metaKey) return;
  if (event.key === "Enter" || event.key === " ") choose(piece, { keep: true });
  else if (event.key in KEYS) {
    const next = KEYS[event.key](piece, event.ctrlKey);
    choose(Math.max(0, Math.min(view.spans.length - 1, next)), { focus: true });
  } else return;
  event.preventDefault();
}

let isWaiting = false;
function onSlider() {
  view.isWhatIf = true;
  if (isWaiting) return;
  isWaiting = true;
  requestAnimationFrame(() => {
    isWaiting = false;
    recompute();
  });
}

function listen() {
  const text = $("text");
  const wide = matchMedia("(min-width: 60.01rem)");
  text.addEventListener("pointerover", (event) => {
    if (event.pointerType === "mouse" && wide.matches && event.target.piece !== undefined) showDetail(view, event.target.piece);
  });
  text.addEventListener("pointerleave", () => wide.matches && showDetail(view, view.kept));
  text.addEventListener("click", (event) => {
    const piece = event.target.piece;
    if (piece !== undefined) choose(piece, { keep: true, focus: true });
  });
  text.addEventListener("focusin", (event) => {
    const piece = event.target.piece;
    if (piece === undefined) return;
    showDetail(view, piece);
    const t = view.shown.starts[piece];
    const values = valuesOf(view, t).map(([name, value]) => `, ${name} ${value}`);
    $("live").textContent = `token ${t}, weight ${weightText(view.w[t], view.factor)}, rank ${view.ranks[t]}${values.join("")}`;
  });
  text.addEventListener("keydown", onTokenKey);
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    keepOnly(-1);
    showDetail(view, -1);
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if ("close" in button.dataset) {
      keepOnly(-1);
      showDetail(view, -1);
      view.spans[view.here].focus({ preventScroll: true });
    } else if (button.dataset.piece) jump(Number(button.dataset.piece));
    else if (button.id === "more") {
      state.isLong = !state.isLong;
      repaint();
    } else if (button.dataset.sort) {
      state.sort = button.dataset.sort;
      repaint();
    }
  });
  const pieceAt = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    const t = Math.floor(((event.clientX - box.left) / box.width) * view.w.length);
    return view.pieceOf[Math.max(0, Math.min(view.w.length - 1, t))];
  };
  for (const strip of [$("curve"), $("strip")].filter(Boolean)) {
    strip.addEventListener("click", (event) => jump(pieceAt(event)));
    strip.addEventListener("pointermove", (event) => {
      if (event.pointerType === "mouse" && wide.matches && view.w.length) showDetail(view, pieceAt(event));
    });
    strip.addEventListener("pointerleave", () => wide.matches && showDetail(view, view.kept));
  }
  $("tau").addEventListener("input", () => {
    view.tau = Number(Math.pow(10, $("tau").valueAsNumber).toPrecision(3));
    onSlider();
  });
  $("kappa").addEventListener("input", () => {
    view.kappa = $("kappa").valueAsNumber;
    onSlider();
  });
  $("reset").addEventListener("click", () => {
    Object.assign(view, { isWhatIf: false, tau: view.storedTau, kappa: view.storedKappa });
    setSliders();
    recompute();
  });
  $("what").addEventListener("change", () => {
    state.what = $("what").value;
    state.sort = { logprob: "prob" }[state.what] ?? state.what;
    repaint();
  });
  $("range").addEventListener("change", () => {
    state.range = $("range").value;
    repaint();
  });
  $("chooser").addEventListener("change", () => openAt(Number($("chooser").value)));
  $("more-steps").addEventListener("click", () => {
    newSteps(view, Infinity);
    fillSteps(view);
  });
  $("before").addEventListener("click", () => openAt(state.at - 1));
  $("after").addEventListener("click", () => openAt(state.at + 1));
}

for (const part of document.querySelectorAll("[data-script]")) part.hidden = false;
$("no-script").hidden = true;
listen();
openAt(data.first);
