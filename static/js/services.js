// The list of services: the numbers change in place, the order when a state does.
import { fillService } from "./parts.js";
import { live } from "./shell.js";
import { RANK, tally } from "./words.js";

const table = document.getElementById("services");

live(["services"], ({ services }) => {
  const body = table.tBodies[0];
  const rows = new Map([...body.rows].map((row) => [row.dataset.service, row]));
  const names = Object.keys(services).filter((name) => name !== "gateway");
  if (names.some((name) => !rows.has(name)) || names.length < rows.size) {
    location.reload(); // A service was added or removed: the server draws the new list.
    return;
  }
  names.sort((a, b) => RANK[services[a].state] - RANK[services[b].state] || (a < b ? -1 : 1));
  names.forEach((name, n) => {
    const row = rows.get(name);
    fillService(row, name, services[name]);
    if (body.rows[n] !== row) body.insertBefore(row, body.rows[n]);
  });
  document.getElementById("tally").textContent = tally(services);
});
