
// Writes numbers as dgpo_cli/core/numbers.py does, to the last character.

const UNITS = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]];
const UNKNOWN = "unknown";

// JavaScript rounds a tie up, Python to the even digit: `more` has enough digits to tell a tie.
function even(text, more, cut) {
  return /^50*$/.test(more.slice(cut).replace(".", "")) && /[02468]\.?$/.test(more.slice(0, cut)) ? more.slice(0, cut) : text;
}

function fixed(value, digits) {
  const more = value.toFixed(digits + 40);
  const cut = more.indexOf(".") + 1 + digits;
  return even(value.toFixed(digits), more, cut).replace(/\.$/, "");
}

// Python's :e, and the digits of its exponent.
function exponential(value, digits) {
  const [more, power] = value.toExponential(digits + 40).split("e");
  const cut = more.indexOf(".") + 1 + digits;
  const [text, own] = value.toExponential(digits).split("e");
  const mantissa = own === power ? even(text, more, cut).replace(/\.$/, "") : text;
  return `${mantissa}e${own.replace(/^([+-])(\d)$/, "$10$2")}`;
}

// Without zeros behind the point.
function bare(text) {
  return text.includes(".") && !text.includes("e") ? text.replace(/\.?0+$/, "") : text;
}

// Python's :g, at most `digits` significant digits and no more than the number needs.
function general(value, digits) {
  const [mantissa, power] = exponential(value, digits - 1).split("e");
  if (power < -4 || power >= digits) return `${bare(mantissa)}e${power}`;
  return bare(fixed(value, digits - 1 - power));
}

function grouped(value) {
  return fixed(value, 0).replace(/\B(?=(\d{3})+$)/g, ",");
}

// A positive number below 1000 in three digits, zeros at the end kept.
function three(value) {
  return fixed(value, Math.max(0, 2 - exponential(value, 2).split("e")[1]));
}

function beyond(value) {
  return Number.isNaN(value) ? UNKNOWN : value > 0 ? "inf" : "-inf";
}

function short(value) {
  if (!Number.isFinite(value)) return beyond(value);
  if (value === 0) return "0";
  const far = Math.abs(value);
  if (far < 1e-3 || far >= 9.995e14) return general(value, 3);
  if (far >= 9999.5) {
    const rounded = Number(exponential(value, 2));
    const [scale, unit] = UNITS.find(([each]) => Math.abs(rounded) >= each);
    return general(rounded / scale, 3) + unit;
  }
  if (far >= 999.95) return grouped(value);
  const off = Math.abs(far - 1);
  if (off > 0 && off < 1e-2) return general(value, off >= 1e-6 ? 7 : 12);
  return general(value, value < 0 && far < 1e-2 ? 3 : 4);
}

function small(value) {
  if (!Number.isFinite(value)) return beyond(value);
  if (value === 0) return "0";
  const far = Math.abs(value);
  if (far >= 1e-3 && far < 10) return fixed(value, 4);
  return far >= 10 && far < 1e4 ? fixed(value, 1) : exponential(value, 1);
}

function signed(value) {
  if (!Number.isFinite(value) || value === 0) return value === 0 ? "0" : beyond(value);
  const far = Math.abs(value);
  return (value < 0 ? "-" : "+") + (far >= 1e-3 && far < 999.5 ? three(far) : short(far));
}

function worth(value) {
  return value >= 0 && value <= 1 ? fixed(value, 2) : short(value);
}

function fraction(value) {
  if (!Number.isFinite(value)) return UNKNOWN;
  for (let digits = 5; digits <= 12; digits += 1) {
    const text = fixed(value, digits);
    if (value >= 1 || Number(text) !== 1) return text;
  }
  return `>0.${"9".repeat(12)}`;
}

function percent(share, digits = 1) {
  if (!Number.isFinite(share)) return UNKNOWN;
  const least = 10 ** -digits;
  const text = fixed(100 * share, digits);
  if (share > 0 && Number(text) === 0) return `<${fixed(least, digits)}%`;
  if (share < 1 && Number(text) >= 100) return `>${fixed(100 - least, digits)}%`;
  return `${text}%`;
}

function probability(logprob) {
  const value = Math.exp(Math.min(0, logprob));
  return value >= 5e-4 || value === 0 ? fixed(value, 3) : exponential(value, 0);
}
