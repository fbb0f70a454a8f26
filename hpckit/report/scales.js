"use strict";
// Numbers: what a page draws, how they are put to a scale, and how they are said.

const DATA = JSON.parse(document.getElementById("data").textContent);
for (const { series } of DATA.charts) {
  for (const one of series) {
    // Steps come as distances; NaN is null, and an infinity a number that is too large.
    let step = 0;
    one.x = one.x.map((distance) => (step += distance));
    one.y = one.y.map((value) => (value === null ? NaN : value));
  }
}

// The steps that all charts show; `at` is the one that is pointed at.
const view = { full: wholeRange(), from: 0, to: 1, at: null };
[view.from, view.to] = view.full;

function wholeRange() {
  let low = Infinity;
  let high = -Infinity;
  for (const { series } of DATA.charts) {
    for (const { x } of series) {
      if (!x.length) continue;
      low = Math.min(low, x[0]);
      high = Math.max(high, x[x.length - 1]);
    }
  }
  return low < high ? [low, high] : Number.isFinite(low) ? [low - 0.5, low + 0.5] : [0, 1];
}

// The first place whose value is not below what is looked for.
function lower(sorted, value) {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

function nearest(sorted, value) {
  const after = lower(sorted, value);
  if (after === 0) return 0;
  if (after === sorted.length) return after - 1;
  return value - sorted[after - 1] <= sorted[after] - value ? after - 1 : after;
}

// What a line that stays until it changes said last; nothing before its first word.
function lastSaid({ x, y }, step) {
  const at = lower(x, step + 1e-9) - 1;
  return at < 0 ? "" : said(y[at], 3);
}

function linearTicks(low, high, most) {
  const rough = (high - low) / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((times) => times * power).find((each) => each >= rough);
  const found = [];
  for (let tick = Math.ceil(low / step - 1e-9); tick * step <= high * (1 + 1e-12); tick++) {
    found.push(tick * step);
    if (found.length > 50) break;
  }
  return found;
}

function logTicks(low, high, most) {
  const first = Math.floor(Math.log10(low));
  const last = Math.ceil(Math.log10(high));
  const times = last - first <= 2 ? [1, 2, 5] : [1];
  const every = Math.max(1, Math.ceil((last - first) / most));
  const found = [];
  for (let power = first; power <= last; power++) {
    if ((power - first) % every && times.length === 1) continue;
    for (const each of times) found.push(each * 10 ** power);
  }
  return found.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
}

// In order, so far apart that each can be seen, and none beyond the end.
function apart(places, gap, most) {
  const found = [];
  for (const place of places) found.push(found.length ? Math.max(place, found[found.length - 1] + gap) : place);
  for (let at = found.length - 1, end = most; at >= 0; at--) {
    found[at] = Math.min(found[at], end);
    end = found[at] - gap;
  }
  return found;
}

const RAISED = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

function said(value, digits = 4) {
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) {
    const [mantissa, power] = value.toExponential(Math.max(0, digits - 2)).split("e");
    const raised = [...power.replace("+", "")].map((sign) => RAISED[sign]).join("");
    const short = String(Number(mantissa));
    return short === "1" ? `10${raised}` : `${short}·10${raised}`;
  }
  return String(Number(value.toPrecision(digits))).replace("-", "−");
}

const stepSaid = (step) => Math.round(step).toString().replace(/\B(?=(\d{3})+$)/g, "\u202f");
