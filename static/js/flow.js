// The flow map: drawn anew by the server now and then while events come or subscriptions change.
import { refresh } from "./fragments.js";
import { live } from "./shell.js";

const EVERY = 5000; // Milliseconds between two pictures.
let drawn = performance.now();
let known = "";

live(["events"], ({ events = {} }) => {
  const now = JSON.stringify([events.head, events.subscriptions]);
  if (now === known || performance.now() - drawn < EVERY) return;
  if (known) {
    drawn = performance.now();
    refresh(() => {});
  }
  known = now;
});
