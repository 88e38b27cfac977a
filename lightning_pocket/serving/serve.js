// Keeps what is shown up to date while a run goes on; without it a reader loads the page again.
(() => {
  "use strict";
  const seconds = 2, patience = 10; // between two looks; where the server does not answer
  const stale = Object.assign(document.createElement("p"), { className: "note", hidden: true });
  stale.textContent = "The server does not answer: what is shown is no longer kept up to date.";
  stale.setAttribute("role", "status");

  async function ask(address) {
    const answer = await fetch(address, { cache: "no-cache" });
    return answer.ok ? answer.text() : null;
  }

  function repeat(look) {
    document.querySelector("h1").after(stale);
    const again = (wait) => setTimeout(async () => {
      try {
        if (!document.hidden) await look();
        stale.hidden = true;
      } catch {
        stale.hidden = false;
      }
      again(stale.hidden ? seconds : patience);
    }, 1000 * wait);
    again(seconds);
  }

  const live = document.querySelector("[data-live]");
  let before = "";
  if (live) {
    repeat(async () => {
      const text = await ask(live.dataset.live);
      if (text !== null && text !== before) live.innerHTML = text;
      before = text ?? before;
    });
  }

  const summary = document.querySelector("[data-summary]");
  if (summary) {
    repeat(async () => {
      const text = await ask(location.href);
      if (text === null) return;
      const page = new DOMParser().parseFromString(text, "text/html");
      const table = document.querySelector(".runs tbody"), fresh = page.querySelector(".runs tbody");
      if (!table !== !fresh) location.reload(); // the first run is there
      if (!table || !fresh) return;
      for (const name of ["[data-summary]", ".runs caption"]) {
        document.querySelector(name).textContent = page.querySelector(name).textContent;
      }
      const chosen = new Set([...table.querySelectorAll("input:checked")].map((box) => box.value));
      const rows = new Map([...table.rows].map((row) => [row.dataset.run, row]));
      for (const row of fresh.rows) {
        const shown = rows.get(row.dataset.run);
        for (const box of row.querySelectorAll("input")) box.checked = chosen.has(box.value);
        const focused = shown && shown.contains(document.activeElement);
        if (!focused && shown?.innerHTML !== row.innerHTML) rows.set(row.dataset.run, row);
      }
      const order = [...fresh.rows].map((row) => rows.get(row.dataset.run));
      if (order.some((row, place) => table.rows[place] !== row) || table.rows.length !== order.length) {
        table.replaceChildren(...order);
      }
    });
  }
})();
