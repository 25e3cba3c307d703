// Fill the parts that templates/parts draws: one place that knows which element shows which value.
import { allLost, barWords, breaker, icon, limited, milliseconds, percent, rate, spark, STATE_WORDS, time, up } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";

export const field = (root, name) => root.querySelector(`[data-f="${name}"]`);

export function text(element, value) {
  if (element && element.textContent !== value) element.textContent = value;
}

export function attribute(element, name, value) {
  if (element && element.getAttribute(name) !== value) element.setAttribute(name, value);
}

export function setState(root, state) {
  for (const element of [root, field(root, "state")]) attribute(element, "data-state", state);
  const mark = field(root, "state");
  if (!mark) return;
  attribute(mark.querySelector("use"), "href", icon(state));
  text(mark.querySelector("span"), STATE_WORDS[state] ?? "Unknown");
}

export function svg(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

/** The numbers to show: what the gateway saw, or of a service that only reports, its own; undefined: not known. */
const seen = (service) => (service.reports ? service.own : service.red);

/** State, why, and the numbers of the last minute: whatever of them `root` shows. */
export function fillService(root, name, service) {
  setState(root, service.state);
  text(field(root, "why"), service.why ?? "");
  const red = seen(service) ?? {};
  const known = field(root, "not-known");
  if (known) {
    known.hidden = Boolean(seen(service));
    field(root, "red").hidden = !seen(service);
  }
  const turned = field(root, "chip-limited");
  if (turned) {
    text(turned, limited(service.red));
    turned.hidden = !service.red?.limited;
  }
  text(field(root, "rate"), rate(red.rate));
  text(field(root, "errors"), percent(red.error_rate));
  const errors = field(root, "errors");
  if (errors) {
    if (red.error_rate > 0.05) attribute(errors, "data-bad", "1");
    else errors.removeAttribute("data-bad");
  }
  for (const what of ["limited", "refused"]) text(field(root, `count-${what}`), service.red ? (service.red[what] ?? 0).toLocaleString("en") : "–");
  text(field(root, "p50"), milliseconds(red.p50_ms));
  text(field(root, "p95"), milliseconds(red.p95_ms));
  text(field(root, "p99"), milliseconds(red.p99_ms));
  text(field(root, "up"), up(service.instances, name));
  const chip = field(root, "breaker");
  if (chip) chip.hidden = Boolean(service.reports);
  attribute(chip, "data-state", service.breaker?.state ?? "");
  text(chip, breaker(service.breaker, name));
  fillSpark(field(root, "spark"), service.spark);
}

function fillSpark(element, rates) {
  if (!element) return;
  const points = spark(rates);
  attribute(element.querySelector("polyline"), "points", points);
  attribute(element.querySelector("polygon"), "points", points ? `0,26 ${points} 100,26` : "");
}

/** Mission Control's own parts. */
export function fillParts(root, own) {
  for (const row of root.querySelectorAll("[data-part]")) {
    const part = own[row.dataset.part];
    if (!part) continue;
    attribute(row, "data-state", part.state);
    attribute(row.querySelector("use"), "href", icon(part.state));
    text(field(row, "word"), part.word);
    attribute(row, "title", part.why ?? "");
  }
  text(field(root, "all-lost"), allLost(own));
}

export function fillBar(element, bar) {
  if (!element || !bar?.length) return;
  const key = bar.join();
  if (element.dataset.key === key) return;
  element.dataset.key = key;
  const step = 100 / bar.length;
  element.replaceChildren(...bar.map((worst, n) => svg("rect", {
    x: `${(n * step).toFixed(2)}%`, y: 0, width: `${(step * 0.8).toFixed(2)}%`, height: "100%", rx: 1.5, class: worst,
  })));
  element.setAttribute("aria-label", barWords(bar));
}

/** "3 s ago · 1.2 ms", whose age the shell keeps current. */
export function fillCheck(element, instance) {
  if (!element) return;
  if (!instance.checked_at) {
    text(element, "not checked");
    return;
  }
  const key = `${instance.checked_at} ${instance.latency_ms}`;
  if (element.dataset.key === key) return;
  element.dataset.key = key;
  const took = instance.latency_ms === undefined ? "" : ` · ${milliseconds(instance.latency_ms)} ms`;
  element.replaceChildren(time(instance.checked_at, "age"), took);
}

export function fillInstances(list, instances) {
  if (!list) return;
  const rows = new Map([...list.children].map((row) => [row.dataset.instance, row]));
  for (const [name, instance] of Object.entries(instances ?? {})) {
    const row = rows.get(name) ?? newInstance(list, name);
    rows.delete(name);
    attribute(row, "data-state", instance.state);
    attribute(row.querySelector("use"), "href", icon(instance.state));
    text(field(row, "what"), instance.state);
    fillCheck(field(row, "check"), instance);
    attribute(row, "title", instance.detail ?? "");
  }
  for (const row of rows.values()) row.remove();
}

function newInstance(list, name) {
  const row = document.createElement("li");
  row.dataset.instance = name;
  const mark = svg("svg", { class: "icon", "aria-hidden": "true" });
  mark.append(svg("use", { href: icon("unknown") }));
  const words = document.createElement("span");
  const bold = document.createElement("b");
  bold.textContent = name;
  const what = document.createElement("span");
  what.className = "what";
  what.dataset.f = "what";
  words.append(bold, " ", what);
  const check = document.createElement("span");
  check.className = "check";
  check.dataset.f = "check";
  row.append(mark, words, check);
  list.append(row);
  return row;
}
