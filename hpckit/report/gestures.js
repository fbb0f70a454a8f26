"use strict";
// Mouse, touch and keyboard: all charts share the range of steps and the step pointed at.

const LEAST = 6;

function zoom(from, to) {
  const [low, high] = view.full;
  const least = Math.min(high - low, 4);
  if (to - from < least) [from, to] = [(from + to - least) / 2, (from + to + least) / 2];
  view.from = Math.max(low, from);
  view.to = Math.min(high, to);
  redraw();
}

function zoomOut() {
  [view.from, view.to] = view.full;
  redraw();
}

function pointAt(step) {
  view.at = step;
  for (const chart of charts) chart.point();
  showRange();
}

function redraw() {
  for (const each of [...charts, ...heats]) each.draw();
  for (const each of charts) if (each.details.open) each.fill();
  showRange();
}

function showRange() {
  const isWhole = view.from === view.full[0] && view.to === view.full[1];
  const range = `steps ${stepSaid(view.from)} to ${stepSaid(view.to)}`;
  document.getElementById("shown").textContent = view.at === null ? range : `${range} · at ${stepSaid(view.at)}`;
  document.getElementById("reset").hidden = isWhole;
}

function listen(chart) {
  const { svg } = chart;
  let began = null;
  let tapped = 0;
  const place = (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * chart.width;
    return Math.min(chart.width - EDGE.right, Math.max(EDGE.left, x));
  };
  const stepAt = (x) => view.from + ((x - EDGE.left) / (chart.width - EDGE.left - EDGE.right)) * (view.to - view.from);
  const drop = () => {
    began = null;
    svg.querySelector(".pick")?.remove();
  };
  svg.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    began = place(event);
    svg.setPointerCapture(event.pointerId);
  });
  svg.addEventListener("pointermove", (event) => {
    const x = place(event);
    pointAt(Math.round(stepAt(x)));
    if (began === null) return;
    svg.querySelector(".pick")?.remove();
    const [left, right] = [Math.min(began, x), Math.max(began, x)];
    svg.append(make("rect", { class: "pick", x: left, width: right - left, y: EDGE.top - 8, height: chart.height - EDGE.top - EDGE.bottom + 8 }));
  });
  svg.addEventListener("pointerup", (event) => {
    if (began === null) return;
    const [from, to] = [began, place(event)].sort((a, b) => a - b).map(stepAt);
    const isDrag = Math.abs(place(event) - began) > LEAST;
    drop();
    if (isDrag) zoom(from, to);
    else if (event.timeStamp - tapped < 350) zoomOut();
    else pointAt(Math.round(from));
    tapped = isDrag ? 0 : event.timeStamp;
  });
  svg.addEventListener("pointercancel", drop);
  svg.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && began === null && pointAt(null));
  svg.addEventListener("keydown", (event) => onKey(event, chart));
}

function onKey(event, chart) {
  const span = view.to - view.from;
  const line = chart.lines.find((one) => one.x.length);
  if (!line) return;
  const here = view.at === null ? view.to : view.at;
  const move = (by) => {
    const at = Math.min(line.x.length - 1, Math.max(0, nearest(line.x, here) + by));
    const step = line.x[at];
    if (step < view.from || step > view.to) zoom(step - span / 2, step + span / 2);
    pointAt(step);
  };
  const acts = {
    ArrowLeft: () => move(event.shiftKey ? -10 : -1),
    ArrowRight: () => move(event.shiftKey ? 10 : 1),
    Home: () => move(-Infinity),
    End: () => move(Infinity),
    "+": () => zoom(here - span / 4, here + span / 4),
    "=": () => zoom(here - span / 4, here + span / 4),
    "-": () => zoom(here - span, here + span),
    Escape: zoomOut,
    0: zoomOut,
  };
  if (!acts[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  acts[event.key]();
}
