
// Crosshair, x axis, smoothing, hiding curves, any metric large, on the page of dgpo report. Python
// drew every chart with all its axes: this reads the numbers back from the paths and moves what is
// drawn. It writes no numbers but those of bands and of what it smoothed, in the form of the axis.
// Without it the page shows the same curves.

const data = JSON.parse(document.getElementById("data").textContent);
const AXES = ["step", "time", "tokens"];
const state = { axis: 0, span: data.span, here: null, on: 0, chart: null }; // span in steps; on: the axis of here
const charts = new Set();
const all = (root, what) => [...root.querySelectorAll(what)];
const numbers = (text) => (text?.match(/-?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?/g) ?? []).map(Number);
const isKnown = (value) => value !== undefined;
const unit = (value) => Math.round(value * 10) / 10;

for (const points of Object.values(data.points)) points.heads = points.heads.map((text) => text.split("|"));

// Where a value stands on an axis from `low` to `high`, and which value stands there.
function place(value, { low, high, start, end, log }) {
  const [least, here, most] = log ? [low, Math.max(value, low), high].map(Math.log10) : [low, value, high];
  return start + Math.min(1, Math.max(0, (here - least) / (most - least))) * (end - start);
}
function valueAt(place, { low, high, start, end, log }) {
  const share = (place - start) / (end - start);
  return log ? low * (high / low) ** share : low + share * (high - low);
}

// The values of a path by the places of their points: its first edge, and of a band the other one.
function valuesOf(path, y) {
  const edges = [[], []];
  const runs = path.dataset.runs?.split(" ") ?? [];
  path.getAttribute("d")?.split("M").slice(1).forEach((stroke, at) => {
    const [start, count] = numbers(runs[at]);
    let height = 0;
    const heights = numbers(stroke).filter((_, at) => at % 2).map((by) => valueAt((height += by), y));
    for (let i = 0; i < count; i++) [edges[0][start + i], edges[1][start + i]] = [heights[i], heights.at(-1 - i)];
  });
  return edges;
}

function read(svg) {
  const [start, end, ...ends] = numbers(svg.dataset.x);
  const xs = Array.from({ length: ends.length / 2 }, (_, at) => ({ start, end, low: ends[2 * at], high: ends[2 * at + 1] }));
  const [foot, top] = numbers(svg.dataset.y);
  const grids = all(svg, ".y").map((element) => {
    const [low, high] = numbers(element.dataset.ends);
    const { sets, form } = element.dataset;
    return { element, sets, form: form.split(" "), y: { start: foot, end: top, low, high, log: "log" in svg.dataset } };
  });
  const [{ y }] = grids;
  const series = all(svg, ".series").map((group) => {
    const [raw, line, band, area, own] = ["raw", "line", "band", "area", "own"].map((kind) => group.querySelector(`.${kind}`));
    const source = own ?? (raw?.hasAttribute("d") ? raw : line);
    const seeds = group.dataset.seeds && seedsOf(group.dataset.seeds);
    return {
      group, raw, line, area, seeds,
      band: band && { path: band, edges: seeds ? [[], []] : valuesOf(band, y) },
      ys: seeds ? overSeeds(seeds).mean : source ? valuesOf(source, y)[0] : [],
      points: data.points[group.dataset.points],
      texts: seeds ? [] : data.texts[group.dataset.texts].split("|"),
      dots: all(group, ".dot"),
      whiskers: all(group, ".inner, .outer").map((path) => ({ path, at: Number(path.dataset.at), ends: path.getAttribute("d") })),
      name: group.querySelector(".name"),
    };
  });
  return { svg, xs, y, grids, series };
}

function smoothed(values, span) {
  const keep = 1 - 2 / (span + 1);
  let [total, weight] = [0, 0];
  return values.map((value) => {
    [total, weight] = [keep * total + value, keep * weight + 1];
    return total / weight;
  });
}

function stretches(values) {
  const found = [];
  values.forEach((value, at) => isKnown(value) && (at && isKnown(values[at - 1]) ? found.at(-1).push(at) : found.push([at])));
  return found;
}

// Only charts in sight are drawn anew; the others when they come.
const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const chart = [...charts].find(({ figure }) => figure === target);
    if (!chart) continue;
    chart.isSeen = isIntersecting;
    if (isIntersecting && chart.isStale) draw(chart);
    else if (isIntersecting) cross(chart);
  }
}, { rootMargin: "200px" });

function drawAll() {
  for (const chart of charts) chart.isStale = true;
  for (const chart of charts) if (chart.isSeen) draw(chart);
}

// Draws a chart anew: on the x axis that is chosen, on the y axis of the curves that are seen.
function draw(chart) {
  chart.plots ??= all(chart.figure, ".plot").map(read);
  chart.isStale = false;
  const hidden = chart.keys.reduce((set, key, at) => set + (key.getAttribute("aria-pressed") === "false" ? 2 ** at : 0), 0);
  for (const plot of chart.plots) {
    const isLower = "stacked" in plot.svg.dataset || plot.series.some((each) => each.seeds);
    const raw = isLower && state.span < data.span ? "raw" : "";
    const grid = plot.grids.find(({ sets }) => sets.includes(` ${raw}${hidden} `)) ?? plot.grids[0];
    for (const each of plot.grids) each.element.toggleAttribute("hidden", each !== grid);
    const axis = state.axis < plot.xs.length ? state.axis : 0; // some charts have the step alone
    all(plot.svg, ".x").forEach((ticks, at) => ticks.toggleAttribute("hidden", at !== axis));
    plot.shown = { axis, x: plot.xs[axis], y: grid.y, form: grid.form, seen: plot.series.filter((_, at) => !(hidden >> at & 1)) };
    for (const level of all(plot.svg, ".level")) {
      const y = Number(level.dataset.y);
      level.setAttribute("transform", `translate(0 ${unit(place(valueAt(y, plot.y), grid.y) - y)})`);
    }
    plot.series.forEach((each) => each.group.toggleAttribute("hidden", !plot.shown.seen.includes(each)));
    move(plot);
    plot.svg.setAttribute("aria-label", `${chart.title}, by ${AXES[axis]}; arrow keys read values`);
  }
  cross(chart);
}

function move({ svg, y: drawn, shown: { axis, x, y, seen } }) {
  const isStacked = "stacked" in svg.dataset;
  let below = [];
  for (const each of seen) {
    const { at, size } = each.points;
    each.xs = at[axis].map((here) => place(here, x));
    const span = Math.max(1, state.span / size);
    const isSmooth = span > 1 && (each.raw || isStacked);
    each.shown = isSmooth ? smoothed(each.ys, span) : each.ys;
    if (each.seeds) { // each seed is smoothed: the band is that of the smoothed mean
      const found = overSeeds(span > 1 ? each.seeds.map((row) => smoothed(row, span)) : each.seeds);
      [each.shown, each.band.edges] = [found.mean, found.edges];
    }
    each.tops = isStacked ? each.shown.map((value, i) => value + (below[i] ?? 0)) : each.shown;
    const point = (edge, side = 0) => (i) => `${unit(each.xs[i] + side)},${unit(place(edge[i] ?? 0, y))}`;
    const along = (edge) => stretches(edge).map((run) => `M${run.map(point(edge)).join("L")}`).join("");
    const around = (top, foot) => stretches(top).map((run) => {
      const [left, right] = run.length > 1 ? [0] : [-1, 1]; // a single point is a thin bar
      const corners = (edge, ...sides) => (i) => sides.filter(isKnown).map((side) => point(edge, side)(i));
      const there = run.flatMap(corners(top, left, right));
      return `M${[...there, ...run.reverse().flatMap(corners(foot, right, left))].join("L")}Z`;
    }).join("");
    each.line?.setAttribute("d", along(each.shown));
    each.raw?.setAttribute("d", isSmooth ? along(each.ys) : "");
    each.area?.setAttribute("d", around(each.tops, below));
    each.band?.path.setAttribute("d", around(...each.band.edges));
    for (const dot of each.dots) dot.setAttribute("transform", `translate(${point(each.shown)(dot.dataset.at)})`);
    for (const { path, at, ends } of each.whiskers) {
      path.setAttribute("transform", `translate(${unit(each.xs[at])})`);
      path.setAttribute("d", ends.replace(/([,V])([\d.]+)/g, (_, kind, height) => kind + unit(place(valueAt(height, drawn), y))));
    }
    below = each.tops;
  }
  names(seen.filter(({ name, shown }) => name && !name.matches(".s0 .spare") && shown.some(isKnown)), y);
}

// The names beside the last points, at least 12 units apart.
function names(series, y) {
  for (const each of series) each.height = place(each.shown.findLast(isKnown), y);
  series.sort((a, b) => a.height - b.height);
  let least = y.end + 2;
  for (const each of series) least = (each.height = Math.max(each.height, least)) + 12;
  let most = y.start;
  for (const each of series.reverse()) most = (each.height = Math.min(each.height, most)) - 12;
  for (const each of series) each.name.setAttribute("y", unit(each.height + 4));
}

// The crosshair of all charts: where the pointer or the keys are, by the number on the x axis.
function point(chart, here, on = 0) {
  Object.assign(state, { chart, here, on });
  for (const each of charts) if (each.isSeen || each === chart) cross(each);
}

function nearest({ ys, points }) {
  const xs = points.at[state.on];
  return ys.reduce((best, _, at) => (best < 0 || Math.abs(xs[at] - state.here) < Math.abs(xs[best] - state.here) ? at : best), -1);
}

function cross(chart) {
  for (const { svg, series, shown: { axis, x, y, seen, form } } of chart.plots) {
    const isHere = state.here !== null && state.on === axis;
    const hair = svg.querySelector(".cross");
    const circles = all(hair, ".here");
    const ats = series.map((each) => (isHere && seen.includes(each) ? nearest(each) : -1));
    const first = ats.findIndex((at) => at >= 0);
    hair.toggleAttribute("hidden", first < 0);
    series.forEach((each, i) => {
      circles[i].toggleAttribute("hidden", ats[i] < 0);
      if (ats[i] >= 0) circles[i].setAttribute("transform", `translate(${each.xs[ats[i]]} ${place(each.tops[ats[i]], y)})`);
    });
    if (first >= 0) hair.firstChild.setAttribute("transform", `translate(${unit(series[first].xs[ats[first]])})`);
    if (svg.getClientRects().length) tell(chart, { series, ats, first, x, write: (value) => written(value, form, y.log) });
  }
}

// The numbers under the crosshair, in the chart that has it.
function tell(chart, { series, ats, first, x, write }) {
  const box = chart.readout;
  box.hidden = first < 0 || state.chart !== chart;
  if (box.hidden) return;
  box.querySelector(".where").textContent = series[first].points.heads[state.on][ats[first]];
  for (const row of all(box, ".value")) {
    const [each, at] = [series[row.dataset.line], ats[row.dataset.line]];
    row.hidden = at < 0 || (series.length > 1 && each.group.classList.contains("s0")); // one of many
    if (row.hidden) continue;
    const [low, high] = [1, 0].map((edge) => each.band?.edges[edge][at]);
    const range = isKnown(low) ? `${write(low)} to ${write(high)}` : "";
    const smooth = each.shown !== each.ys && !each.seeds ? `smoothed ${write(each.shown[at])}` : "";
    const more = [range, smooth].filter(Boolean).join("; ");
    row.querySelector("b").textContent = (each.seeds ? write(each.shown[at]) : each.texts[at]) + (more ? ` (${more})` : "");
  }
  box.classList.toggle("left", series[first].xs[ats[first]] > (x.start + x.end) / 2);
}

function written(value, [size, digits, unit], log) {
  return log ? general(value, 3) : fixed(value / size, Number(digits)).replace(/\.0+$/, "") + unit;
}

function add(figure) {
  const chart = {
    figure,
    title: figure.querySelector("h3").textContent,
    isStale: true,
    keys: all(figure, ".key"),
    readout: figure.querySelector(".readout"),
  };
  if (data.variants) tellSeeds(figure, chart.readout);
  charts.add(chart);
  for (const key of chart.keys) {
    key.addEventListener("click", () => {
      key.setAttribute("aria-pressed", String(key.getAttribute("aria-pressed") === "false"));
      draw(chart);
    });
  }
  all(figure, ".plot").forEach((svg, at) => listen(chart, svg, at));
  watcher.observe(figure);
  return chart;
}

function listen(chart, svg, at) {
  const shown = () => {
    if (!chart.plots) draw(chart);
    return chart.plots[at].shown;
  };
  svg.tabIndex = 0;
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const { axis, x } = shown();
    point(chart, valueAt(((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width, x), axis);
  });
  for (const end of ["pointerleave", "blur"]) svg.addEventListener(end, () => point(null, null));
  svg.addEventListener("keydown", (event) => {
    const { axis, seen } = shown();
    const xs = [...new Set(seen.flatMap((each) => each.ys.map((_, i) => each.points.at[axis][i])))];
    xs.sort((a, b) => a - b);
    if (!xs.length || event.altKey || event.metaKey || event.ctrlKey) return;
    const now = state.here === null || state.on !== axis ? xs.length : xs.findIndex((x) => x >= state.here);
    const by = event.shiftKey ? 10 : 1;
    const next = { ArrowLeft: now - by, ArrowRight: now + by, Home: 0, End: xs.length - 1 }[event.key];
    if (event.key === "Escape") point(null, null);
    else if (next !== undefined) point(chart, xs[Math.max(0, Math.min(xs.length - 1, next))], axis);
    else return;
    event.preventDefault();
  });
}

const originals = Object.fromEntries(all(document, "figure[data-chart]").map((each) => [each.dataset.chart, each.cloneNode(true)]));
all(document, "figure[data-chart]").forEach(add);
all(document, 'input[name="axis"]').forEach((radio, axis) => radio.addEventListener("change", () => {
  Object.assign(state, { axis, here: null });
  drawAll();
}));
const span = document.getElementById("span");
const most = Math.max(2, data.longest) / 2; // the slider is logarithmic
const tellSpan = () => {
  document.getElementById("span-value").textContent = state.span > 1 ? `over ${state.span} steps` : "off";
};
span.value = state.span > 1 ? Math.round((100 * Math.log(state.span)) / Math.log(Math.max(most, 2))) : 0;
span.addEventListener("input", () => {
  state.span = span.valueAsNumber ? Math.max(2, Math.round(most ** (span.valueAsNumber / 100))) : 1;
  tellSpan();
  drawAll();
});
tellSpan();
const search = document.getElementById("search");
search?.addEventListener("input", () => {
  const words = search.value.toLowerCase().split(/\s+/);
  for (const button of all(document, ".metric")) {
    button.closest("tr").hidden = !words.every((word) => button.textContent.toLowerCase().includes(word));
  }
});
let large = []; // a metric by itself: charts of its own, or its curve in the chart that shows it
for (const button of all(document, ".metric")) {
  button.addEventListener("click", () => {
    const [key, line] = button.dataset.large.split(" ");
    const part = (document.getElementById(key)?.content.firstElementChild ?? originals[key]).cloneNode(true);
    all(part, ".key").forEach((key, at) => key.setAttribute("aria-pressed", String(!line || at === Number(line))));
    all(part, ".note, .legend").forEach((each) => (each.hidden = each.matches(".note") || Boolean(line)));
    part.querySelector("h3").textContent = button.textContent;
    document.getElementById("chosen").replaceChildren(part);
    for (const each of large) charts.delete(each);
    large = (part.matches("figure") ? [part] : all(part, "figure")).map(add);
    large.forEach(draw);
    part.scrollIntoView({ block: "nearest" });
  });
}
addEventListener("beforeprint", () => charts.forEach(draw));
for (const part of all(document, ".controls")) part.hidden = false;
document.documentElement.classList.add("scripted");
