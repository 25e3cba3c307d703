// Subscriptions: kept current by what the live feed says of them, with their buttons and the form of a new webhook.
import { arm, armDialog } from "./actions.js";
import { refresh } from "./fragments.js";
import { armJobs, watchJobs } from "./jobs.js";
import { armReplay } from "./replay.js";
import { live } from "./shell.js";
import { tellTimes } from "./words.js";

let known = "";

function draw() {
  refresh((part) => { armAll(part); tellTimes(part); });
}

function armAll(root) {
  arm(root);
  armJobs(root, draw);
  armReplay(root);
}

live(["events"], (state) => {
  const now = JSON.stringify(state.events?.subscriptions ?? {});
  if (known && now !== known) draw();
  known = now;
});
watchJobs(draw);
armAll(document);
armDialog();

const dialog = document.getElementById("webhook");
document.getElementById("new")?.addEventListener("click", () => dialog.showModal());
dialog?.querySelector("form").addEventListener("submit", async (event) => {
  if (event.submitter?.value !== "yes") {
    if (!document.getElementById("webhook-secret").hidden) location.reload();
    return;
  }
  event.preventDefault();
  const form = event.target;
  const error = document.getElementById("webhook-error");
  const fields = Object.fromEntries(new FormData(form));
  delete fields.csrfmiddlewaretoken;
  fields.patterns = fields.patterns.split(/[\s,]+/).filter(Boolean);
  event.submitter.disabled = true;
  error.hidden = true;
  try {
    const answer = await fetch(form.dataset.post, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-CSRFToken": form.querySelector("[name=csrfmiddlewaretoken]").value },
      body: JSON.stringify(fields),
    });
    const found = await answer.json().catch(() => ({}));
    if (answer.ok) {
      const shown = document.getElementById("webhook-secret");
      shown.querySelector("code").textContent = found.secret;
      shown.hidden = false;
      document.getElementById("webhook-yes").hidden = true;
      return;
    }
    const faults = Object.entries(found.errors ?? {}).map(([name, words]) => `${name}: ${[words].flat().join(" ")}`);
    error.textContent = [found.detail ?? `The server answered ${answer.status}.`, ...faults].join(" ");
    error.hidden = false;
  } catch {
    error.textContent = "The server can't be reached. Nothing is changed as far as this page knows.";
    error.hidden = false;
  } finally {
    event.submitter.disabled = false;
  }
});
