
// Hover, keys, the choice of the x axis, smoothing and series on the page of dgpo report. All
// charts share one crosshair. Without this script the page shows the same curves.

const data = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;
const state = { axis: "steps", span: data.span, hidden: new Map(), here: null };
const charts = []; // state.span is in steps; a point of a long run stands for several
const AXES = {
  steps: { title: "step", write: null, tell: (value) => `step ${value.toLocaleString("en-US")}` },
  seconds: { title: "time", write: (value) => seconds(value).replace(/ 0 s$/, ""), tell: seconds },
  tokens: { title: "tokens", write: null, tell: (value) => `${short(value)} tokens` },
};

// What `plot` draws of a chart now.
function shown(chart) {
  const { spec } = chart;
  const hidden = state.hidden.get(chart.key) ?? new Set();
  const sources = spec.lines.filter((_, at) => !hidden.has(at));
  let lines = sources.map((source) => (spec.evals ? evalLine(source) : curve(source, spec.stacked)));
  if (spec.stacked) lines = filled(lines);
  const room = Math.max(0, ...spec.lines.map((line) => 7.2 * line[2].length + 4));
  return { ...spec, lines, names: spec.lines.length, room };
}

function evalLine([run, , label, look]) {
  const { evals } = data.runs[run];
  return {
    run, label, look,
    xs: evals.map((each) => each[state.axis]),
    ys: evals.map((each) => each.score),
    whiskers: evals.map((each) => each.whisker),
  };
}

function curve([run, metric, label, look, low, high], stacked) {
  const { columns } = data.runs[run];
  const [mean, least, most] = columns[metric];
  const line = { run, label, look, xs: data.runs[run][state.axis], ys: mean, values: mean };
  if (stacked) return line;
  line.low = least;
  line.high = most;
  if (low && high) {
    line.low = columns[low][1] ?? columns[low][0];
    line.high = columns[high][2] ?? columns[high][0];
  }
  const span = points(run);
  if (span > 1) Object.assign(line, { ys: smoothed(mean, span), raw: mean });
  return line;
}

const points = (run) => Math.max(1, state.span / data.runs[run].size);

function filled(lines) {
  const gaps = lines.length ? lines[0].ys.map((_, at) => lines.every((line) => !isKnown(line.ys[at]))) : [];
  return lines.map((line) => {
    const raw = line.ys.map((y, at) => (gaps[at] ? null : y ?? 0));
    // Smoothing is linear: smoothed parts add up to the smoothed whole.
    const span = points(line.run);
    return span > 1 ? { ...line, raw, ys: smoothed(raw, span) } : { ...line, ys: raw };
  });
}

function redraw(chart) {
  const look = shown(chart);
  for (const svg of chart.svgs) {
    const { width, height } = svg.viewBox.baseVal;
    const { x, y, layers, inner } = plot(look, { width, height, writeX: AXES[state.axis].write });
    svg.innerHTML = inner;
    svg.places = { x, y, layers };
    svg.setAttribute("aria-label", `${chart.title}, by ${AXES[state.axis].title}; arrow keys read values`);
  }
  chart.lines = look.lines;
  chart.stale = false;
  if (state.here !== null) cross(chart);
}

// Only charts in sight are drawn; the others when they come.
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const chart = entry.target.chart;
    chart.seen = entry.isIntersecting;
    if (chart.seen && chart.stale) redraw(chart);
    else if (chart.seen) cross(chart);
  }
}, { rootMargin: "200px" });

function redrawAll() {
  for (const chart of charts) {
    chart.stale = true;
    if (chart.seen) redraw(chart);
  }
}

function add(figure, key, spec) {
  const chart = { figure, key, spec, title: figure.querySelector("h3").textContent, svgs: [...figure.querySelectorAll(".plot")] };
  chart.readout = Object.assign(document.createElement("div"), { className: "readout", hidden: true });
  figure.querySelector(".drawing").append(chart.readout);
  figure.chart = chart;
  charts.push(chart);
  for (const svg of chart.svgs) listen(chart, svg);
  for (const button of figure.querySelectorAll(".key")) button.addEventListener("click", () => toggle(chart, button));
  redraw(chart);
  watcher.observe(figure);
  return chart;
}

function toggle(chart, button) {
  const at = Number(button.dataset.line);
  const hidden = state.hidden.get(chart.key) ?? new Set();
  if (!hidden.delete(at)) hidden.add(at);
  state.hidden.set(chart.key, hidden);
  button.setAttribute("aria-pressed", String(!hidden.has(at)));
  redraw(chart);
}

// The crosshair: where the pointer or the keys are, by the number on the x axis.
function listen(chart, svg) {
  svg.tabIndex = 0;
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const { x } = svg.places;
    const at = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    move(chart, x.low + ((at - x.start) / (x.end - x.start)) * (x.high - x.low));
  });
  svg.addEventListener("pointerleave", () => move(null, null));
  svg.addEventListener("blur", () => move(null, null));
  svg.addEventListener("keydown", (event) => {
    const all = [...new Set(chart.lines.flatMap((line) => line.xs))].sort((a, b) => a - b);
    if (!all.length || event.altKey || event.metaKey || event.ctrlKey) return;
    const now = state.here === null ? all.length : all.findIndex((each) => each >= state.here);
    const by = event.shiftKey ? 10 : 1;
    const next = { ArrowLeft: now - by, ArrowRight: now + by, Home: 0, End: all.length - 1 }[event.key];
    if (event.key === "Escape") move(null, null);
    else if (next !== undefined) move(chart, all[Math.max(0, Math.min(all.length - 1, next))]);
    else return;
    event.preventDefault();
  });
}

function move(chart, here) {
  state.here = here;
  state.at = chart;
  for (const each of charts) if (each.seen || each === chart) cross(each);
}

function nearest(xs, here, ys) {
  let best = -1;
  for (let at = 0; at < xs.length; at++) {
    if (isKnown(ys[at]) && (best < 0 || Math.abs(xs[at] - here) < Math.abs(xs[best] - here))) best = at;
  }
  return best;
}

function cross(chart) {
  for (const svg of chart.svgs) {
    svg.querySelector(".cross")?.remove();
    if (state.here === null || !svg.places) continue;
    const { x, y, layers } = svg.places;
    const parts = [];
    let hair = null;
    chart.lines.forEach((line, index) => {
      const at = nearest(line.xs, state.here, line.ys);
      if (at < 0) return;
      hair ??= line.xs[at];
      const height = layers.length ? layers[index][1][at] : line.ys[at];
      if (isKnown(height)) parts.push(`<circle class="here s${line.look}" r="3.5" cx="${coordinate(place(x, line.xs[at]))}" cy="${coordinate(place(y, height))}"/>`);
    });
    if (hair === null) continue;
    const at = coordinate(place(x, hair));
    svg.insertAdjacentHTML("beforeend", `<g class="cross"><path class="hair" d="M${at},${y.end}V${y.start}"/>${parts.join("")}${END}g>`);
  }
  read(chart);
}

// The numbers under the crosshair, in the chart that has it.
function read(chart) {
  const { readout } = chart;
  readout.hidden = state.at !== chart || state.here === null;
  if (readout.hidden) return;
  readout.replaceChildren();
  const line = (className, ...parts) => {
    const row = Object.assign(document.createElement("div"), { className });
    row.append(...parts);
    readout.append(row);
  };
  let head = null;
  const rows = [];
  for (const each of chart.lines) {
    const at = nearest(each.xs, state.here, each.ys);
    if (at < 0) continue;
    head ??= each.xs[at];
    rows.push([each, numbersAt(each, at)]);
  }
  if (head === null) return;
  line("where muted", AXES[state.axis].tell(head));
  if (chart.spec.stacked) rows.reverse();
  for (const [each, text] of rows) {
    const swatch = document.createElement("span");
    swatch.innerHTML = `<svg class="swatch" viewBox="0 0 24 12"><path class="line s${each.look}" d="M0,6H24"/>${mark(each.look, 12, 6)}${END}svg>`;
    const value = Object.assign(document.createElement("b"), { textContent: text });
    line("value", swatch, `${each.label} `, value);
  }
  const svg = chart.svgs.find((each) => each.getBoundingClientRect().width) ?? chart.svgs[0];
  const { x } = svg.places;
  readout.classList.toggle("left", place(x, head) > (x.start + x.end) / 2);
  readout.classList.toggle("right", !readout.classList.contains("left"));
}

function numbersAt(line, at) {
  if (line.whiskers) {
    const ends = line.whiskers[at];
    return short(line.ys[at]) + (ends ? ` (${ends.slice(0, 2).map(short).join(" to ")}; other problems ${ends.slice(2).map(short).join(" to ")})` : "");
  }
  const value = (line.raw ?? line.ys)[at];
  const parts = [short(value)];
  if (line.low?.length && isKnown(line.low[at])) parts.push(`${short(line.low[at])} to ${short(line.high[at])}`);
  if (line.raw) parts.push(`smoothed ${short(line.ys[at])}`);
  return parts.length > 1 ? `${parts[0]} (${parts.slice(1).join("; ")})` : parts[0];
}

// All metrics: any of them large, and a search.
function choose(button) {
  const metric = data.metrics[Number(button.dataset.metric)];
  const target = document.getElementById("chosen");
  const old = target.querySelector("figure")?.chart;
  if (old) charts.splice(charts.indexOf(old), 1);
  target.innerHTML =
    `<figure class="card chart"><figcaption><h3>${END}h3>${END}figcaption>` +
    `<div class="drawing"><svg class="plot" viewBox="0 0 640 224" role="img">${END}svg>${END}div>${END}figure>`;
  target.querySelector("h3").textContent = button.textContent;
  const lines = data.runs.flatMap((run, at) => {
    const label = data.runs.length > 1 ? run.letter : button.textContent.split("/").at(-1);
    return run.columns[metric] ? [[at, metric, label, (at % MARKS.length) + 1, null, null]] : [];
  });
  const spec = { stacked: false, log: false, floor: null, ceiling: null, levels: [], labelled: true, evals: false, lines };
  add(target.querySelector("figure"), "chosen", spec).seen = true;
  target.scrollIntoView({ block: "nearest" });
}

function start() {
  for (const figure of document.querySelectorAll("figure[data-chart]")) add(figure, figure.dataset.chart, data.charts[figure.dataset.chart]);
  for (const radio of document.querySelectorAll('input[name="axis"]')) {
    radio.addEventListener("change", () => {
      state.axis = radio.value;
      move(null, null);
      redrawAll();
    });
  }
  const span = document.getElementById("span");
  const most = Math.max(2, ...data.runs.map((run) => run.steps.length * run.size)) / 2;
  // The slider is logarithmic: half of it lies below the root of the longest span.
  const spanAt = (value) => (value === 0 ? 1 : Math.max(2, Math.round(most ** (value / 100))));
  const tell = () => {
    document.getElementById("span-value").textContent = state.span > 1 ? `over ${state.span} steps` : "off";
  };
  span.value = state.span > 1 ? Math.round((100 * Math.log(state.span)) / Math.log(Math.max(most, 2))) : 0;
  span.addEventListener("input", () => {
    state.span = spanAt(Number(span.value));
    tell();
    redrawAll();
  });
  tell();
  const search = document.getElementById("search");
  search?.addEventListener("input", () => {
    const words = search.value.toLowerCase().split(/\s+/);
    for (const button of document.querySelectorAll("button.metric")) {
      button.closest("tr").hidden = !words.every((word) => button.textContent.toLowerCase().includes(word));
    }
  });
  for (const button of document.querySelectorAll("button.metric")) button.addEventListener("click", () => choose(button));
  for (const part of document.querySelectorAll(".controls")) part.hidden = false;
  root.classList.add("scripted");
}

start();
