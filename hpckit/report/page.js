"use strict";
// Puts the charts in their places, follows the window, the theme and the printer.

function build() {
  for (const about of DATA.charts) {
    const group = document.getElementById(`charts-${about.section}`);
    if (!group) continue;
    group.hidden = false;
    const chart = new Chart(about, group.querySelector(".charts"));
    charts.push(chart);
    listen(chart);
  }
  const gradients = document.getElementById("charts-gradients");
  for (const about of DATA.heats) {
    gradients.hidden = false;
    const place = gradients.querySelector(".charts");
    const heat = new Heat(about, place);
    heats.push(heat);
    // Beneath the norm of the same optimizer.
    const norm = charts.find((chart) => chart.about.id === `grad/norm/${about.optimizer}`);
    if (norm) norm.figure.after(heat.figure);
  }
  // So many columns that no row is nearly empty.
  for (const place of document.querySelectorAll(".charts")) {
    const narrow = place.querySelectorAll(".chart:not(.wide)").length;
    place.dataset.columns = narrow < 2 ? 1 : narrow === 2 || narrow === 4 ? 2 : 3;
  }
}

function theme() {
  const root = document.documentElement;
  const key = "hpckit-report-theme";
  // A file that is opened from a disk may have no storage.
  try {
    if (localStorage.getItem(key)) root.dataset.theme = localStorage.getItem(key);
  } catch {}
  document.getElementById("theme").addEventListener("click", () => {
    const isDark = (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
    root.dataset.theme = isDark ? "light" : "dark";
    try {
      localStorage.setItem(key, root.dataset.theme);
    } catch {}
    for (const heat of heats) heat.draw();
  });
}

theme();
if (document.getElementById("shown")) {
  build();
  redraw();
  document.getElementById("reset").addEventListener("click", zoomOut);
  document.addEventListener("keydown", (event) => event.key === "Escape" && zoomOut());
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    redraw();
  });
  // On paper all is open, and drawn as wide as the paper is.
  matchMedia("print").addEventListener("change", redraw);
}
let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  for (const each of closed) each.open = true;
  // Now, not when the event of having been opened comes: the pages are counted before that.
  for (const each of [...charts, ...heats]) each.fill();
});
addEventListener("afterprint", () => {
  for (const each of closed) each.open = false;
});
document.documentElement.dataset.drawn = "yes";
