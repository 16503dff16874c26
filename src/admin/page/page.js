// Shows local times, updates views live, and sends forms in place. The page works without it.
"use strict";

const live = document.getElementById("live");

// Shows times in local time. The title keeps UTC.
function localize(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (!isNaN(at)) {
      time.textContent = at.toLocaleString(undefined, { dateStyle: "short", timeStyle: "medium" });
    }
  }
}

// Whether the user's focus or selection is in this part. Replacing the part would lose it.
function inUse(part) {
  const selection = document.getSelection();
  return part.contains(document.activeElement)
    || (selection && !selection.isCollapsed && part.contains(selection.anchorNode));
}

// Opens the details in the new part that the user opened in the old one.
function keepOpen(old, part) {
  const before = [...old.querySelectorAll("details")];
  const after = [...part.querySelectorAll("details")];
  if (before.length === after.length) {
    after.forEach((details, index) => { details.open = before[index].open; });
  }
}

async function read(url) {
  const response = await fetch(url, { headers: { accept: "text/html" }, credentials: "same-origin" });
  if (response.redirected && new URL(response.url).pathname === "/login") {
    location.assign("/login");
    return null;
  }
  return new DOMParser().parseFromString(await response.text(), "text/html");
}

// Reads the view again, and replaces its live parts.
async function refresh() {
  const parts = [...document.querySelectorAll("[data-live]")];
  const free = parts.filter((part) => !inUse(part));
  const page = free.length > 0 ? await read(location.href) : null;
  for (const old of page ? free : []) {
    const part = page.getElementById(old.id);
    // The user may have moved the focus into the old part meanwhile.
    if (!part || inUse(old)) continue;
    localize(part);
    keepOpen(old, part);
    old.replaceWith(part);
  }
  return free.length === parts.length;
}

let stale = false;
let busy = false;

// Updates at most once a second, less often if the server is slow. Parts in use are updated later.
async function update() {
  if (busy) return;
  busy = true;
  while (stale && !document.hidden) {
    stale = false;
    const began = performance.now();
    try {
      if (!await refresh()) stale = true;
    } catch {
      stale = true;
    }
    const pause = Math.max(1000, 10 * (performance.now() - began));
    await new Promise((done) => { setTimeout(done, pause); });
  }
  busy = false;
}

function changed() {
  stale = true;
  update();
}

let stream = null;

function follow() {
  if (document.hidden || !document.querySelector("[data-live]")) {
    if (stream) stream.close();
    stream = null;
    return;
  }
  if (stream) return;
  stream = new EventSource("/api/v1/stream");
  // A browser that reconnects gets "missed" instead of "ready" if the daemon began a new series.
  for (const name of ["ready", "missed"]) {
    stream.addEventListener(name, () => { live.textContent = "live"; changed(); });
  }
  for (const name of ["event", "delivery"]) stream.addEventListener(name, changed);
  stream.addEventListener("error", () => {
    live.textContent = "not live; reconnecting";
    if (stream.readyState === EventSource.CLOSED) {
      stream = null;
      setTimeout(follow, 5000);
      // If the session has ended, reading the view leads to the login.
      changed();
    }
  });
}

// Sends the form of a button without loading a page, and shows the answer in place.
async function act(event) {
  const form = event.target;
  if (!form.matches("form.act")) return;
  event.preventDefault();
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    const response = await fetch(form.action, {
      method: "POST", credentials: "same-origin", headers: { accept: "text/html" },
      body: new URLSearchParams(new FormData(form)),
    });
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const main = page.getElementById("main");
    localize(main);
    document.getElementById("main").replaceWith(main);
    document.title = page.title;
    history.pushState(null, "", response.redirected ? response.url : location.href);
    main.focus();
  } catch {
    button.disabled = false;
    live.textContent = "the server does not answer";
  }
}

// Skips the navigation. Adds no history entry, because going back to it would reload the page.
function skip(event) {
  if (!event.target.matches(".skip")) return;
  event.preventDefault();
  document.getElementById("main").focus();
}

localize(document);
document.addEventListener("click", skip);
document.addEventListener("submit", act);
document.addEventListener("visibilitychange", () => { follow(); update(); });
window.addEventListener("popstate", () => location.reload());
if (live) follow();
