// What every page has: theme, local times, the live indicator, and the count of failing services.
import { Live } from "./live.js";
import { ago, clock, learnClock, tellTimes } from "./words.js";

const indicator = document.getElementById("live");
const word = document.getElementById("live-word");
const age = document.getElementById("live-age");
const failing = document.querySelector('[data-f="failing-count"]');
const banner = document.getElementById("lost");
const LOST = 8000; // Milliseconds without a frame after which what is shown is the past.
const WORDS = { start: "Connecting", on: "Live", late: "Late", off: "Reconnecting" };

document.getElementById("theme")?.addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try { localStorage.setItem("mc-theme", root.dataset.theme); } catch { /* it holds for this page at least */ }
  dispatchEvent(new Event("themechange"));
});

tellTimes();
setInterval(tellTimes, 1000);

function link(state, milliseconds, at, onLost) {
  indicator.dataset.live = state;
  const lost = milliseconds > LOST;
  document.body.classList.toggle("stale", lost);
  if (word.textContent !== WORDS[state]) word.textContent = WORDS[state];
  const seconds = milliseconds / 1000;
  const text = state === "start" ? "" : `· ${seconds < 10 ? `${seconds.toFixed(1)} s` : ago(seconds)} old`;
  if (age.textContent !== text) age.textContent = text;
  if (banner.hidden === lost) banner.hidden = !lost;
  if (!lost) return;
  const last = at ? `last known at ${clock(at, "seconds")}, ${ago(seconds)} ago` : "nothing was heard since this page was opened";
  const sentence = `Live feed lost: ${last}. What stands below is the past.`;
  if (banner.lastElementChild.textContent !== sentence) banner.lastElementChild.textContent = sentence;
  onLost?.(at);
}

function count(services) {
  if (!failing || !services) return;
  const bad = Object.values(services).filter((service) => service.state === "failing").length;
  failing.hidden = bad === 0;
  failing.textContent = bad ? String(bad) : "";
  failing.setAttribute("aria-label", `${bad} failing`);
}

/** Connect the page; `render(state)` is called after every frame, `onLost(at)` while none comes. */
export function live(topics, render, onLost) {
  let heardAt = 0; // The server's time of the newest frame.
  return new Live({
    topics: [...new Set(["services", ...topics])],
    onLink: (state, milliseconds) => link(state, milliseconds, heardAt, onLost),
    onState(state, at) {
      heardAt = at;
      learnClock(at);
      count(state.services);
      render?.(state);
      tellTimes();
    },
  });
}
