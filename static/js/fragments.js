// Parts of a page that the server draws anew: fetched with the page's own address, swapped where they differ.

const EVERY = 1500; // Milliseconds between two questions, however often something changes.
let asking = false;
let askedAt = 0;
let wanted = false;
const drawn = new WeakMap(); // Part → what the server said last.
const WRITING = "input, select, textarea";

/** What tells a link or button from the others of its part, also when what stands beside it has changed. */
const name = (one) => [one.tagName, one.id, one.getAttribute("href"), ...["redrive", "filter", "act", "now", "replay"].map((key) => one.dataset[key] ?? "")].join();

/** Put the next content into a part; who stood on a link or button in it stands on the same again, or on the part. */
function swap(part, next) {
  const stood = part.contains(document.activeElement) ? name(document.activeElement) : "";
  part.replaceChildren(...next.childNodes);
  if (!stood) return;
  const same = [...part.querySelectorAll("a[href], button, summary, [tabindex]")].find((one) => name(one) === stood);
  if (!same) part.tabIndex = -1;
  (same ?? part).focus({ preventScroll: true });
}

/** Draw every `data-refresh` part anew, now or as soon as it is time; `then` is called with each part that changed. */
export async function refresh(then) {
  if (asking || document.hidden || performance.now() - askedAt < EVERY) {
    if (!wanted) setTimeout(() => { wanted = false; refresh(then); }, EVERY);
    wanted = true;
    return;
  }
  asking = true;
  askedAt = performance.now();
  try {
    const answer = await fetch(location.href);
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of document.querySelectorAll("[data-refresh]")) {
      const next = page.getElementById(part.id);
      const said = next?.innerHTML;
      if (!next || said === drawn.get(part)) continue;
      // What somebody types or chooses stays under their hands, until they leave it.
      if (document.activeElement.matches(WRITING) && part.contains(document.activeElement)) {
        document.activeElement.addEventListener("blur", () => refresh(then), { once: true });
        continue;
      }
      drawn.set(part, said);
      swap(part, next);
      then(part);
    }
  } catch {
    // The live indicator says that the server can't be reached; the next frame asks again.
  } finally {
    asking = false;
  }
}
