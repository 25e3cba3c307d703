// The gateway: its state and numbers, who serves which revision, and the state behind every route.
import { field, fillService, setState, text } from "./parts.js";
import { live } from "./shell.js";
import { time } from "./words.js";

const root = document.getElementById("gateway");
const workers = field(root, "workers");

function drawWorkers(gateway) {
  const all = Object.entries(gateway.workers ?? {}).sort(([a], [b]) => (a < b ? -1 : 1));
  const on = all.filter(([, worker]) => worker.revision === gateway.revision).length;
  text(field(root, "acked"), all.length ? `${on} of ${all.length}` : "–");
  field(root, "no-workers").hidden = all.length > 0;
  workers.replaceChildren(...all.map(([id, worker]) => {
    const row = document.createElement("tr");
    row.dataset.worker = id;
    const code = document.createElement("code");
    code.textContent = id;
    row.insertCell().append(code);
    const revision = row.insertCell();
    revision.className = "num";
    revision.append(String(worker.revision));
    row.insertCell().append(time(worker.at, "age"));
    for (const count of [worker.dropped, worker.refused]) {
      const cell = row.insertCell();
      cell.className = "num";
      cell.append(count.toLocaleString("en"));
    }
    return row;
  }));
}

live(["services", "gateway"], ({ services, gateway }) => {
  fillService(root.querySelector(".title-line"), "gateway", services.gateway);
  fillService(root.querySelector(".panel"), "gateway", services.gateway);
  text(field(root, "revision"), String(gateway.revision ?? "–"));
  drawWorkers(gateway);
  for (const row of root.querySelectorAll("tr[data-service]")) setState(row, services[row.dataset.service]?.state ?? "unknown");
});
