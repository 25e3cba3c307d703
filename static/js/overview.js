// The overview: verdict, what changed, tiles worst first, who is affected.
import { attribute, field, fillBar, fillInstances, fillParts, fillService, svg, text } from "./parts.js";
import { live } from "./shell.js";
import { affected as got, affectedTotal, ago, changesWords, clock, icon, labels, nobody, RANK, serverNow, time } from "./words.js";

const verdict = document.getElementById("verdict");
const tiles = document.getElementById("tiles");
const changes = document.getElementById("changes");
const affected = document.getElementById("affected");
const plane = document.getElementById("plane");
const bus = document.getElementById("bus");
const blind = document.getElementById("blind");
const template = document.getElementById("tile");

const url = (name) => (name === "gateway" ? "/gateway/" : `/services/${name.split("/").map(encodeURIComponent).join("/")}/`);

function drawVerdict(now, sources) {
  attribute(verdict, "data-state", now.state);
  attribute(verdict.querySelector(".sign use"), "href", `#s-${now.state}`);
  text(field(verdict, "title"), now.title);
  text(field(verdict, "detail"), now.detail ?? "");
  const since = field(verdict, "since");
  const key = String(now.since ?? "");
  if (since.dataset.key !== key) {
    since.dataset.key = key;
    since.replaceChildren(...(now.since ? [" since ", time(now.since), " (", time(now.since, "age"), ")"] : []));
  }
  field(verdict, "failed").hidden = !now.failed && !now.services?.length;
  drawMend(now.mend ?? []);
  const open = field(verdict, "open");
  const first = now.services?.[0];
  open.hidden = !first;
  if (first) {
    attribute(open, "href", url(first));
    text(field(open, "first"), first);
  }
  drawBlind(now);
  drawAffected(now, sources);
}

/** Where what is told is mended. */
function drawMend(links) {
  const place = field(verdict, "mend");
  const key = JSON.stringify(links);
  if (place.dataset.key === key) return;
  place.dataset.key = key;
  place.replaceChildren(...links.map(({ title, url: href }) => {
    const link = document.createElement("a");
    link.className = "button";
    link.href = href;
    link.textContent = title;
    return link;
  }));
}

function drawBlind({ state, blind: sentences = [] }) {
  // A verdict that is about one reason says it all itself.
  blind.hidden = sentences.length <= (state === "unknown" ? 1 : 0);
  const key = sentences.join("\n");
  if (blind.dataset.key === key) return;
  blind.dataset.key = key;
  field(blind, "blind").replaceChildren(...sentences.map((sentence) => {
    const line = document.createElement("li");
    line.textContent = sentence;
    return line;
  }));
}

function drawAffected(now, sources) {
  const rows = now.affected ?? [];
  const table = affected.querySelector("table");
  table.hidden = !rows.length;
  field(affected, "nobody").hidden = rows.length > 0;
  text(field(affected, "nobody"), nobody(now, sources));
  text(field(affected, "total"), affectedTotal(now));
  const seen = JSON.stringify(rows);
  if (table.dataset.key === seen) return;
  table.dataset.key = seen;
  table.tBodies[0].replaceChildren(...rows.map((row) => {
    const line = document.createElement("tr");
    const link = document.createElement("a");
    const only = row.failed === undefined ? {} : { errors: "1" };
    link.href = `/traces/?${new URLSearchParams({ ...only, service: "gateway", name: row.path, range: "15m" })}`;
    const code = document.createElement("code");
    code.textContent = row.path;
    link.append(code);
    line.insertCell().append(link);
    line.insertCell().append(row.consumer || "no key");
    const number = line.insertCell();
    number.className = "num";
    number.append(got(row));
    return line;
  }));
}

function drawChanges(changed) {
  const list = changed.recent;
  const ribbon = field(changes, "ribbon");
  const now = serverNow();
  const minute = Math.floor(now / 15);
  const key = `${minute} ${changed.total} ${list.map((change) => change.id).join()}`;
  if (ribbon.dataset.key === key) return;
  ribbon.dataset.key = key;
  ribbon.querySelectorAll("svg, text").forEach((mark) => mark.remove());
  const places = [];
  for (const change of list) {
    const x = Math.min(100, 100 - (now - change.at) / 36);
    if (x < 0) continue;
    places.push([x, change.title]);
    const mark = svg("svg", { x: `${x.toFixed(2)}%`, y: 4, width: 11, height: 11, overflow: "visible", "data-kind": change.kind });
    const title = svg("title", {});
    title.textContent = `${change.title}, ${ago(now - change.at)} ago`;
    mark.append(title, svg("use", { href: icon(change.kind), x: -5.5, y: 0, width: 11, height: 11, color: "var(--tone)" }));
    ribbon.append(mark);
  }
  for (const [x, anchor, title] of labels(places, 720 / Math.max(ribbon.clientWidth, 1))) {
    const label = svg("text", { x: `${x.toFixed(2)}%`, y: 32, "text-anchor": anchor });
    label.textContent = title;
    ribbon.append(label);
  }
  text(field(changes, "count"), changesWords(changed));
  field(changes, "list").replaceChildren(...list.map((change) => {
    const row = document.createElement("li");
    row.dataset.kind = change.kind;
    const at = document.createElement("span");
    at.className = "muted";
    at.append(time(change.at));
    const mark = svg("svg", { class: "icon", "aria-hidden": "true" });
    mark.append(svg("use", { href: icon(change.kind) }));
    const words = document.createElement("span");
    words.append(change.title);
    if (change.detail) {
      const why = document.createElement("span");
      why.className = "muted";
      why.textContent = ` · ${change.detail}`;
      words.append(why);
    }
    row.append(at, mark, words);
    return row;
  }));
}

function newTile(name, service) {
  const tile = template.content.firstElementChild.cloneNode(true);
  tile.dataset.service = name;
  tile.href = url(name);
  field(tile, "instances").replaceChildren();
  if (name === "gateway" || service.reports) field(tile, "bar").remove();
  return tile;
}

function drawTiles(services) {
  const have = new Map([...tiles.children].map((tile) => [tile.dataset.service, tile]));
  const order = Object.entries(services).sort(([a, x], [b, y]) => RANK[x.state] - RANK[y.state] || (a === "gateway") - (b === "gateway") || (a < b ? -1 : 1));
  let before = null;
  for (const [name, service] of order) {
    const tile = have.get(name) ?? newTile(name, service);
    have.delete(name);
    text(field(tile, "title"), name);
    fillService(tile, name, service);
    fillBar(field(tile, "bar"), service.bar);
    fillInstances(field(tile, "instances"), service.instances);
    const right = before ? before.nextElementSibling : tiles.firstElementChild;
    if (right !== tile) tiles.insertBefore(tile, right); // Moved only when the order has changed.
    before = tile;
  }
  for (const tile of have.values()) tile.remove();
  document.getElementById("nothing").hidden = order.length > 1;
}

function drawPlane(gateway) {
  const workers = Object.values(gateway.workers ?? {});
  const on = workers.filter((worker) => worker.revision === gateway.revision).length;
  text(field(plane, "revision"), String(gateway.revision ?? "–"));
  text(field(plane, "acked"), workers.length ? `${on} of ${workers.length}` : "–");
  text(field(plane, "dropped"), (gateway.dropped ?? 0).toLocaleString("en"));
}

function drawBus(events = {}) {
  for (const name of ["failed", "keys", "waiting", "lag"]) text(field(bus, name), events[name]?.toLocaleString("en") ?? "–");
}

/** The feed is lost: what stands here is the past, and the verdict says so in place of what it last said. */
function drawLost(at) {
  if (verdict.dataset.lost) return;
  verdict.dataset.lost = "1";
  const last = `Last known${at ? ` at ${clock(at, "seconds")}` : ""}: ${field(verdict, "title").textContent}`;
  drawVerdict({ state: "unknown", title: "Not known: the live feed is lost", detail: last }, {});
}

live(["verdict", "services", "gateway", "changes", "own", "events"], (state) => {
  delete verdict.dataset.lost;
  drawVerdict(state.verdict, state.sources);
  drawTiles(state.services);
  drawChanges(state.changes);
  drawPlane(state.gateway);
  drawBus(state.events);
  fillParts(document, state.own ?? {});
}, drawLost);
