// Jobs that redrive or replay: their buttons act at once, and what is under way is drawn anew while it is.
import { faults, post } from "./actions.js";

export const AWAY = "The server can't be reached. Nothing is changed as far as this page knows.";
const WATCH = 2000; // Milliseconds between two looks at what is under way: it may end between two counts.
const active = () => document.querySelector('[data-job-state="running"], [data-letter-state="redriving"]') !== null;

async function now(button, draw) {
  button.disabled = true;
  try {
    // Every page has a token in the form that logs out.
    const answer = await post(button.dataset.now, {}, document);
    if (!answer.ok) button.title = faults(await answer.json().catch(() => ({})), answer.status);
  } catch {
    button.title = AWAY;
  }
  button.blur();
  draw();
}

/** Give the buttons of every job below `root` their act; `draw` shows what came of it. */
export function armJobs(root, draw) {
  for (const button of root.querySelectorAll("button[data-now]")) button.addEventListener("click", () => now(button, draw));
}

/** Have `draw` called while something is under way; once a page. */
export function watchJobs(draw) {
  setInterval(() => { if (active()) draw(); }, WATCH);
}
