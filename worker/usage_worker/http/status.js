"use strict";
{
  const SECONDS = 10;
  // Without the name and password of the page's own address, with which the browser would not send it.
  const address = new URL("status.html", document.baseURI);
  address.username = address.password = "";

  const refresh = async () => {
    if (document.hidden) return;
    const section = document.getElementById("status");
    try {
      const answer = await fetch(address, { signal: AbortSignal.timeout(SECONDS * 1000) });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      const open = [...section.querySelectorAll("details[open] > summary")].map((it) => it.textContent);
      section.outerHTML = await answer.text();
      for (const it of document.querySelectorAll("#status summary")) it.parentElement.open = open.includes(it.textContent);
      document.getElementById("stale").hidden = true;
    } catch {
      document.getElementById("stale").hidden = false;
    }
  };
  setInterval(refresh, SECONDS * 1000);
  document.addEventListener("visibilitychange", refresh);
}
