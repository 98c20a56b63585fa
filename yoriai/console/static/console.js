// Without this script every page can be read; with it what changes appears by itself.
"use strict";
(function () {
  const live = document.getElementById("live"), told = document.getElementById("told");
  if (!live || !told || !live.dataset.address || !window.EventSource) return;
  const query = new URLSearchParams({ page: live.dataset.address, known: live.dataset.digest });
  const source = new EventSource("/events?" + query);

  function say(text) { if (told.textContent !== text) told.textContent = text; }

  // What is marked or opened by hand stays as it is until it is let go.
  function inHand() {
    const chosen = document.getSelection();
    return chosen && !chosen.isCollapsed && live.contains(chosen.anchorNode);
  }

  function focused() {
    const at = document.activeElement;
    if (!at || !live.contains(at)) return null;
    return [...live.querySelectorAll("a[href], [tabindex], summary")].indexOf(at);
  }

  source.addEventListener("page", function (event) {
    if (inHand()) return;
    const place = focused(), next = JSON.parse(event.data);
    const opened = [...live.querySelectorAll("details[open]")].map((one) => one.id);
    live.innerHTML = next.html;
    live.dataset.digest = next.digest;
    for (const id of opened) { const one = document.getElementById(id); if (one) one.open = true; }
    const at = place === null ? null : live.querySelectorAll("a[href], [tabindex], summary")[place];
    if (at) at.focus();
  });
  source.addEventListener("open", function () { say(told.dataset.live); });
  source.addEventListener("error", function () { say(told.dataset.lost); });
}());
