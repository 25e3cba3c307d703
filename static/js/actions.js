// Buttons that act: ask once, with a reason, then POST to the REST API and show what it answers.
//
// data-act: where to; data-ask, data-tell, data-verb: what the dialog says; data-body: JSON that goes along;
// data-says: the field that the reason goes into; data-shows: fields of the answer that are shown before the page goes on.

const dialog = document.getElementById("confirm");

function ask(button) {
  document.getElementById("confirm-title").textContent = button.dataset.ask;
  document.getElementById("confirm-text").textContent = button.dataset.tell;
  document.getElementById("confirm-yes").textContent = button.dataset.verb;
  document.getElementById("confirm-yes").hidden = false;
  document.getElementById("confirm-error").hidden = true;
  for (const name of ["act", "body", "says", "shows"]) dialog.dataset[name] = button.dataset[name] ?? "";
  dialog.dataset.once = crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`;
  dialog.returnValue = "";
  dialog.showModal();
  document.getElementById("confirm-reason").focus();
}

/** POST `body`, which is JSON already when it is a text, to `address` with the CSRF token that is in `form`. */
export function post(address, body, form, once = "") {
  return fetch(address, {
    method: "POST",
    headers: {
      "Content-Type": "application/json",
      ...(once ? { "Idempotency-Key": once } : {}),
      "X-CSRFToken": form.querySelector("[name=csrfmiddlewaretoken]").value,
    },
    body: typeof body === "string" ? body : JSON.stringify(body),
  });
}

/** What a problem document says, with what it has against each field. */
export function faults(problem, status) {
  const fields = Object.entries(problem.errors ?? {}).map(([name, words]) => `${name}: ${[words].flat().map((word) => (typeof word === "string" ? word : JSON.stringify(word))).join(" ")}`);
  const inside = (problem.faults ?? []).map((fault) => `${fault.pointer || "the whole"}: ${fault.expected}`);
  return [problem.detail ?? `The server answered ${status}.`, ...fields, ...inside].join(" ");
}

function show(answer) {
  const said = dialog.dataset.shows.split(" ").filter((name) => answer[name] !== undefined && answer[name] !== "");
  document.getElementById("confirm-text").textContent = said.map((name) => `${name}: ${answer[name]}`).join(" · ");
  document.getElementById("confirm-yes").hidden = true;
  dialog.querySelector('button[value="cancel"]').textContent = "Close";
  dialog.addEventListener("close", () => location.reload(), { once: true });
}

async function act() {
  const error = document.getElementById("confirm-error");
  const yes = document.getElementById("confirm-yes");
  yes.disabled = true;
  try {
    const reason = document.getElementById("confirm-reason").value.trim() || "no reason given";
    const body = { ...JSON.parse(dialog.dataset.body || "{}"), [dialog.dataset.says || "reason"]: reason };
    const answer = await post(dialog.dataset.act, body, dialog, dialog.dataset.once);
    if (answer.ok) {
      if (dialog.dataset.shows) {
        show(await answer.json().catch(() => ({})));
        return;
      }
      dialog.close("done");
      location.reload();
      return;
    }
    error.textContent = faults(await answer.json().catch(() => ({})), answer.status);
  } catch {
    error.textContent = "The server can't be reached. Nothing is changed as far as this page knows.";
  } finally {
    yes.disabled = false;
  }
  error.hidden = false;
}

/** Give every button below `root` that has data-act its dialog. */
export function arm(root) {
  if (!dialog) return;
  for (const button of root.querySelectorAll("button[data-act]")) button.addEventListener("click", () => ask(button));
}

/** Have the page's one dialog act; once a page. */
export function armDialog() {
  dialog?.querySelector("form").addEventListener("submit", (event) => {
    if (event.submitter?.value !== "yes") return;
    event.preventDefault();
    act();
  });
}
