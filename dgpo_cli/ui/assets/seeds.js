
// Curves that are means over seeds: the numbers of every seed, their mean and its 95% interval.

const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-";

// The numbers of a metric, a row a seed with holes where they are unknown, as
// report/study_page.py packs them: each is some digits to the base of 64.
function rowsOf(metric, letter) {
  const { low, high, log, digits, [letter]: text } = data.metrics[metric];
  const points = data.points[letter].at[0].length;
  const most = 64 ** digits - 2;
  return data.variants[letter].map((seed, row) => {
    const values = new Array(points);
    for (let at = 0; at < points; at += 1) {
      let code = text ? 0 : 1;
      for (const digit of text.substr(digits * (row * points + at), digits)) code = 64 * code + DIGITS.indexOf(digit);
      const share = (code - 1) / most;
      if (code) values[at] = log ? low * (high / low) ** share : low + share * (high - low);
    }
    return values;
  });
}

// "METRIC LETTER", or "METRIC LETTER BASELINE" for the differences on the seeds that both have.
function seedsOf(names) {
  const [metric, letter, baseline] = names.split(" ");
  const rows = rowsOf(metric, letter);
  if (!baseline) return rows;
  const others = rowsOf(metric, baseline);
  return rows.flatMap((row, at) => {
    const other = others[data.variants[baseline].indexOf(data.variants[letter][at])];
    if (!other) return [];
    const values = new Array(row.length);
    row.forEach((value, i) => i in other && (values[i] = value - other[i]));
    return [values];
  });
}

function overSeeds(rows) {
  const [mean, low, high] = [[], [], []];
  for (let at = 0; at < (rows[0]?.length ?? 0); at += 1) {
    const known = rows.map((row) => row[at]).filter((value) => value !== undefined);
    const n = known.length;
    if (!n) continue;
    mean[at] = known.reduce((a, b) => a + b) / n;
    if (n < 2) continue;
    const squares = known.reduce((sum, value) => sum + (value - mean[at]) ** 2, 0);
    const half = data.student[n] * Math.sqrt(squares / (n - 1) / n);
    [low[at], high[at]] = [mean[at] - half, mean[at] + half];
  }
  return { mean, edges: [high, low] };
}

// A row for each curve under the crosshair.
function tellSeeds(figure, readout) {
  all(figure.querySelector(".plot"), ".series").forEach((each, at) => {
    const { points } = each.dataset;
    const swatch = document.querySelector(`.swatch[data-variant="${points}"]`).cloneNode(true);
    const row = document.createElement("div");
    row.className = "value";
    row.dataset.line = at;
    row.append(swatch, points, " ", document.createElement("b"));
    readout.append(row);
  });
}
