// Parts of a page that the server draws anew: fetched with the page's own address, swapped where they differ.

const EVERY = 1500; // Milliseconds between two questions, however often something changes.
let asking = false;
let askedAt = 0;
let wanted = false;

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
      if (!next || next.innerHTML === part.dataset.drawn) continue;
      part.dataset.drawn = next.innerHTML;
      // What somebody types or chooses stays under their hands.
      if (part.contains(document.activeElement) && document.activeElement !== document.body) continue;
      part.replaceChildren(...next.childNodes);
      then(part);
    }
  } catch {
    // The live indicator says that the server can't be reached; the next frame asks again.
  } finally {
    asking = false;
  }
}
