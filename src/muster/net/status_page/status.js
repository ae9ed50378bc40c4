"use strict";
// Asks for the rendered run every two seconds; while the page is hidden, not at all.
const EVERY_MS = 2000;
const run = document.getElementById("run");
const lost = document.getElementById("lost");
let shown = "";

async function refresh() {
  try {
    const answer = await fetch("fragment", { cache: "no-store", signal: AbortSignal.timeout(10000) });
    const text = await answer.text();
    lost.hidden = answer.ok;
    if (!answer.ok) {
      lost.textContent = `The server refuses: ${text}`;
    } else if (text !== shown) {
      shown = text;
      run.innerHTML = text;
      run.setAttribute("aria-busy", "false");
      document.title = `${run.querySelector("h1").dataset.name} · Muster`;
    }
  } catch {
    lost.textContent = "No answer from the server; trying again.";
    lost.hidden = false;
  }
}

async function forever() {
  if (!document.hidden) await refresh();
  setTimeout(forever, EVERY_MS);
}

document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
forever();
