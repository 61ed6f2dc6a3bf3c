
// The maths of the page, without the page: the credit rule, the scales of the colours, numbers.
// What is computed here is what dgpo computes; tests hold the two together.

const STEPS = 12;
const NEUTRAL = 1.25; // weights from 1 / NEUTRAL to NEUTRAL have no colour, unless the scale fits the completion

// The gate h: entropy in nats / log V, held to [0, 1].
function gateOf(entropy, vocabSize) {
  return vocabSize < 2 ? 0 : Math.min(1, Math.max(0, entropy / Math.log(vocabSize)));
}

// s = d * h^kappa, w = T * softmax(s / tau); the largest score is taken off before the division.
function dgpoCredit(entropy, d, { tau, kappa, vocabSize }) {
  const scores = Float64Array.from(d, (value, t) => value * Math.pow(gateOf(entropy[t], vocabSize), kappa));
  const peak = largest(scores);
  const powers = scores.map((score) => Math.exp((score - peak) / tau));
  const factor = scores.length / sum(powers);
  return { scores, weights: powers.map((power) => power * factor) };
}

function sum(values) {
  let total = 0;
  let lost = 0; // Neumaier: the digits that the running total could not hold
  for (const value of values) {
    const next = total + value;
    lost += Math.abs(total) >= Math.abs(value) ? total - next + value : value - next + total;
    total = next;
  }
  return total + lost;
}

function largest(values) {
  let most = -Infinity;
  for (const value of values) if (value > most) most = value;
  return most;
}

function effectiveFraction(weights) {
  const total = sum(weights);
  return (total * total) / (weights.length * sum(weights.map((weight) => weight * weight)));
}

// The share of the credit that other tokens get: half the mean of |difference|; at most 1 where no weight is negative.
function moved(before, after) {
  return sum(after.map((weight, t) => Math.abs(weight - before[t]))) / (2 * after.length);
}

// The shares of all weight that the most weighted tokens hold, whatever its sign; the token at the border counts in part.
function sharesOfTop(weights, shares) {
  const ascending = Float64Array.from(weights, Math.abs).sort();
  const total = sum(ascending);
  return shares.map((share) => {
    const count = share * weights.length;
    const whole = Math.floor(count + 1e-9);
    const border = Math.max(0, count - whole) * (ascending[weights.length - whole - 1] ?? 0);
    return (sum(ascending.subarray(weights.length - whole)) + border) / total;
  });
}

function logWeight(weight) {
  if (!Number.isFinite(weight)) return 0;
  return weight > 0 ? Math.log(weight) : -Infinity;
}

function spreadOf(weights) {
  let most = 0;
  for (const weight of weights) most = Math.max(most, Math.abs(logWeight(weight)));
  return most;
}

// The next round number from `factor` up: 1.0005, 1.02, 1.5, 3, 20.
function niceFactor(factor) {
  const excess = factor < 2 ? factor - 1 : factor;
  const exponent = Math.floor(Math.log10(excess));
  for (const power of [exponent, exponent + 1]) {
    for (const step of [1, 1.5, 2, 3, 5, 7]) {
      const rounded = step * Math.pow(10, power);
      if (rounded >= excess * (1 - 1e-9)) return factor < 2 ? 1 + rounded : rounded;
    }
  }
  return factor;
}

// How far the scale of the weights reaches, to 1 / factor and factor: 1 where all weights are 1.
function factorOf(weights) {
  const upper = Math.max(logWeight(largest(weights)), Math.log(5));
  const reach = Math.min(spreadOf(weights), upper);
  return reach < 1e-6 ? 1 : niceFactor(Math.exp(reach));
}

// Where a weight lies on the scale, in [-1, 1]; 0 is 1.
function weightShare(weight, factor) {
  return factor === 1 ? 0 : Math.max(-1, Math.min(1, logWeight(weight) / Math.log(factor)));
}

// The end of a linear scale: the next round number from the largest size up.
function endOf(values) {
  const most = largest(values.map(Math.abs).filter(Number.isFinite));
  if (!(most > 0)) return 0;
  const power = Math.pow(10, Math.floor(Math.log10(most)));
  if (power === 0) return most;
  return [1, 1.5, 2, 3, 5, 7, 10].map((step) => step * power).find((end) => end >= most * (1 - 1e-9)) ?? 10 * power;
}

// Where a value lies on a linear scale to `end`, in [-1, 1].
function linearShare(value, end) {
  return end > 0 && !Number.isNaN(value) ? Math.max(-1, Math.min(1, value / end)) : 0;
}

// The step of a weight on the scale to `factor`, which has no colour from 1 / neutral to neutral.
function weightLevel(weight, factor, neutral) {
  if (factor === 1) return 0;
  const excess = (Math.abs(logWeight(weight)) - Math.log(neutral)) / Math.log(factor / neutral);
  if (excess <= 1e-6) return 0;
  const step = Math.min(STEPS, 1 + Math.floor(Math.min(excess, 1) * STEPS));
  return weight > 1 ? step : -step;
}

// The step of a place on a linear scale, in [-STEPS, STEPS].
function levelOf(share) {
  return roundEven(share * STEPS);
}

function roundEven(value) { // as Python rounds
  const below = Math.floor(value);
  const rest = value - below;
  if (rest !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}

// A weight with the digits that a scale of this factor needs to tell it from 1.
function weightText(weight, factor) {
  if (!Number.isFinite(weight)) return UNKNOWN;
  if (Math.abs(weight) >= 100) return fixed(weight, 0);
  if (factor !== 1 && factor < 2) {
    const digits = 1 - Math.floor(Math.log10(factor - 1));
    return fixed(weight, Math.min(7, Math.max(2, digits)));
  }
  const size = Math.abs(weight);
  if (size > 0 && size < 0.1) return size < 0.001 ? exponential(weight, 1) : fixed(weight, 3);
  return fixed(weight, 2);
}

// The ends of a scale.
function weightEnd(weight, factor) {
  return weight < 0.1 ? weightText(weight, factor) : bare(weightText(weight, factor));
}

function linearEnd(value, isSigned) {
  return bare(isSigned ? signed(value) : small(value));
}
