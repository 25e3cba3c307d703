// Replay: which part of the log, into whom, counted before it begins. Its progress is on the subscription's page.
import { faults, post } from "./actions.js";
import { AWAY } from "./jobs.js";
import { plural } from "./words.js";

const dialog = document.getElementById("replay");
const field = (name) => document.getElementById(`p-${name}`);
const plan = document.getElementById("replay-plan");
const trouble = document.getElementById("replay-error");
const go = document.getElementById("replay-go");
const follow = document.getElementById("replay-follow");
const COUNT = "Dry run first: it says how many events that is.";
let made = ""; // The new webhook, once there is one.

const kind = () => (made ? "webhook" : field("into").selectedOptions[0]?.dataset.kind ?? "");
const types = () => field("types").value.split(/[\s,]+/).filter(Boolean);
const moment = (name) => (field(name).value ? new Date(field(name).value).toISOString() : "");

function part() {
  const said = {
    types: types(),
    stream: field("stream").value.trim(),
    key: field("key").value.trim(),
    since: moment("since"),
    until: moment("until"),
    after: field("after").value,
    to: field("to").value,
  };
  return Object.fromEntries(Object.entries(said).filter(([, value]) => value.length));
}

function body(dry) {
  const into = made || field("into").value;
  return {
    ...(into ? { subscription: into } : {}),
    filter: part(),
    rate: Number(field("rate").value) || 0,
    canary: Number(field("canary").value) || 0,
    again: kind() === "internal" && field("again").checked,
    note: field("note").value.trim(),
    dry_run: dry,
  };
}

function complain(words) {
  trouble.textContent = words;
  trouble.hidden = !words;
}

/** What was counted no longer holds. */
function changed() {
  for (const one of dialog.querySelectorAll("[data-new]")) one.hidden = kind() !== "new";
  for (const name of ["name", "url"]) field(name).required = kind() === "new";
  dialog.querySelector("[data-again]").hidden = kind() !== "internal";
  go.disabled = true;
  plan.textContent = COUNT;
}

async function ask(address, said) {
  const answer = await post(address, said, dialog);
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) complain(faults(found, answer.status));
  return answer.ok ? found : null;
}

async function count() {
  const found = await ask("/api/v1/events/jobs/replay", body(true));
  if (!found) return;
  const kinds = Object.entries(found.by_type).map(([type, number]) => `${number} × ${type}`).join(", ");
  plan.textContent = found.total ? `Dry run: ${plural(found.total, "event")} would be delivered once more (${kinds}).` : "Dry run: no event in the log matches.";
  go.disabled = !found.total;
}

/** The new webhook that the replay goes into; it gets what it wants from now on as well. */
async function make() {
  const wanted = { name: field("name").value.trim(), url: field("url").value.trim(), patterns: types(), start: "now" };
  const found = await ask("/api/v1/events/subscriptions", wanted);
  if (!found) return;
  made = found.name;
  const shown = document.getElementById("replay-secret");
  shown.querySelector("code").textContent = found.secret;
  shown.hidden = false;
}

async function begin() {
  if (kind() === "new") await make();
  if (kind() === "new") return;
  const job = await ask("/api/v1/events/jobs/replay", body(false));
  if (!job) return;
  const page = `/events/subscriptions/${encodeURIComponent(job.subscription)}/`;
  if (!made) {
    location.assign(page);
    return;
  }
  plan.textContent = `Job ${job.id} replays ${plural(job.total, "event")}. Keep the secret before you go on.`;
  go.hidden = true;
  follow.href = page;
  follow.hidden = false;
}

function open(button) {
  const given = JSON.parse(button.dataset.part);
  for (const one of dialog.querySelectorAll("input:not([type=hidden], [type=checkbox])")) one.value = one.defaultValue;
  for (const [name, value] of Object.entries(given)) field(name).value = [value].flat().join(" ");
  if (button.dataset.replay) field("into").value = button.dataset.replay;
  complain("");
  changed();
  dialog.returnValue = "";
  dialog.showModal();
}

/** Give every button below `root` that has data-replay its dialog. */
export function armReplay(root) {
  for (const button of root.querySelectorAll("button[data-replay]")) button.addEventListener("click", () => open(button));
}

dialog?.addEventListener("input", (event) => { if (event.target.closest("[data-counts]")) changed(); });
dialog?.querySelector("form").addEventListener("submit", async (event) => {
  const button = event.submitter;
  if (button?.value === "cancel") return;
  event.preventDefault();
  complain("");
  button.disabled = true;
  try {
    await (button.value === "go" ? begin() : count());
  } catch {
    complain(AWAY);
  } finally {
    if (button.value !== "go" || !trouble.hidden) button.disabled = false;
  }
});
