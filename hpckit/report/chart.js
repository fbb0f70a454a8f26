"use strict";
// One chart: its lines over the steps in view, marks of what happened, and the values pointed at.

const SVG = "http://www.w3.org/2000/svg";
const EDGE = { left: 54, right: 14, top: 22, bottom: 22 };
// Of a line with so few points in view each point is drawn.
const FEW = 40;
// Values that are farther apart than so many times stand on a log scale.
const DECADES = 15;
// A limit beyond so many times the highest value is not worth the room.
const FAR = 10;
// Points a pixel from which a line is a band.
const BAND = 1;
const OVERLAID = DATA.runs.length > 1 || (DATA.runs[0] || {}).varied;

function make(name, attributes = {}, ...inside) {
  const isSvg = ["svg", "g", "path", "line", "rect", "circle", "text", "title"].includes(name);
  const made = isSvg ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...inside);
  return made;
}

class Chart {
  constructor(about, host) {
    this.about = about;
    this.lines = about.series.filter((one) => one.role === "line");
    this.hidden = new Set();
    this.names = [...new Set(this.lines.map((one) => one.name))];
    this.isLog = about.scale === "log" || (about.scale === "auto" && this.spansDecades());
    this.build(host);
  }

  build(host) {
    const { about } = this;
    this.values = make("ul", { class: "values" });
    this.scale = make("button", { type: "button", class: "scale", "aria-label": `Scale of ${about.title}` });
    this.scale.addEventListener("click", () => {
      this.isLog = !this.isLog;
      this.draw();
    });
    const unit = about.unit ? [make("em", {}, about.unit)] : [];
    const caption = make("figcaption", {}, make("strong", {}, about.title), ...unit, this.values, this.scale);
    this.svg = make("svg", { role: "img", tabindex: "0" });
    const details = make("details", {}, make("summary", {}, "as a table"));
    details.addEventListener("toggle", () => details.open && this.fill());
    this.details = details;
    this.figure = make("figure", { class: `chart${about.wide ? " wide" : ""}`, style: "margin:0", "data-id": about.id });
    this.against = make("em");
    this.values.after(this.against);
    this.figure.append(caption, this.svg, details);
    host.append(this.figure);
    this.items = this.lines.map((one) => this.item(one));
  }

  item(one) {
    const value = make("b");
    const label = OVERLAID ? DATA.runs[one.run].label : one.name;
    const button = make("button", { type: "button", "aria-pressed": "true", title: "show or hide" }, make("i"), label);
    if (this.lines.length === 1 && !OVERLAID) {
      this.values.append(make("li", {}, value));
      return value;
    }
    const item = make("li", { class: this.colour(one) }, button, value);
    button.addEventListener("click", () => {
      const hides = !this.hidden.has(one);
      this.hidden[hides ? "add" : "delete"](one);
      button.setAttribute("aria-pressed", String(!hides));
      item.classList.toggle("off", hides);
      this.draw();
    });
    this.values.append(item);
    return value;
  }

  colour(one) {
    const place = OVERLAID ? DATA.runs[one.run].order : this.names.indexOf(one.name);
    return `c${place % 8}${place >= 8 ? " second" : ""}`;
  }

  isShown(one) {
    return ![...this.hidden].some((each) => each.name === one.name && each.run === one.run);
  }

  spansDecades() {
    let low = Infinity;
    let high = 0;
    for (const { y } of this.about.series) {
      for (const value of y) {
        if (value <= 0) return false;
        if (!Number.isFinite(value)) continue;
        low = Math.min(low, value);
        high = Math.max(high, value);
      }
    }
    return high / low > DECADES;
  }

  // The places of a line that are in view, and one on either side.
  inView({ x }) {
    return [Math.max(0, lower(x, view.from) - 1), Math.min(x.length, lower(x, view.to) + 1)];
  }

  domain(shown) {
    let low = Infinity;
    let high = -Infinity;
    // A limit that is far above all there was would press that together: it may leave the chart.
    const ordered = [...shown].sort((a, b) => (a.role === "limit") - (b.role === "limit"));
    let most = Infinity;
    for (const one of ordered) {
      if (one.role === "limit" && most === Infinity) most = high > 0 ? high * FAR : Infinity;
      for (let at = lower(one.x, view.from); at < one.x.length && one.x[at] <= view.to; at++) {
        const value = one.y[at];
        if (!Number.isFinite(value) || (this.isLog && value <= 0)) continue;
        if (value > most) continue;
        if (value < low) low = value;
        if (value > high) high = value;
      }
    }
    if (low > high) return this.isLog ? [0.1, 10] : [0, 1];
    if (this.isLog) return low === high ? [low / 2, high * 2] : [low / (high / low) ** 0.06, high * (high / low) ** 0.08];
    const room = (high - low) * 0.07 || Math.abs(high) * 0.1 || 1;
    return [low - room, high + room];
  }

  draw() {
    const width = Math.max(220, this.svg.clientWidth || this.figure.clientWidth - 30);
    const height = this.about.wide ? (width < 560 ? 230 : 290) : 190;
    this.width = width;
    this.height = height;
    this.shown = this.about.series.filter((one) => this.isShown(one));
    const [low, high] = this.domain(this.shown);
    const flat = this.isLog ? Math.log : (value) => value;
    const [bottom, top] = [flat(low), flat(high)];
    this.px = (step) => EDGE.left + ((step - view.from) / (view.to - view.from)) * (width - EDGE.left - EDGE.right);
    this.py = (value) => {
      if (this.isLog && value <= 0) return height - EDGE.bottom;
      return height - EDGE.bottom - ((flat(value) - bottom) / (top - bottom)) * (height - EDGE.top - EDGE.bottom);
    };
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.setAttribute("height", height);
    this.svg.setAttribute("aria-label", this.inWords());
    const id = `clip-${chartNumber(this)}`;
    const clip = document.createElementNS(SVG, "clipPath");
    clip.id = id;
    const inner = { x: EDGE.left, y: EDGE.top - 8, width: width - EDGE.left - EDGE.right, height: height - EDGE.top - EDGE.bottom + 9 };
    clip.append(make("rect", inner));
    const inside = make("g", { "clip-path": `url(#${id})` });
    this.over = make("g");
    this.svg.replaceChildren(clip, this.axes(low, high), inside, marksOf(this, inside), this.over);
    // What it is held against lies beneath, what counts on top.
    const order = ["limit", "usual", "clip", "left", "line", "middle"];
    for (const one of [...this.shown].sort((a, b) => order.indexOf(a.role) - order.indexOf(b.role))) inside.append(...this.drawn(one));
    this.scale.textContent = this.isLog ? "log" : "linear";
    this.point();
  }

  axes(low, high) {
    const { width, height } = this;
    const made = make("g");
    const room = (height - EDGE.top - EDGE.bottom) / 34;
    for (const tick of this.isLog ? logTicks(low, high, room) : linearTicks(low, high, room)) {
      const y = this.py(tick);
      made.append(make("line", { class: "gridline", x1: EDGE.left, x2: width - EDGE.right, y1: y, y2: y }));
      made.append(make("text", { x: EDGE.left - 7, y: y + 4, "text-anchor": "end" }, said(tick)));
    }
    const base = height - EDGE.bottom;
    made.append(make("line", { class: "axis", x1: EDGE.left, x2: width - EDGE.right, y1: base, y2: base }));
    for (const tick of linearTicks(view.from, view.to, width / 110)) {
      if (tick % 1) continue;
      made.append(make("line", { class: "axis", x1: this.px(tick), x2: this.px(tick), y1: base, y2: base + 4 }));
      made.append(make("text", { x: this.px(tick), y: base + 17, "text-anchor": "middle" }, stepSaid(tick)));
    }
    return made;
  }

  // Whether a line has more points than can be told apart: then its middle is drawn, too.
  isBand(one) {
    const [begin, end] = this.inView(one);
    return end - begin > BAND * this.width;
  }

  other(one, role) {
    return this.about.series.find((each) => each.role === role && each.name === one.name && each.run === one.run);
  }

  drawn(one) {
    const [begin, end] = this.inView(one);
    if (one.role === "middle" && !this.isBand(this.other(one, "line"))) return [];
    const isBand = one.role === "line" && this.other(one, "middle") && this.isBand(one);
    const { x, y } = one;
    const parts = [];
    const alone = [];
    const bad = [];
    let before = false;
    const places = end - begin > 3 * this.width ? this.thinned(one, begin, end) : null;
    for (let i = 0, n = places ? places.length : end - begin; i < n; i++) {
      const at = places ? places[i] : begin + i;
      if (!Number.isFinite(y[at])) {
        bad.push(at);
        before = false;
        continue;
      }
      parts.push(`${before ? "L" : "M"}${this.px(x[at]).toFixed(1)} ${this.py(y[at]).toFixed(1)}`);
      const after = places ? places[i + 1] : at + 1;
      if (!before && (i === n - 1 || !Number.isFinite(y[after]))) alone.push(at);
      before = true;
    }
    const colour = this.colour(one);
    const made = [make("path", { class: `path ${one.role}${isBand ? " band" : ""} ${colour}`, d: parts.join("") })];
    const dots = one.role === "line" && end - begin <= FEW && this.about.section === "validation" ? [...Array(end - begin).keys()].map((i) => begin + i).filter((at) => Number.isFinite(y[at])) : alone;
    for (const at of dots) made.push(make("circle", { class: `dot ${colour}`, cx: this.px(x[at]), cy: this.py(y[at]), r: 2.6 }));
    return [...made, ...this.broken(one, bad), ...this.crosses(one)];
  }

  // Of each column of pixels the first, the smallest, the largest and the last.
  thinned({ x, y }, begin, end) {
    const found = [];
    let at = begin;
    while (at < end) {
      const column = Math.floor(this.px(x[at]));
      let [first, low, high, last] = [at, at, at, at];
      for (; at < end && Math.floor(this.px(x[at])) === column; at++) {
        if (!Number.isFinite(y[at])) found.push(at);
        else {
          if (!(y[low] <= y[at])) low = at;
          if (!(y[high] >= y[at])) high = at;
        }
        last = at;
      }
      found.push(first, low, high, last);
    }
    return [...new Set(found)].sort((a, b) => a - b);
  }

  // What is no number stands at the edge at which it would be.
  broken(one, places) {
    const seen = new Set();
    return places.flatMap((at) => {
      const x = Math.round(this.px(one.x[at]));
      if (seen.has(x >> 2)) return [];
      seen.add(x >> 2);
      const down = one.y[at] === -Infinity;
      const y = down ? this.height - EDGE.bottom - 2 : EDGE.top - 6;
      const tip = down ? -8 : 8;
      const mark = make("path", { class: "bad", d: `M${x - 5} ${y}h10L${x} ${y + tip}Z` });
      mark.append(make("title", {}, `${one.name} is ${said(one.y[at])} at step ${stepSaid(one.x[at])}`));
      return [mark];
    });
  }

  // Updates that were held back.
  crosses(one) {
    if (one.role !== "line" || !one.gated) return [];
    const parts = [];
    for (const step of one.gated) {
      if (step < view.from || step > view.to) continue;
      const value = this.valueAt(one, step);
      if (!Number.isFinite(value)) continue;
      const [x, y] = [this.px(step), this.py(value)];
      parts.push(`M${x - 4} ${y - 4}l8 8m0 -8l-8 8`);
    }
    return parts.length ? [make("path", { class: "cross", fill: "none", d: parts.join("") })] : [];
  }

  // The largest at a step, of all branches: a gate holds back what is too large.
  valueAt(one, step) {
    let found = NaN;
    for (const each of this.about.series) {
      if (each.name !== one.name || each.run !== one.run || !["line", "left"].includes(each.role)) continue;
      const at = lower(each.x, step);
      if (each.x[at] === step && !(each.y[at] <= found)) found = each.y[at];
    }
    return found;
  }

  // The values at the step that is pointed at, or the last ones in view.
  point() {
    const step = view.at;
    this.over.replaceChildren();
    this.lines.forEach((one, place) => {
      const at = one.x.length ? nearest(one.x, step === null ? view.to : step) : -1;
      this.items[place].textContent = at < 0 ? "" : said(one.y[at]) + this.leftAt(one, step);
      if (step === null || at < 0 || !this.isShown(one) || !Number.isFinite(one.y[at])) return;
      const [x, y] = [this.px(one.x[at]), this.py(one.y[at])];
      if (x >= EDGE.left && x <= this.width - EDGE.right) this.over.append(make("circle", { class: `at ${this.colour(one)}`, cx: x, cy: y, r: 3.4 }));
    });
    this.against.textContent = this.heldAgainst(step === null ? view.to : step);
    if (step === null || step < view.from || step > view.to) return;
    const x = this.px(step);
    this.over.prepend(make("line", { class: "hair", x1: x, x2: x, y1: EDGE.top - 8, y2: this.height - EDGE.bottom }));
  }

  // What the step was on a branch that was left.
  leftAt(one, step) {
    const mine = this.about.series.filter((each) => each.role === "left" && each.name === one.name && each.run === one.run);
    const found = mine.flatMap((each) => (each.x[lower(each.x, step)] === step ? [said(each.y[lower(each.x, step)])] : []));
    return step === null || !found.length ? "" : ` (left: ${found.join(", ")})`;
  }

  // What a norm is held against at a step.
  heldAgainst(step) {
    const words = { usual: "usual", limit: "held back above", clip: "clipped to" };
    const found = Object.entries(words).flatMap(([role, word]) => {
      const one = this.about.series.find((each) => each.role === role);
      const value = one ? lastSaid(one, step) : "";
      return value ? [`${word} ${value}`] : [];
    });
    return found.join(", ");
  }

  fill() {
    fillTable(this, this.details);
  }

  inWords() {
    const parts = this.lines.slice(0, 6).map((one) => {
      const finite = one.y.filter(Number.isFinite);
      if (!finite.length) return `${one.name}: no finite value`;
      const highest = finite.reduce((a, b) => (b > a ? b : a));
      const bad = one.y.length - finite.length;
      return `${one.name}: from ${said(finite[0])} to ${said(finite[finite.length - 1])}, at most ${said(highest)} at step ${stepSaid(one.x[one.y.indexOf(highest)])}${bad ? `, ${bad} not finite` : ""}`;
    });
    return `${this.about.title}, steps ${stepSaid(view.from)} to ${stepSaid(view.to)}. ${parts.join("; ")}`;
  }
}

const charts = [];
const chartNumber = (chart) => (charts.includes(chart) ? charts.indexOf(chart) : charts.length);
