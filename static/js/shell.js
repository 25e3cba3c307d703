// What every page has: theme, local times, the live indicator, and the count of failing services.
import { Live } from "./live.js";
import { ago, learnClock, tellTimes } from "./words.js";

const indicator = document.getElementById("live");
const word = document.getElementById("live-word");
const age = document.getElementById("live-age");
const failing = document.querySelector('[data-f="failing-count"]');
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

function link(state, milliseconds) {
  indicator.dataset.live = state;
  document.body.classList.toggle("stale", milliseconds > 8000 && state !== "on");
  if (word.textContent !== WORDS[state]) word.textContent = WORDS[state];
  const seconds = milliseconds / 1000;
  const text = !Number.isFinite(seconds) ? "" : `· ${seconds < 10 ? `${seconds.toFixed(1)} s` : ago(seconds)} old`;
  if (age.textContent !== text) age.textContent = text;
}

function count(services) {
  if (!failing || !services) return;
  const bad = Object.values(services).filter((service) => service.state === "failing").length;
  failing.hidden = bad === 0;
  failing.textContent = bad ? String(bad) : "";
  failing.setAttribute("aria-label", `${bad} failing`);
}

/** Connect the page; `render(state)` is called after every frame. */
export function live(topics, render) {
  return new Live({
    topics: [...new Set(["services", ...topics])],
    onLink: link,
    onState(state, at) {
      learnClock(at);
      count(state.services);
      render?.(state);
      tellTimes();
    },
  });
}
