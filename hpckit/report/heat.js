"use strict";
// Which layers grew: a row a layer, the colour its norm on a log scale.

const RAMP = ["#1b1446", "#3b2f80", "#56549b", "#6f7aa6", "#8aa1a5", "#b0c593", "#e0e07a", "#fdf6b5"].map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
const NOT_FINITE = "#e5484d";
const ROW = 17;
// Beneath the rows: the steps.
const FOOT = 23;

function ramp(share) {
  const place = Math.min(1, Math.max(0, share)) * (RAMP.length - 1);
  const low = Math.min(RAMP.length - 2, Math.floor(place));
  const mixed = RAMP[low].map((part, at) => Math.round(part + (RAMP[low + 1][at] - part) * (place - low)));
  return `rgb(${mixed.join(",")})`;
}

class Heat {
  constructor(about, host) {
    this.about = about;
    about.cells = about.cells.map((row) => row.map((value) => (value === null ? NaN : value)));
    const sizes = about.cells.flat().filter((value) => Number.isFinite(value) && value > 0).sort((a, b) => a - b);
    this.low = sizes[Math.floor(sizes.length * 0.1)] || 1e-3;
    this.high = Math.max(sizes[sizes.length - 1] || 1, this.low * 10);
    this.build(host);
  }

  build(host) {
    const { about } = this;
    const title = `Which layers grew${DATA.heats.length > 1 ? ` · ${about.optimizer}` : ""}`;
    this.title = title;
    const colours = Array.from({ length: 9 }, (_, at) => ramp(at / 8)).join(",");
    const bar = make("span", { class: "ramp", style: `background:linear-gradient(90deg,${colours})` });
    this.value = make("em", { "aria-live": "off" });
    const scale = make("em", {}, said(this.low, 2), bar, said(this.high, 2));
    const more = about.hidden ? [make("em", {}, `${about.hidden} layer${about.hidden > 1 ? "s" : ""} that grew less ${about.hidden > 1 ? "are" : "is"} not shown`)] : [];
    const names = make("div", { class: "names", style: `--row:${ROW}px` });
    about.names.forEach((name, at) => names.append(make("span", { title: name, class: about.blamed[at] ? "blamed" : null }, make("bdi", {}, about.blamed[at] ? `▸ ${name}` : name))));
    this.canvas = make("canvas", { role: "img", "aria-label": this.inWords() });
    const details = make("details", {}, make("summary", {}, "every parameter, as a table"));
    details.addEventListener("toggle", () => details.open && this.fill());
    this.details = details;
    this.figure = make("figure", { class: "chart wide", style: "margin:0", "data-id": `heat/${about.optimizer}` });
    this.figure.append(make("figcaption", {}, make("strong", {}, title), scale, ...more, this.value), make("div", { class: "heat" }, names, this.canvas), details);
    host.append(this.figure);
    this.canvas.addEventListener("pointermove", (event) => this.say(event));
    this.canvas.addEventListener("pointerleave", () => (this.value.textContent = ""));
  }

  // From its step to the next one's, or as far as it was from the one before.
  span(column) {
    const { x } = this.about;
    const begin = x[column];
    const end = column + 1 < x.length ? x[column + 1] : Math.max(begin + 1, view.full[1]);
    return [begin, end];
  }

  draw() {
    const width = Math.max(80, Math.round(this.canvas.clientWidth));
    const rows = ROW * this.about.names.length;
    const height = rows + FOOT;
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = width * ratio;
    this.canvas.height = height * ratio;
    this.canvas.style.height = `${height}px`;
    const pen = this.canvas.getContext("2d");
    pen.scale(ratio, ratio);
    this.px = (step) => ((step - view.from) / (view.to - view.from)) * width;
    const spread = Math.log(this.high / this.low);
    this.about.x.forEach((_, column) => {
      const [begin, end] = this.span(column).map(this.px);
      if (end < 0 || begin > width) return;
      const [left, right] = [Math.floor(begin), Math.max(Math.floor(begin) + 1, Math.floor(end))];
      this.about.cells.forEach((row, at) => {
        const value = row[column];
        if (Number.isNaN(value)) return;
        pen.fillStyle = Number.isFinite(value) ? ramp(Math.log(Math.max(value, this.low) / this.low) / spread) : NOT_FINITE;
        pen.fillRect(left, at * ROW, right - left, ROW - 1);
      });
    });
    pen.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--bad");
    // Beneath, and not over the brightest cells of all.
    for (const mark of DATA.runs[0].marks) if (mark.kind === "incident") this.triangle(pen, this.px(mark.step), rows + 1);
    this.axis(pen, width, rows);
  }

  triangle(pen, x, y) {
    pen.beginPath();
    pen.moveTo(x, y);
    pen.lineTo(x + 4, y + 6);
    pen.lineTo(x - 4, y + 6);
    pen.fill();
  }

  axis(pen, width, rows) {
    pen.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--soft");
    pen.font = `11.5px ${getComputedStyle(document.body).fontFamily}`;
    pen.textAlign = "center";
    for (const tick of linearTicks(view.from, view.to, width / 80)) {
      const x = this.px(tick);
      if (tick % 1 === 0 && x > 10 && x < width - 10) pen.fillText(stepSaid(tick), x, rows + 18);
    }
  }

  say(event) {
    const box = this.canvas.getBoundingClientRect();
    const step = view.from + ((event.clientX - box.left) / box.width) * (view.to - view.from);
    const row = Math.min(this.about.names.length - 1, Math.max(0, Math.floor((event.clientY - box.top) / ROW)));
    const column = lower(this.about.x, step + 1e-9) - 1;
    const value = column >= 0 ? this.about.cells[row][column] : NaN;
    this.value.textContent = Number.isNaN(value) ? "" : `${this.about.names[row]}: ${said(value)} at step ${stepSaid(this.about.x[column])}`;
  }

  inWords() {
    let [most, who, when] = [-1, "", 0];
    this.about.cells.forEach((row, at) => row.forEach((value, column) => {
      if (value > most) [most, who, when] = [value, this.about.names[at], this.about.x[column]];
    }));
    return `Gradient norms of ${this.about.names.length} layers. The largest: ${who}, ${said(most)} at step ${stepSaid(when)}`;
  }

  // Of every parameter the first, the largest and the last, and where the largest was.
  fill() {
    const { details } = this;
    details.querySelector("div")?.remove();
    const value = (number) => said(number === null ? NaN : number);
    const rows = this.about.parameters.map(([name, first, largest, at, last, isBlamed]) => {
      const cells = [value(first), value(largest), stepSaid(at), value(last)];
      return make("tr", {}, make("td", {}, name + (isBlamed ? " (blamed)" : "")), ...cells.map((cell) => make("td", { class: "n" }, cell)));
    });
    const head = ["parameter", "first", "largest", "at step", "last"].map((word, at) => make("th", { scope: "col", class: at ? "n" : null }, word));
    details.append(make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": this.title }, make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows))));
  }
}

const heats = [];
