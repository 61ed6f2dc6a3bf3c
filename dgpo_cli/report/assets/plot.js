
// Draws the charts of dgpo report as report/charts does in Python: same axes, paths and labels.

const STEPS = [1, 2, 2.5, 5, 10];
const UNITS = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
const MAX_DECADES = 12;
const ROUNDING = 1e-3;
const DENSE = 120;
const DIGIT = 6.6; // units of one in the ticks
const END = "<\u002f"; // an end tag may not stand in a script
const MARKS = [
  "M-3,0a3,3 0 1 0 6,0a3,3 0 1 0 -6,0", "M-3,-3h6v6h-6z", "M0,-4L3.6,3H-3.6z", "M0,-4L4,0L0,4L-4,0z",
  "M0,4L3.6,-3H-3.6z", "M-3.5,-1h7v2h-7z", "M-1,-3.5h2v7h-2z", "M-3,-2.5L3,2.5M-3,2.5L3,-2.5",
];

const isKnown = (value) => value !== null && value !== undefined;
const coordinate = (value) => value.toFixed(1).replace(/\.0$/, "").replace(/^-0$/, "0");
const safe = (text) =>
  text.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`);

// At most `digits` significant digits, no more than the number needs, as Python's %g.
function general(value, digits) {
  const [mantissa, power] = value.toExponential(digits - 1).split("e");
  if (Number(power) < -4 || Number(power) >= digits) {
    const rest = mantissa.includes(".") ? mantissa.replace(/\.?0+$/, "") : mantissa;
    return `${rest}e${power.replace("+", "")}`;
  }
  return String(Number(value.toPrecision(digits)));
}

function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e15) return general(value, 3);
  for (const [scale, unit] of UNITS) if (size >= 10 * scale) return general(value / scale, 3) + unit;
  const off = Math.abs(size - 1);
  if (off > 0 && off < 1e-2) return general(value, off >= 1e-6 ? 7 : 12);
  return size >= 1000 ? Math.round(value).toLocaleString("en-US") : general(value, 4);
}

function inPowers(ticks, largest) {
  const power = Math.floor(Math.log10(largest) + 1e-9);
  return ticks.map((tick) => (tick === 0 ? "0" : `${general(tick / 10 ** power, 3)}e${power}`));
}

function seconds(value) {
  if (value < 60) return `${value.toFixed(1)} s`;
  const minutes = Math.floor(Math.round(value) / 60);
  if (minutes < 60) return `${minutes} min ${Math.round(value) % 60} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function axisOf(values, look) {
  const { start, end, log = false, floor = null, ceiling = null, count = 5, tight = false, whole = false } = look;
  let low = Infinity;
  let high = -Infinity;
  const hold = (value) => {
    if (!isKnown(value) || (log && !(value > 0))) return;
    low = Math.min(low, value);
    high = Math.max(high, value);
  };
  values.forEach(hold);
  hold(floor);
  hold(ceiling);
  if (log) return logAxis(low <= high ? low : 1, low <= high ? high : 1, { start, end });
  if (low > high) [low, high] = [0, 1];
  if (ceiling !== null && high - ceiling <= ROUNDING * Math.abs(ceiling)) high = ceiling;
  if (!(high > low)) {
    const margin = whole ? 0.5 : Math.abs(low) * 0.1 || 1;
    [low, high] = [low - margin, high + margin];
    if (floor !== null && Math.max(low, floor) < high) low = Math.max(low, floor);
  }
  const raw = (high - low) / Math.max(1, count - 1);
  const power = 10 ** Math.floor(Math.log10(raw));
  let step = STEPS.map((each) => each * power).find((each) => each >= raw * (1 - 1e-9));
  if (whole && !Number.isInteger(step)) step = step > 1 ? 5 : 1;
  if (!tight) {
    low = Math.floor(low / step + 1e-9) * step;
    high = Math.ceil(high / step - 1e-9) * step;
  }
  const ticks = [];
  for (let at = Math.ceil(low / step - 1e-9); at <= Math.floor(high / step + 1e-9); at++) {
    ticks.push(Number((at * step).toPrecision(12)) + 0);
  }
  return { low, high, start, end, log, ticks };
}

function logAxis(least, most, { start, end }) {
  const top = Math.ceil(Math.log10(most) - 1e-9);
  let bottom = Math.max(Math.floor(Math.log10(least) + 1e-9), top - MAX_DECADES);
  if (bottom === top) bottom -= 1;
  const ticks = [];
  const every = Math.max(1, Math.ceil((top - bottom) / 5));
  for (let power = bottom; power <= top; power += every) ticks.push(Number(`1e${power}`));
  const base = Number(`1e${bottom}`);
  const fine = [base, 2 * base, 5 * base, Number(`1e${top}`)];
  return { low: base, high: Number(`1e${top}`), start, end, log: true, ticks: top - bottom === 1 ? fine : ticks };
}

function place(axis, value) {
  const [low, high, here] = axis.log
    ? [Math.log10(axis.low), Math.log10(axis.high), Math.log10(Math.max(value, axis.low))]
    : [axis.low, axis.high, value];
  const share = Math.min(1, Math.max(0, (here - low) / (high - low)));
  return axis.start + share * (axis.end - axis.start);
}

function tickLabels(axis, write = null) {
  if (write) return axis.ticks.map(write);
  if (axis.log) return axis.ticks.map(short);
  const largest = Math.max(0, ...axis.ticks.map(Math.abs));
  if (largest && (largest < 1e-3 || largest >= 1e15)) return inPowers(axis.ticks, largest);
  const [size, unit] = UNITS.find(([each]) => largest >= 10 * each) ?? [1, ""];
  let texts = [];
  for (let digits = 0; digits < 12; digits++) {
    texts = axis.ticks.map((tick) => (tick / size).toFixed(digits));
    const near = (text, at) => {
      const value = axis.ticks[at] / size;
      return Math.abs(Number(text) - value) <= Math.max(1e-6 * Math.abs(value), 1e-12 * largest);
    };
    if (texts.every(near)) break;
  }
  return texts.map((text) => (Number(text) === 0 ? "0" : text + unit));
}

function smoothed(values, span) {
  const keep = 1 - 2 / (span + 1);
  let total = 0;
  let weight = 0;
  return values.map((value) => {
    if (!isKnown(value)) return null;
    total = keep * total + value;
    weight = keep * weight + 1;
    return total / weight;
  });
}

// The stretches without a gap, as [start, stop].
function stretches(values) {
  const found = [];
  let start = null;
  for (let at = 0; at <= values.length; at++) {
    if (at < values.length && isKnown(values[at])) start ??= at;
    else if (start !== null) {
      found.push([start, at]);
      start = null;
    }
  }
  return found;
}

const path = (kind, look, data) => (data ? `<path class="${kind} s${look}" d="${data}"/>` : "");
const mark = (look, x, y) =>
  `<path class="dot s${look}" transform="translate(${coordinate(x)} ${coordinate(y)})" d="${MARKS[(look - 1) % MARKS.length]}"/>`;

function polyline(xs, ys, { x, y }) {
  return stretches(ys)
    .filter(([start, stop]) => stop - start > 1)
    .map(([start, stop]) => {
      const points = [];
      for (let at = start; at < stop; at++) points.push(`${coordinate(place(x, xs[at]))},${coordinate(place(y, ys[at]))}`);
      return `M${points.join("L")}`;
    })
    .join("");
}

function bandOf(xs, low, high, { x, y }) {
  const both = low.map((value, at) => (isKnown(value) && isKnown(high[at]) ? value : null));
  return stretches(both)
    .map(([start, stop]) => {
      const point = (at, edge) => `${coordinate(place(x, xs[at]))},${coordinate(place(y, edge[at]))}`;
      if (stop - start === 1) {
        const [left, right] = [-1, 1].map((by) => coordinate(place(x, xs[start]) + by));
        return `M${left},${coordinate(place(y, high[start]))}H${right}V${coordinate(place(y, low[start]))}H${left}Z`;
      }
      const points = [];
      for (let at = start; at < stop; at++) points.push(point(at, high));
      for (let at = stop - 1; at >= start; at--) points.push(point(at, low));
      return `M${points.join("L")}Z`;
    })
    .join("");
}

function layersOf(lines) {
  if (!lines.length) return [];
  let below = lines[0].ys.map((_, at) => (lines.every((line) => isKnown(line.ys[at])) ? 0 : null));
  return lines.map((line) => {
    const above = below.map((base, at) => (base === null ? null : base + line.ys[at]));
    const layer = [below, above];
    below = above;
    return layer;
  });
}

function heightsOf(chart, layers) {
  if (chart.stacked) return [0, ...(layers.at(-1)?.[1] ?? [])];
  const found = chart.levels.map(([, value]) => value);
  for (const line of chart.lines) {
    for (const values of [line.ys, line.raw, line.low, line.high]) for (const value of values ?? []) found.push(value);
    for (const whisker of line.whiskers ?? []) found.push(...(whisker ?? []));
  }
  return found;
}

// Axes and inner SVG of a chart. chart.lines: label, look, xs, ys, and what else a line has.
function plot(chart, { width, height, writeX = null }) {
  const layers = chart.stacked ? layersOf(chart.lines) : [];
  const named = chart.labelled && !chart.stacked && chart.names > 1;
  const right = 10 + (named ? chart.room : 0);
  const xs = [];
  for (const line of chart.lines) line.ys.forEach((y, at) => isKnown(y) && xs.push(line.xs[at]));
  const { log, floor, ceiling } = chart;
  const y = axisOf(heightsOf(chart, layers), { start: height - 24, end: 8, log, floor, ceiling });
  const start = Math.max(46, DIGIT * Math.max(0, ...tickLabels(y).map((text) => text.length)) + 7);
  const count = width < 480 ? 5 : 8;
  const x = axisOf(xs, { start, end: width - right, count, tight: true, whole: xs.every(Number.isInteger) });
  const parts = [axesOf({ x, y }, { width, height, writeX })];
  chart.lines.forEach((line, at) => {
    if (chart.stacked) parts.push(path(line.xs.length > DENSE ? "area dense" : "area", line.look, bandOf(line.xs, ...layers[at], { x, y })));
  });
  if (!chart.stacked) {
    for (const [label, value] of chart.levels) parts.push(levelOf(label, value, { x, y }));
    for (const line of chart.lines) parts.push(curveOf(line, { x, y }));
    if (named) parts.push(namesOf(chart.lines, { x, y }));
  }
  return { x, y, layers, inner: parts.join("") };
}

function axesOf({ x, y }, { width, height, writeX }) {
  const lines = y.ticks.map((tick) => {
    const at = coordinate(place(y, tick));
    return `<line x1="${coordinate(x.start)}" x2="${coordinate(x.end)}" y1="${at}" y2="${at}"/>`;
  });
  const left = tickLabels(y).map(
    (text, at) => `<text x="${coordinate(x.start - 6)}" y="${coordinate(place(y, y.ticks[at]) + 3.8)}" text-anchor="end">${text}${END}text>`,
  );
  const below = tickLabels(x, writeX).map(
    (text, tick) => {
      let [at, anchor] = [place(x, x.ticks[tick]), "middle"];
      if (at + text.length * 3.5 > width) [at, anchor] = [width - 1, "end"];
      return `<text x="${coordinate(at)}" y="${coordinate(height - 9)}" text-anchor="${anchor}">${text}${END}text>`;
    },
  );
  return `<g class="grid">${lines.join("")}${END}g><g class="ticks">${left.join("")}${below.join("")}${END}g>`;
}

function curveOf(line, axes) {
  const parts = [];
  if (line.low?.length) parts.push(path("band", line.look, bandOf(line.xs, line.low, line.high, axes)));
  if (line.raw) parts.push(path("raw", line.look, polyline(line.xs, line.raw, axes)));
  (line.whiskers ?? []).forEach((whisker, at) => {
    if (!whisker) return;
    const draw = ([low, high]) => {
      const [here, top, foot] = [place(axes.x, line.xs[at]), place(axes.y, high), place(axes.y, low)];
      const ends = [top, foot].map((y) => `M${coordinate(here - 3)},${coordinate(y)}h6`).join("");
      return `${ends}M${coordinate(here)},${coordinate(top)}V${coordinate(foot)}`;
    };
    parts.push(path("outer", line.look, draw(whisker.slice(2))), path("inner", line.look, draw(whisker.slice(0, 2))));
  });
  parts.push(path("line", line.look, polyline(line.xs, line.ys, axes)));
  const known = line.ys.flatMap((y, at) => (isKnown(y) ? [at] : []));
  const alone = stretches(line.ys).filter(([start, stop]) => stop - start === 1).map(([start]) => start);
  const marked = line.whiskers ? known : [...new Set([...alone, ...known.slice(-1)])].sort((a, b) => a - b);
  for (const at of marked) parts.push(mark(line.look, place(axes.x, line.xs[at]), place(axes.y, line.ys[at])));
  return parts.join("");
}

function levelOf(label, value, { x, y }) {
  const at = place(y, value);
  const name = at > 20 ? at - 3 : at + 11;
  return (
    `<path class="level" d="M${coordinate(x.start)},${coordinate(at)}H${coordinate(x.end)}"/>` +
    `<text class="level-name" x="${coordinate(x.start)}" dx="3" y="${coordinate(name)}">${safe(label)}${END}text>`
  );
}

function namesOf(lines, { x, y }) {
  const wanted = lines.filter((line) => line.ys.some(isKnown));
  const moved = wanted.map((line) => place(y, line.ys.findLast(isKnown)));
  const order = moved.map((_, at) => at).sort((a, b) => moved[a] - moved[b]);
  order.forEach((at, rank) => {
    moved[at] = Math.max(moved[at], rank ? moved[order[rank - 1]] + 12 : y.end + 2);
  });
  order.reverse().forEach((at, rank) => {
    moved[at] = Math.min(moved[at], rank ? moved[order[rank - 1]] - 12 : y.start);
  });
  return wanted
    .map((line, at) => `<text class="name s${line.look}" x="${coordinate(x.end + 7)}" y="${coordinate(moved[at] + 4)}">${safe(line.label)}${END}text>`)
    .join("");
}
