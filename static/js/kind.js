// A type's next schema: try what would come of it, or register it; a refusal names who would break.
import { beside } from "./exact.js";
import { armReplay } from "./replay.js";
import { live } from "./shell.js";

live([]);
armReplay(document);

const form = document.getElementById("schema");
const said = document.getElementById("schema-said");

function say(bad, ...lines) {
  said.classList.toggle("error", bad);
  said.replaceChildren(...lines.map((line) => {
    const paragraph = document.createElement("p");
    paragraph.textContent = line;
    return paragraph;
  }));
  said.hidden = false;
}

function broken(verdict) {
  const consumers = verdict?.consumers ?? [];
  const lines = consumers.filter((one) => one.breaks.length)
    .map((one) => `${one.name} would break: at ${one.breaks[0].path || "the root"}, ${one.breaks[0].detail}.`);
  const fine = consumers.filter((one) => !one.breaks.length).map((one) => one.name);
  if (fine.length) lines.push(`Can live with it: ${fine.join(", ")}.`);
  return lines;
}

async function send(dry) {
  let body;
  try {
    body = beside({ dry_run: dry, reason: document.getElementById("f-reason").value }, "schema", document.getElementById("f-schema").value);
  } catch (error) {
    say(true, `This is not JSON: ${error.message}.`);
    return;
  }
  const answer = await fetch(form.dataset.post, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-CSRFToken": form.querySelector("[name=csrfmiddlewaretoken]").value },
    body,
  });
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    const fields = Object.entries(found.errors ?? {}).map(([name, words]) => `${name}: ${JSON.stringify(words)}`);
    say(true, `Refused: ${found.detail ?? `the server answered ${answer.status}.`}`, ...fields, ...broken(found.verdict));
  } else if (found.registered) {
    location.assign(`${location.pathname}?version=${found.version}`);
  } else if (dry) {
    const fits = found.verdict.compatible;
    const verdict = fits ? `It would be version ${found.version}, and nobody would break.` : `It would be refused as version ${found.version}: it is not ${found.verdict.mode.replaceAll("_", " ")} compatible.`;
    const first = found.verdict.breaks[0];
    say(!fits, verdict, ...(first ? [`At ${first.path || "the root"}: ${first.detail}.`] : []), ...broken(found.verdict));
  } else {
    say(false, `Version ${found.version} says the same already.`);
  }
}

form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const buttons = form.querySelectorAll("button");
  for (const button of buttons) button.disabled = true;
  try {
    await send(event.submitter?.value !== "register");
  } catch {
    say(true, "The server can't be reached. Nothing is changed as far as this page knows.");
  } finally {
    for (const button of buttons) button.disabled = false;
  }
});
