// How the pages say things: the browser's twin of apps/dashboard/words.py.

export const STATE_WORDS = {
  healthy: "Healthy", degraded: "Degraded", failing: "Failing", unhealthy: "Unhealthy", maintenance: "Maintenance",
  drained: "Drained", unknown: "Unknown", closed: "Closed", open: "Open", half_open: "Half-open", gone: "Gone",
  setup: "Setting up", reports: "Reports only", ejected: "Ejected",
};
const ICONS = {
  healthy: "healthy", closed: "healthy", ok: "healthy", degraded: "degraded", half_open: "degraded", warn: "degraded",
  failing: "failing", unhealthy: "failing", open: "failing", bad: "failing",
  maintenance: "maintenance", drained: "maintenance", deploy: "deploy", info: "deploy", setup: "setup", reports: "reports", ejected: "degraded",
};
export const RANK = { failing: 0, degraded: 1, unknown: 2, setup: 3, maintenance: 4, healthy: 5, reports: 6 };

export const icon = (state) => `#i-${ICONS[state] ?? "unknown"}`;

const grouped = (value) => Math.round(value).toLocaleString("en");

export function ago(seconds) {
  seconds = Math.max(0, seconds);
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 129600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

export function percent(share) {
  if (share === undefined || share === null) return "–";
  const value = share * 100;
  return value >= 9.95 ? `${value.toFixed(0)}%` : `${value.toFixed(1)}%`;
}

export function milliseconds(value) {
  if (value === undefined || value === null) return "–";
  return value < 9.95 ? value.toFixed(1) : grouped(value);
}

export function rate(value) {
  if (value === undefined || value === null) return "–";
  return value > 0 && value < 9.95 ? value.toFixed(1) : grouped(value);
}

export const plural = (count, noun) => `${grouped(count)} ${noun}${count === 1 ? "" : "s"}`;

export function breaker(state, name) {
  if (name === "gateway") return "data plane";
  if (!state) return "breaker not known";
  const word = { closed: "closed", open: "open", half_open: "half-open" }[state.state] ?? state.state;
  if (state.forced) return `breaker held ${word}`;
  if (state.state === "open" && state.retry_at) {
    const left = state.retry_at - serverNow();
    if (left > 0.5) return `breaker open · ${Math.ceil(left)} s to trial`;
  }
  return `breaker ${word}`;
}

export function up(instances, name) {
  const all = Object.values(instances ?? {});
  if (name === "gateway") return plural(all.length, "worker");
  if (!all.length) return "no instance";
  const wanted = all.filter((instance) => instance.state !== "drained");
  const healthy = wanted.filter((instance) => instance.state === "healthy").length;
  const drained = all.length - wanted.length;
  return `${healthy} of ${wanted.length} up${drained ? `, ${drained} drained` : ""}`;
}

export function tally(services) {
  const counts = {};
  for (const service of Object.values(services)) counts[service.state] = (counts[service.state] ?? 0) + 1;
  const said = { setup: "setting up", reports: "reporting only" };
  return Object.keys(RANK).filter((state) => counts[state]).map((state) => `${counts[state]} ${said[state] ?? state}`).join(" · ");
}

/** What a registered service says of itself, beside what the gateway saw. */
export function ownReport(service) {
  if (service.own) return `By its own report: ${rate(service.own.rate)} /s, ${percent(service.own.error_rate)} errors, p95 ${milliseconds(service.own.p95_ms)} ms.`;
  return service.red ? "It has reported nothing of itself in the last minute." : "";
}

/** What a process dropped or refused: "12 spans dropped, 3 messages refused". */
export const lost = (part) => Object.entries(part.lost ?? {}).map(([what, count]) => `${grouped(count)} ${what}`).join(", ") || "nothing";

/** What all of Mission Control's processes dropped or refused lately, the most first. */
export function allLost(own) {
  const total = {};
  for (const part of Object.values(own ?? {})) {
    for (const [what, count] of Object.entries(part.lost ?? {})) total[what] = (total[what] ?? 0) + count;
  }
  const told = Object.entries(total).sort(([a, x], [b, y]) => y - x || (a < b ? -1 : 1)).map(([what, count]) => `${grouped(count)} ${what}`);
  return told.length ? `Last hour: ${told.slice(0, 3).join(", ")}.` : "Last hour: nothing lost or refused.";
}

export const limited = (red) => (red?.limited ? `${percent(red.limited / red.requests)} limited` : "");

export const affected = (row) => (row.failed === undefined
  ? `${grouped(row.limited)} limited${row.policy ? ` by ${row.policy}` : ""}` : `${grouped(row.failed)} failed`);

export function affectedTotal(verdict) {
  if (!verdict.failed) return "last 5 minutes";
  return `last 5 minutes: ${plural(verdict.failed, "request")} failed, of ${plural(verdict.failed_callers ?? 0, "caller")}`;
}

export function changesWords({ recent, total, cut }) {
  if (recent.length >= total) return plural(total, "change");
  return `the newest ${recent.length} of ${cut ? "over " : ""}${plural(total, "change")}`;
}

export function nobody(verdict, sources) {
  if (verdict.affected) return "Nobody: no request has failed.";
  const reason = sources?.telemetry?.stale ?? sources?.traffic?.stale;
  return reason ? `Not known: ${reason}.` : "Not known.";
}

export function spark(rates) {
  if (!rates || rates.length < 2) return "";
  const top = Math.max(...rates, 0.1);
  const step = 100 / (rates.length - 1);
  return rates.map((value, n) => `${(n * step).toFixed(1)},${(24.5 - (value / top) * 22).toFixed(1)}`).join(" ");
}

export function barWords(bar) {
  const count = (state) => bar.filter((worst) => worst === state).length;
  const parts = ["unhealthy", "degraded", "unknown"].filter(count).map((state) => `${count(state)} ${state}`);
  return `Health over time, ${bar.length} stretches: ${parts.length ? parts.join(", ") : "all healthy"}`;
}

/** Which marks of the ribbon get a label: the newest, and those with room beside it. `letter`: a letter's width, in percent. */
export function labels(marks, letter = 0.65) {
  const found = [];
  let taken = 1000;
  for (const [x, title] of [...marks].sort((a, b) => b[0] - a[0])) {
    const width = title.length * letter;
    const anchor = x + width / 2 > 100 ? "end" : x < width / 2 ? "start" : "middle";
    const left = x - { end: width, start: 0, middle: width / 2 }[anchor];
    if (left + width + 1.5 > taken) continue;
    found.push([x, anchor, title]);
    taken = left;
  }
  return found;
}

// -- time: ages are told by the server's clock, so that a browser whose clock is wrong still tells them right --------

let skew = 0;
export const learnClock = (serverAt) => { skew = serverAt - Date.now() / 1000; };
export const serverNow = () => Date.now() / 1000 + skew;

const two = (number) => String(number).padStart(2, "0");

export function clock(at, precision = "minutes") {
  const moment = new Date(at * 1000);
  const time = `${two(moment.getHours())}:${two(moment.getMinutes())}`;
  const far = Math.abs(Date.now() / 1000 - at) > 72000;
  const day = far ? `${moment.toLocaleDateString("en", { day: "numeric", month: "short" })} ` : "";
  return day + (precision === "seconds" ? `${time}:${two(moment.getSeconds())}` : time);
}

export const utc = (at) => `${new Date(at * 1000).toISOString().slice(0, 19).replace("T", " ")} UTC`;

/** Rewrite the text of every <time> below `root` whose turn it is; silent for screen readers. */
export function tellTimes(root = document) {
  const now = serverNow();
  for (const element of root.querySelectorAll("time[data-at]")) {
    const at = Number(element.dataset.at);
    const text = element.dataset.as === "age" ? ago(now - at) : clock(at, element.dataset.as);
    if (element.textContent !== text) element.textContent = text;
  }
}

/** A <time> element: `as` is "age", "minutes" or "seconds". */
export function time(at, as = "minutes") {
  const element = document.createElement("time");
  element.dataset.at = at;
  element.dataset.as = as;
  element.dateTime = new Date(at * 1000).toISOString();
  element.title = utc(at);
  element.textContent = as === "age" ? ago(serverNow() - at) : clock(at, as);
  return element;
}
