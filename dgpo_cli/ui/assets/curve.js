
// The value along a completion: a curve over the strip, and its numbers at a token.

const signedWorth = (value) => (value ? (value < 0 ? "-" : "+") + worth(Math.abs(value)) : "0");

// Before the first token and after each; between the points that were estimated it runs straight.
function alongOf(values, count) {
  if (!values) return null;
  const along = { points: values.at };
  for (const name of ["value", "low", "high"]) {
    const own = numbers(values[name]);
    const column = new Float64Array(count + 1);
    values.at.forEach((at, point) => {
      column[at] = own[point];
      const [start, stop] = [at, values.at[point + 1] ?? at];
      for (let t = start + 1; t < stop; t += 1) {
        column[t] = own[point] + ((own[point + 1] - own[point]) * (t - start)) / (stop - start);
      }
    });
    along[name] = column;
  }
  along.move = (t) => along.value[t + 1] - along.value[t];
  return along;
}

function newCurve(view) {
  const svg = $("curve");
  if (!svg) return;
  const { along, shown } = view;
  $("curve-box").hidden = !along;
  $("value-words").replaceChildren(...(shown.valueWords ?? []).map((words) => make("span", "", words)));
  if (!along) return;
  const [low, high] = shown.values.range;
  const total = view.w.length;
  const x = (at) => (1000 * at) / Math.max(1, total);
  const y = (value) => 98 - (96 * (value - low)) / (high - low);
  const line = (name) => along.points.map((at) => `${x(at)},${y(along[name][at])}`);
  const turns = shown.values.turns.map(([start, stop, up]) =>
    shape(svg, "rect", { class: up ? "won" : "lost", x: x(start), width: x(stop) - x(start), y: 0, height: 100 }),
  );
  const known = along.points.every((at) => Number.isFinite(along.low[at] + along.high[at]));
  const band = known ? [...line("high"), ...line("low").reverse()] : [];
  view.curveMark = shape(svg, "line", { class: "mark", x1: -9, x2: -9, y1: 0, y2: 100 });
  svg.replaceChildren(
    ...turns,
    shape(svg, "polygon", { class: "band", points: band.join(" ") }),
    shape(svg, "polyline", { class: "value", points: line("value").join(" ") }),
    view.curveMark,
  );
}

function valuesOf(view, t) {
  const { along } = view;
  if (!along) return [];
  const [value, low, high] = [along.value, along.low, along.high].map((each) => worth(each[t + 1]));
  return [
    ["V after it", value],
    ["its 95% interval", `${low} to ${high}`],
    ["V before it", worth(along.value[t])],
    ["move of V", signedWorth(along.move(t))],
  ];
}

function stepValues(view, start, stop) {
  const value = view.along?.value;
  return value ? [worth(value[stop]), signedWorth(value[stop] - value[start])] : [];
}
