// Keeps what is shown up to date while a run goes on; without it a reader loads the page again.
(() => {
  "use strict";
  const seconds = 2;

  async function ask(address) {
    const answer = await fetch(address, { cache: "no-cache" });
    return answer.ok ? answer.text() : null;
  }

  function repeat(look) {
    const again = () => setTimeout(async () => {
      try {
        if (!document.hidden) await look();
      } catch {
        return; // the server has ended
      }
      again();
    }, 1000 * seconds);
    again();
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

  const table = document.querySelector(".runs tbody");
  if (table) {
    repeat(async () => {
      const text = await ask(location.href);
      const fresh = text && new DOMParser().parseFromString(text, "text/html").querySelector(".runs tbody");
      if (!fresh) return;
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
