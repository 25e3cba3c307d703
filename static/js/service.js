// One service: its numbers live, its charts by Plotly, and the operator's buttons.
import { arm, armDialog } from "./actions.js";
import { field, fillService, setState, text } from "./parts.js";
import { live } from "./shell.js";
import { milliseconds, ownReport, time } from "./words.js";

const root = document.getElementById("service");
const name = root.dataset.service;
const EVERY = 15000;

function drawInstances(instances) {
  for (const row of root.querySelectorAll("tr[data-instance]")) {
    const instance = instances?.[row.dataset.instance];
    if (!instance) continue;
    setState(row, instance.state);
    text(field(row, "took"), milliseconds(instance.latency_ms));
    text(field(row, "detail"), instance.detail ?? "–");
    const check = field(row, "check");
    if (instance.checked_at && check.dataset.key !== String(instance.checked_at)) {
      check.dataset.key = instance.checked_at;
      check.replaceChildren(time(instance.checked_at, "age"));
    }
  }
}

function drawRoutes({ routes, red }) {
  for (const row of root.querySelectorAll("tr[data-route]")) {
    const seen = routes?.[row.dataset.route];
    const count = (what) => (red ? (seen?.[what] ?? 0).toLocaleString("en") : "–");
    text(field(row, "requests"), count("requests"));
    text(field(row, "failed"), count("errors"));
    text(field(row, "limited"), count("limited"));
    text(field(row, "refused"), count("refused"));
    text(field(row, "p95"), `${milliseconds(seen?.p95_ms)} ms`);
  }
}

live(["services"], ({ services }) => {
  const service = services[name] ?? { state: "unknown", why: "not known now", instances: {}, reports: true };
  fillService(root, name, service);
  text(field(root, "own-report"), ownReport(service));
  drawInstances(service.instances);
  drawRoutes(service);
});

// -- charts ---------------------------------------------------------------------------------------------------------

const token = (variable) => {
  // Resolve light-dark() to a colour that Plotly can read: the browser computes it for an element.
  const probe = document.createElement("span");
  probe.style.color = `var(${variable})`;
  document.body.append(probe);
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
};

function layout(data) {
  return {
    margin: { l: 44, r: 8, t: 8, b: 38 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 11, color: token("--muted") },
    xaxis: { type: "date", range: [new Date(data.since * 1000), new Date(data.until * 1000)], gridcolor: token("--line"), linecolor: token("--line"), fixedrange: true },
    yaxis: { rangemode: "tozero", gridcolor: token("--line"), zerolinecolor: token("--line"), fixedrange: true, nticks: 5 },
    legend: { orientation: "h", x: 1, xanchor: "right", y: 1.02, yanchor: "bottom", font: { size: 11 } },
    hovermode: "x unified",
    hoverlabel: { bgcolor: token("--surface"), bordercolor: token("--line-strong"), font: { color: token("--text") } },
    showlegend: true,
  };
}

const line = (x, y, title, colour, extra = {}) => ({
  x, y, name: title, type: "scatter", mode: "lines", connectgaps: false, line: { color: token(colour), width: 1.6, ...extra }, hovertemplate: "%{y:.3~g}",
});

let newest = null;

function draw() {
  if (!newest || !window.Plotly) return;
  const x = newest.at.map((at) => new Date(at * 1000));
  const config = { displayModeBar: false, responsive: true };
  window.Plotly.react("chart-rate", [
    { ...line(x, newest.rate, "requests", "--accent"), fill: "tozeroy", fillcolor: token("--raised") },
    line(x, newest.errors, "errors", "--bad", { dash: "dot" }),
  ], layout(newest), config);
  window.Plotly.react("chart-time", [
    line(x, newest.p50, "p50", "--s1c"), line(x, newest.p95, "p95", "--warn", { dash: "dash" }), line(x, newest.p99, "p99", "--bad", { dash: "dot" }),
  ], layout(newest), config);
}

function say(sentence) {
  for (const id of ["chart-rate", "chart-time"]) {
    const chart = document.getElementById(id);
    if (chart.classList.contains("js-plotly-plot")) window.Plotly.purge(chart);
    const words = document.createElement("p");
    words.className = "empty";
    words.textContent = sentence;
    chart.replaceChildren(words);
  }
}

async function load() {
  if (document.hidden) return;
  let answer;
  try {
    answer = await fetch(`/services/${name.split("/").map(encodeURIComponent).join("/")}/red.json?range=${root.dataset.range}`, { headers: { Accept: "application/json" } });
  } catch {
    return; // The indicator above says that the server is away; the charts keep what they have.
  }
  const data = await answer.json();
  if (data.error) {
    newest = null;
    say(data.error);
    return;
  }
  if (!data.at.length) {
    say("No request in this time. Send one through the gateway and it shows here in seconds.");
    return;
  }
  if (!newest) for (const id of ["chart-rate", "chart-time"]) document.getElementById(id).replaceChildren();
  newest = data;
  draw();
}

addEventListener("themechange", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
document.addEventListener("visibilitychange", load);
setInterval(load, EVERY);
load();
arm(root);
armDialog();
