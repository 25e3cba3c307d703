// The list of services: the numbers change in place, the order when a state does.
import { fillService } from "./parts.js";
import { live } from "./shell.js";
import { RANK, tally } from "./words.js";

const table = document.getElementById("services");

live(["services"], ({ services }) => {
  const body = table.tBodies[0];
  const rows = new Map([...body.rows].map((row) => [row.dataset.service, row]));
  const names = Object.keys(services).filter((name) => name !== "gateway");
  // A service was registered or removed: the server draws the new list. One that only reports comes and goes with
  // what it sends, and with the store it is read from.
  if (names.some((name) => !rows.has(name)) || [...rows].some(([name, row]) => !services[name] && !row.dataset.reports)) {
    location.reload();
    return;
  }
  for (const [name, row] of rows) row.hidden = !services[name];
  names.sort((a, b) => RANK[services[a].state] - RANK[services[b].state] || (a < b ? -1 : 1));
  names.forEach((name, n) => {
    const row = rows.get(name);
    fillService(row, name, services[name]);
    if (body.rows[n] !== row) body.insertBefore(row, body.rows[n]);
  });
  document.getElementById("tally").textContent = tally(services);
});
