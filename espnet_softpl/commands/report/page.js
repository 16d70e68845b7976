"use strict";
const root = document.documentElement;
const charts = JSON.parse(document.getElementById("charts").textContent);
const places = [...document.querySelectorAll(".chart")];
const hidden = new Set(); // Systems.
let each = false; // Show each run of several seeds, not their mean.

function isShown({ meta }) {
  if (hidden.has(meta.system)) return false;
  return meta.kind === "run" ? each : !(each && /mean|band/.test(meta.kind));
}

function layoutOf(chart) {
  const page = getComputedStyle(document.body);
  const line = getComputedStyle(document.querySelector("nav ul")).borderTopColor;
  const axis = { gridcolor: line, zerolinecolor: line, automargin: true };
  return {
    height: 260, margin: { l: 44, r: 12, t: 26, b: 34 }, showlegend: false,
    modebar: { bgcolor: "rgba(0,0,0,0)", color: line, activecolor: page.color },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: page.color, family: page.fontFamily, size: 11 },
    hovermode: chart.x ? "x unified" : "closest", hoverlabel: { bgcolor: page.backgroundColor },
    // On a touch screen a finger scrolls the page; the chart's buttons zoom.
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    xaxis: { ...axis, title: { text: chart.x, standoff: 4 } }, yaxis: axis,
  };
}

// Also draws again: in other colors, or with other systems.
function draw(place) {
  const chart = charts[place.dataset.figure][place.dataset.index];
  const data = chart.data.map((trace) => ({ ...trace, visible: isShown(trace) }));
  const buttons = ["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"];
  const config = { responsive: true, displaylogo: false, modeBarButtons: [buttons] };
  Plotly.react(place, data, layoutOf(chart), config);
}

function drawAgain() {
  places.filter((place) => place.data).forEach(draw);
}

function press(button, action) {
  button.addEventListener("click", () => {
    const pressed = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", pressed);
    action(pressed);
    drawAgain();
  });
}

for (const button of document.querySelectorAll("button[data-system]")) {
  const system = button.dataset.system;
  press(button, (on) => (on ? hidden.delete(system) : hidden.add(system)));
}
const single = document.getElementById("each");
if (single) press(single, (on) => (each = on));
const theme = document.getElementById("theme");
const wished = matchMedia("(prefers-color-scheme: dark)");
theme.setAttribute("aria-pressed", wished.matches);
press(theme, (dark) => (root.dataset.theme = dark ? "dark" : "light"));
wished.addEventListener("change", () => {
  if (!root.dataset.theme) theme.setAttribute("aria-pressed", wished.matches);
  drawAgain();
});

// A table is sorted by a press on a column's head; what is no value comes last.
function valueOf(row, index) {
  const text = row.cells[index].innerText.trim();
  const number = text.match(/^[-+]?\d[\d.]*(e[-+]?\d+)?(?=$|\s|%)/);
  return number ? Number(number[0]) : text;
}

function order(a, b, sign) {
  const none = (value) => value === "–" || value === "";
  if (none(a) || none(b)) return none(a) - none(b);
  if (typeof a === "number" && typeof b === "number") return sign * (a - b);
  return sign * String(a).localeCompare(String(b), undefined, { numeric: true });
}

for (const head of document.querySelectorAll("table.sortable thead th")) {
  const button = document.createElement("button");
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const rising = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const body = head.closest("table").tBodies[0], index = head.cellIndex;
    const rows = [...body.rows].map((row) => [valueOf(row, index), row]);
    rows.sort(([a], [b]) => order(a, b, rising ? 1 : -1));
    body.append(...rows.map(([, row]) => row));
  });
}

// What is printed is drawn, and light.
let before;
addEventListener("beforeprint", () => {
  before = root.dataset.theme;
  root.dataset.theme = "light";
  places.forEach(draw);
});
addEventListener("afterprint", () => {
  if (before) root.dataset.theme = before;
  else delete root.dataset.theme;
  drawAgain();
});

async function start() {
  const packed = document.getElementById("plotly").textContent;
  const { body } = await fetch(`data:application/gzip;base64,${packed}`);
  const stream = body.pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
  // A chart is drawn when it comes near to what is seen.
  const watcher = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      watcher.unobserve(target);
      draw(target);
    }
  }, { rootMargin: "300px" });
  places.forEach((place) => watcher.observe(place));
}
const ready = start();
