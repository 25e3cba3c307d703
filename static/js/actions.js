// Buttons that act: ask once, with a reason, then POST to the REST API and show what it answers.

const dialog = document.getElementById("confirm");

function ask(button) {
  document.getElementById("confirm-title").textContent = button.dataset.ask;
  document.getElementById("confirm-text").textContent = button.dataset.tell;
  document.getElementById("confirm-yes").textContent = button.dataset.verb;
  document.getElementById("confirm-error").hidden = true;
  dialog.dataset.act = button.dataset.act;
  dialog.dataset.once = crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`;
  dialog.returnValue = "";
  dialog.showModal();
  document.getElementById("confirm-reason").focus();
}

async function act() {
  const error = document.getElementById("confirm-error");
  const yes = document.getElementById("confirm-yes");
  yes.disabled = true;
  try {
    const answer = await fetch(dialog.dataset.act, {
      method: "POST",
      headers: {
        "Content-Type": "application/json",
        "Idempotency-Key": dialog.dataset.once,
        "X-CSRFToken": dialog.querySelector("[name=csrfmiddlewaretoken]").value,
      },
      body: JSON.stringify({ reason: document.getElementById("confirm-reason").value.trim() || "no reason given" }),
    });
    if (answer.ok) {
      dialog.close("done");
      location.reload();
      return;
    }
    const problem = await answer.json().catch(() => ({}));
    error.textContent = problem.detail ?? `The server answered ${answer.status}.`;
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
  dialog.querySelector("form").addEventListener("submit", (event) => {
    if (event.submitter?.value !== "yes") return;
    event.preventDefault();
    act();
  });
}
