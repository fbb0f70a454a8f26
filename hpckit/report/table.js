"use strict";
// A chart's values as a table beneath it: some steps of those in view, those of incidents among them.

const ROWS = 12;

function fillTable(chart, details) {
  const lines = chart.about.series.filter((one) => !["left", "middle"].includes(one.role) && one.x.length);
  const name = (one) => (OVERLAID ? DATA.runs[one.run].label : one.name);
  const value = (one, step) => (one.role === "line" ? said(valueOf(chart, one, step)) : lastSaid(one, step) || "-");
  const cells = (step) => lines.map((one) => make("td", { class: "n" }, value(one, step)));
  const rows = stepsInView().map((step) => make("tr", {}, make("td", {}, stepSaid(step)), ...cells(step)));
  const head = lines.map((one) => make("th", { scope: "col", class: "n" }, name(one)));
  const caption = make("caption", { class: "unseen" }, chart.about.title);
  const top = make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "step"), ...head));
  const table = make("table", {}, caption, top, make("tbody", {}, ...rows));
  const about = { class: "scroll", tabindex: "0", role: "region", "aria-label": `${chart.about.title}, values` };
  details.querySelector("div")?.remove();
  details.append(make("div", about, table));
}

function stepsInView() {
  const span = view.to - view.from;
  const steps = Array.from({ length: ROWS + 1 }, (_, at) => Math.round(view.from + (span * at) / ROWS));
  const marks = DATA.runs.flatMap((run) => run.marks).filter((mark) => mark.kind === "incident");
  const seen = marks.map((mark) => mark.step).filter((step) => step >= view.from && step <= view.to);
  return [...new Set([...steps, ...seen])].sort((a, b) => a - b);
}

// Of the step of an incident the value that led to it, not what came later in its place.
function valueOf(chart, one, step) {
  const found = chart.valueAt(one, step);
  return Number.isNaN(found) ? one.y[nearest(one.x, step)] : found;
}
