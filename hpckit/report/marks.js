"use strict";
// What happened, over a chart: incidents, the way back, where an attempt took up.

// What a numbered mark takes of the width, and the name of an attempt.
const MARK = 17;
const LABEL = 66;

// `inside` is what is cut at the chart's edges; what is given back stands above it.
function marksOf(chart, inside) {
  const above = make("g");
  const numbered = [];
  let free = 0;
  for (const run of DATA.runs) {
    for (const mark of run.marks) {
      const isSeen = mark.step >= view.from && mark.step <= view.to;
      if (OVERLAID) {
        if (isSeen && mark.kind === "incident") above.append(pointer(chart, run, mark));
        continue;
      }
      if (mark.kind === "attempt") {
        if (isSeen) inside.append(...attemptAt(chart, mark, free));
        if (isSeen) free = Math.max(free, chart.px(mark.step) + LABEL);
        continue;
      }
      if (mark.back !== null && mark.back < view.to && mark.step > view.from) inside.append(...wayBack(chart, mark));
      if (!isSeen) continue;
      inside.append(upright(chart, `mark ${mark.cause}`, mark.step));
      numbered.push(mark);
    }
  }
  // A run that went back may meet the next one earlier.
  numbered.sort((one, other) => one.step - other.step);
  const places = apart(numbered.map((mark) => chart.px(mark.step)), MARK, chart.width - 9);
  above.append(...numbered.map((mark, at) => badge(mark, places[at])));
  return above;
}

function upright(chart, kind, step) {
  const x = chart.px(step);
  return make("line", { class: kind, x1: x, x2: x, y1: EDGE.top - 8, y2: chart.height - EDGE.bottom });
}

function badge(mark, x) {
  const circle = make("circle", { cx: x, cy: 9, r: 8 });
  const number = make("text", { x, y: 13 }, String(mark.number));
  return make("g", { class: `marknumber ${mark.cause}` }, make("title", {}, mark.text), circle, number);
}

// Of several runs: whose incident it is, by the colour.
function pointer(chart, run, mark) {
  const path = `M${chart.px(mark.step) - 4} ${EDGE.top - 15}h8l-4 7Z`;
  return make("path", { class: `dot c${run.order % 8}`, d: path }, make("title", {}, `${run.label}: ${mark.text}`));
}

function attemptAt(chart, mark, free) {
  const place = { class: "attempttext", x: chart.px(mark.step) + 4, y: chart.height - EDGE.bottom - 6 };
  const line = upright(chart, "attempt", mark.step);
  return place.x < free ? [line] : [line, make("text", place, `attempt ${mark.number}`)];
}

// The steps that were done again, and the way back.
function wayBack(chart, mark) {
  const [x, back] = [chart.px(mark.step), chart.px(mark.back)];
  const height = chart.height - EDGE.bottom - EDGE.top + 8;
  const made = [make("rect", { class: `again ${mark.cause}`, x: back, width: Math.max(0, x - back), y: EDGE.top - 8, height })];
  made.push(upright(chart, `mark back ${mark.cause}`, mark.back));
  if (x - back > 14) made.push(make("path", { class: `arrow ${mark.cause}`, d: `M${x} ${EDGE.top - 3}H${back + 2}m6 -4l-6 4l6 4` }));
  return made;
}
