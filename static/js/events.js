// The event stream: rows that come are put on top, unless the reader holds still or looks at another time.
import { armReplay } from "./replay.js";
import { live } from "./shell.js";
import { plural, tellTimes } from "./words.js";

const root = document.getElementById("events");
const body = root.querySelector("tbody");
const table = root.querySelector("table");
const none = document.getElementById("none");
const news = document.getElementById("news");
const pause = document.getElementById("pause");
const form = document.getElementById("filters");
const end = document.getElementById("head");
const MOST = 300; // Rows kept on the page.
const tails = root.dataset.tails === "1";
let shown = Number(root.dataset.head); // The position up to which the page has asked.
let newest = shown;
let asking = false;
let paused = false;

function say(words) {
  news.hidden = !words;
  const line = news.querySelector("span");
  if (line.textContent !== words) line.textContent = words;
}

async function fetchNews() {
  if (asking || paused || newest <= shown || document.hidden) return;
  asking = true;
  try {
    const answer = await fetch(`/events/rows/?${root.dataset.query ? `${root.dataset.query}&` : ""}after=${shown}`);
    if (!answer.ok) return;
    const box = document.createElement("tbody");
    box.innerHTML = await answer.text();
    shown = Number(answer.headers.get("X-Position"));
    const skipped = Number(answer.headers.get("X-Skipped"));
    const rows = [...box.rows];
    if (!rows.length) return;
    for (const row of rows) row.classList.add("new");
    body.prepend(...rows);
    while (body.rows.length > MOST) body.lastElementChild.remove();
    table.hidden = false;
    none.hidden = true;
    say(skipped ? `${plural(skipped, "event")} more came at once and are not shown: reload to page through them.` : "");
    document.getElementById("resume").hidden = true;
    tellTimes(body);
  } catch {
    // The live indicator says that the server can't be reached; the next frame asks again.
  } finally {
    asking = false;
  }
}

function hold(on) {
  paused = on;
  pause.textContent = on ? "Resume" : "Pause";
  pause.setAttribute("aria-pressed", String(on));
  if (!on) {
    say("");
    fetchNews();
  }
}

live(["events"], (state) => {
  const head = state.events?.head;
  if (head === undefined) return;
  if (head < newest) shown = Math.min(shown, head); // Another database than before.
  newest = head;
  end.textContent = newest.toLocaleString("en");
  if (!tails) return;
  if (paused && newest > shown) {
    say(`${plural(newest - shown, "event")} since you paused.`);
    document.getElementById("resume").hidden = false;
  }
  fetchNews();
});

armReplay(document);
pause?.addEventListener("click", () => hold(!paused));
document.getElementById("resume").addEventListener("click", () => hold(false));
document.addEventListener("visibilitychange", fetchNews);

// What is not asked for stays out of the address.
form.addEventListener("submit", () => {
  for (const input of form.querySelectorAll("input, select")) input.disabled = !input.value;
});
addEventListener("pageshow", () => {
  for (const input of form.querySelectorAll("input, select")) input.disabled = false;
});
