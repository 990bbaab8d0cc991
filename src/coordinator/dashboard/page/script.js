"use strict";
// Keeps the page as it is on the server.  Without it the page is whole, and a reload brings news.
(() => {
  const RETRY_MS = 3000, LOST_MS = 5000, SILENT_MS = 25000, OLD_MS = 14000, HIDDEN_MS = 30000;
  const LOST = "NOT LIVE: ";
  const body = document.body, controls = document.getElementById("controls");
  if (!body.dataset.events) return;
  let source, paused = false, busy = false, again = false;
  let stamp = body.dataset.stamp, shown = Date.now(), heard = Date.now(), tried = Date.now(), failing = 0;

  // Makes `from` like `to` and keeps what is the same, so that focus, selection and what was typed stay.
  const morph = (from, to) => {
    if (from.isEqualNode(to)) return;
    if (from.nodeType !== to.nodeType || from.nodeName !== to.nodeName) { from.replaceWith(to.cloneNode(true)); return; }
    if (from.nodeType !== Node.ELEMENT_NODE) { from.data = to.data; return; }
    for (const { name } of [...from.attributes]) if (!to.hasAttribute(name)) from.removeAttribute(name);
    for (const { name, value } of to.attributes) if (from.getAttribute(name) !== value) from.setAttribute(name, value);
    const own = new Map([...from.children].filter((child) => child.id).map((child) => [child.id, child]));
    const wanted = [...to.childNodes];
    wanted.forEach((child, at) => {
      const here = from.childNodes[at] ?? null;
      const same = child.id ? own.get(child.id) : undefined;
      if (same) { if (same !== here) from.insertBefore(same, here); morph(same, child); }
      else if (!here || here.id || child.id) from.insertBefore(child.cloneNode(true), here);
      else morph(here, child);
    });
    while (from.childNodes.length > wanted.length) from.lastChild.remove();
  };

  const show = (text) => {
    const next = new DOMParser().parseFromString(text, "text/html");
    const focus = document.activeElement;
    for (const id of ["main", "pools", "asof"]) {
      const [from, to] = [document.getElementById(id), next.getElementById(id)];
      if (from && to) morph(from, to);
    }
    if (focus && focus !== document.activeElement && focus.isConnected) focus.focus({ preventScroll: true });
    document.title = next.title;
    const icon = next.querySelector("link[rel=icon]");
    if (icon) document.querySelector("link[rel=icon]").href = icon.getAttribute("href");
    stamp = next.body.dataset.stamp;
    shown = Date.now();
  };

  const lost = (is) => {
    const place = document.getElementById("lost"), since = new Date(heard).toISOString().slice(11, 19);
    const text = is ? `Not live: the coordinator has not answered since ${since}Z. What is below is from then.` : "";
    if (place && place.textContent !== text) place.textContent = text;
    if (is && !document.title.startsWith(LOST)) document.title = LOST + document.title;
  };

  const refresh = async () => {
    if (busy) { again = true; return; }
    busy = true;
    try {
      const answer = await fetch(location.href, { cache: "no-store" });
      const text = await answer.text();
      if (!answer.ok && answer.status !== 404) throw new Error(answer.status);
      heard = Date.now();
      failing = 0;
      if (!paused) show(text);
    } catch {
      failing ||= Date.now();
      // A tab in the background shows its title alone.
      if (document.hidden) lost(true);
    }
    busy = false;
    if (again) { again = false; refresh(); }
  };

  const close = () => { source?.close(); source = undefined; };
  const open = () => {
    close();
    tried = Date.now();
    source = new EventSource(body.dataset.events);
    source.onmessage = ({ data }) => {
      heard = Date.now();
      failing = 0;
      if (!paused && (data !== stamp || heard - shown > OLD_MS)) refresh();
    };
    source.onerror = () => { failing ||= Date.now(); };
  };

  // A tab in the background gives its connection back, because a browser has six for all tabs, and asks now and then.
  document.addEventListener("visibilitychange", () => {
    if (paused) return;
    if (document.hidden) close(); else { refresh(); open(); }
  });
  setInterval(() => {
    if (paused) return;
    const now = Date.now();
    if (document.hidden) { if (now - shown > HIDDEN_MS) refresh(); return; }
    if (source?.readyState === EventSource.CLOSED && now - tried > RETRY_MS) open();
    lost((failing && now - failing > LOST_MS) || now - heard > SILENT_MS);
  }, 1000);

  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Pause updates";
  button.addEventListener("click", () => {
    paused = !paused;
    button.textContent = paused ? "Resume updates" : "Pause updates";
    if (paused) close(); else { heard = Date.now(); failing = 0; refresh(); open(); }
  });
  controls.append(button);
  open();
})();
