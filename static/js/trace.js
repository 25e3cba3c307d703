// One trace: choose a span by click, arrow keys or address, and read what it carries.
import { live } from "./shell.js";
import { clock, milliseconds } from "./words.js";

live([]);

const rows = [...document.querySelectorAll("button.span")];
const panel = document.getElementById("detail");
const details = JSON.parse(document.getElementById("span-details")?.textContent ?? "{}");

const make = (tag, content, name = "") => {
  const element = document.createElement(tag);
  if (content !== undefined) element.textContent = content;
  if (name) element.className = name;
  return element;
};

function table(title, pairs) {
  const entries = Object.entries(pairs ?? {});
  if (!entries.length) return [];
  const body = make("table");
  for (const [key, value] of entries.sort(([a], [b]) => (a < b ? -1 : 1))) {
    const row = body.insertRow();
    const head = make("th", key);
    head.scope = "row";
    row.append(head);
    row.insertCell().textContent = typeof value === "object" ? JSON.stringify(value) : value;
  }
  const box = make("div");
  box.append(make("h4", title), body);
  return [box];
}

function events(list) {
  if (!list?.length) return [];
  const box = make("div");
  box.append(make("h4", "Events"));
  for (const event of list) {
    const at = event.at ?? event.time;
    box.append(make("p", `${typeof at === "number" ? `${clock(at, "seconds")} ` : ""}${event.name ?? ""}`));
    box.append(...table("", event.attributes));
  }
  return [box];
}

function choose(row, { focus = false, record = true } = {}) {
  const id = row.id.slice(2);
  const span = details[id];
  if (!span) return;
  for (const other of rows) other.setAttribute("aria-pressed", String(other === row));
  if (focus) row.focus();
  if (record) history.replaceState(null, "", `#span=${id}`);
  panel.replaceChildren(
    make("h3", span.name),
    make("p", `${span.service} · ${span.kind.toLowerCase()} · starts at ${milliseconds(span.offset_ms)} ms, takes ${milliseconds(span.duration_ms)} ms`, "muted"),
    ...(span.message || /error/i.test(span.status) ? [make("p", span.message || "This span failed.", "notice error")] : []),
    ...table("Attributes", span.attributes),
    ...events(span.events),
    ...table("Resource", span.resource),
  );
}

function fromAddress() {
  const id = new URLSearchParams(location.hash.slice(1)).get("span");
  const row = (id && document.getElementById(`s-${id}`)) || null;
  if (row) {
    choose(row, { record: false });
    row.scrollIntoView({ block: "nearest" });
  }
  return row;
}

rows.forEach((row, n) => {
  row.addEventListener("click", () => choose(row));
  row.addEventListener("keydown", (event) => {
    const to = { ArrowDown: n + 1, ArrowUp: n - 1, Home: 0, End: rows.length - 1 }[event.key];
    if (to === undefined || !rows[to]) return;
    event.preventDefault();
    choose(rows[to], { focus: true });
  });
});
addEventListener("hashchange", fromAddress);
if (rows.length && !fromAddress()) choose(rows.find((row) => row.querySelector(".icon")) ?? rows[0], { record: false });
