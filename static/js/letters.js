// Dead letters: redrive with a dry run and a canary, edit and retry, discard; groups and jobs drawn anew as they change.
import { arm, armDialog, faults, post } from "./actions.js";
import { beside, isObject, parse } from "./exact.js";
import { refresh } from "./fragments.js";
import { AWAY, armJobs, watchJobs } from "./jobs.js";
import { live } from "./shell.js";
import { plural, tellTimes } from "./words.js";

const dialog = document.getElementById("redrive");
const plan = document.getElementById("redrive-plan");
const trouble = document.getElementById("redrive-error");
let chosen = null;
let known = "";

// -- what is there now ---------------------------------------------------------------------

function draw() {
  refresh((part) => { armAll(part); tellTimes(part); });
}

live(["events"], ({ events = {} }) => {
  const now = ["failed", "retrying", "redriving", "parked"].map((name) => events[name]).join();
  if (known && now !== known) draw();
  known = now;
});
watchJobs(draw);

// -- redrive ------------------------------------------------------------------------------------

function body(dry) {
  return {
    subscription: chosen.dataset.redrive,
    filter: JSON.parse(chosen.dataset.filter),
    canary: Number(document.getElementById("r-canary").value) || 0,
    rate: Number(document.getElementById("r-rate").value) || 0,
    note: document.getElementById("r-note").value.trim(),
    dry_run: dry,
  };
}

function complain(words) {
  trouble.textContent = words;
  trouble.hidden = !words;
}

async function send(dry) {
  complain("");
  try {
    const answer = await post("/api/v1/events/jobs/redrive", body(dry), dialog);
    const found = await answer.json().catch(() => ({}));
    if (!answer.ok) {
      complain(faults(found, answer.status));
    } else if (dry) {
      const kinds = Object.entries(found.by_type).map(([type, count]) => `${count.toLocaleString("en")} × ${type}`).join(", ");
      const waiting = found.waiting ? ` ${plural(found.waiting, "event")} behind them would follow.` : "";
      const busy = found.redriving ? ` ${plural(found.redriving, "letter")} of others' jobs are left alone.` : "";
      plan.textContent = found.total ? `Dry run: ${plural(found.total, "letter")} would be tried (${kinds}).${waiting}${busy}` : `Dry run: nothing would be tried.${busy}`;
      document.getElementById("redrive-go").disabled = !found.total;
    } else {
      dialog.close("done");
      if (document.getElementById("jobs")) draw();
      else location.assign("/events/dead-letters/");
    }
  } catch {
    complain(AWAY);
  }
}

function open(button) {
  chosen = button;
  document.getElementById("redrive-what").textContent = `Tried once more, in order within each key: ${button.dataset.what}.`;
  document.getElementById("redrive-go").disabled = true;
  plan.textContent = "Looking…";
  dialog.returnValue = "";
  dialog.showModal();
  send(true);
}

dialog.querySelector("form").addEventListener("submit", (event) => {
  if (event.submitter?.value === "cancel") return;
  event.preventDefault();
  send(event.submitter?.value !== "go");
});

function armAll(root) {
  arm(root);
  for (const button of root.querySelectorAll("button[data-redrive]")) button.addEventListener("click", () => open(button));
  armJobs(root, draw);
  root.querySelector("#edit-open")?.addEventListener("click", () => document.getElementById("edit").showModal());
}

armAll(document);
armDialog();

// -- edit and retry -------------------------------------------------------------------------

const edit = document.getElementById("edit");
const same = (left, right) => JSON.stringify(left) === JSON.stringify(right);

function* differences(before, after, pointer = "") {
  if (same(before, after)) return;
  if (isObject(before) && isObject(after)) {
    for (const key of new Set([...Object.keys(before), ...Object.keys(after)])) {
      yield* differences(before[key], after[key], `${pointer}/${key.replaceAll("~", "~0").replaceAll("/", "~1")}`);
    }
  } else {
    yield [pointer || "/", before, after];
  }
}

function drawDifference() {
  const table = document.getElementById("edit-diff");
  const yes = document.getElementById("edit-yes");
  const word = document.getElementById("edit-same");
  let data;
  try {
    data = parse(document.getElementById("e-data").value);
  } catch (error) {
    word.textContent = `This is not JSON: ${error.message}.`;
    word.hidden = false;
    yes.disabled = true;
    return;
  }
  const rows = [...differences(parse(document.getElementById("edit-before").textContent), data)];
  word.textContent = "Nothing yet.";
  word.hidden = rows.length > 0;
  yes.disabled = rows.length === 0;
  table.replaceChildren(...rows.slice(0, 200).map(([pointer, before, after]) => {
    const row = document.createElement("tr");
    for (const [value, name] of [[pointer, ""], [before === undefined ? "–" : JSON.stringify(before), "before"], [after === undefined ? "–" : JSON.stringify(after), "after"]]) {
      const code = document.createElement("code");
      code.className = name;
      code.textContent = value;
      row.insertCell().append(code);
    }
    return row;
  }));
}

if (edit) {
  document.getElementById("e-data").addEventListener("input", drawDifference);
  drawDifference();
  edit.querySelector("form").addEventListener("submit", async (event) => {
    if (event.submitter?.value !== "yes") return;
    event.preventDefault();
    const error = document.getElementById("edit-error");
    error.hidden = true;
    event.submitter.disabled = true;
    try {
      const note = document.getElementById("e-note").value.trim();
      const answer = await post(edit.dataset.post, beside({ note }, "data", document.getElementById("e-data").value), edit);
      const found = await answer.json().catch(() => ({}));
      if (answer.ok) {
        location.assign(`/events/dead-letters/${found.id}/`);
        return;
      }
      error.textContent = faults(found, answer.status);
    } catch {
      error.textContent = AWAY;
    }
    error.hidden = false;
    event.submitter.disabled = false;
  });
}
