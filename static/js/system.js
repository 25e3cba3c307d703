// Mission Control itself: its processes and the sources of its pages, kept current in place.
import { attribute, field, text } from "./parts.js";
import { live } from "./shell.js";
import { icon, lost, time } from "./words.js";

const root = document.getElementById("system");

function setAge(cell, at) {
  const key = String(at ?? "");
  if (cell.dataset.key === key) return;
  cell.dataset.key = key;
  cell.replaceChildren(at ? time(at, "age") : "–");
}

function setWord(row, state, word) {
  attribute(row, "data-state", state);
  attribute(row.querySelector("use"), "href", icon(state));
  text(field(row, "word"), word);
}

live(["own"], ({ own, sources }) => {
  const rows = new Map([...root.querySelectorAll("tr[data-process]")].map((row) => [row.dataset.process, row]));
  if (Object.keys(own).some((name) => !rows.has(name))) {
    location.reload(); // A process was added: the server draws the new list.
    return;
  }
  for (const [name, row] of rows) {
    const part = own[name];
    row.hidden = !part;
    if (!part) continue;
    setWord(row, part.state, part.word);
    text(field(row, "why"), part.why);
    setAge(field(row, "since"), part.since);
    text(field(row, "starts"), String(part.starts));
    text(field(row, "lost"), lost(part));
  }
  for (const row of root.querySelectorAll("tr[data-source]")) {
    const source = sources[row.dataset.source];
    row.hidden = !source;
    if (!source) continue;
    setWord(row, source.stale ? "unknown" : "healthy", source.stale ? "stale" : "fresh");
    setAge(field(row, "as-of"), source.as_of);
    text(field(row, "why"), source.stale ?? "");
  }
});
