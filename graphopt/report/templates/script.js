"use strict";
// The page is complete without this: it only sorts, filters and copies.
(() => {
  const table = document.querySelector("#pass-table");
  if (table) {
    const tools = document.querySelector("#pass-tools");
    const bodies = [...table.tBodies];
    const idle = table.querySelector("tbody[data-idle] details");
    const words = bodies.map((body) => body.textContent.toLowerCase());
    const text = tools.querySelector("input[type=search]");
    const none = document.querySelector("#pass-none");
    tools.hidden = false;
    const filter = () => {
      const wanted = text.value.trim().toLowerCase();
      let shown = 0;
      bodies.forEach((body, index) => {
        body.hidden = !words[index].includes(wanted);
        shown += body.hidden ? 0 : 1;
      });
      if (idle) idle.open = wanted !== "";
      none.hidden = shown > 0;
    };
    text.addEventListener("input", filter);
    const heads = [...table.querySelectorAll("th[data-key]")];
    for (const head of heads) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const numeric = head.hasAttribute("data-number");
        const start = numeric && head.dataset.key !== "index" ? "descending" : "ascending";
        const other = start === "ascending" ? "descending" : "ascending";
        const order = head.getAttribute("aria-sort") === start ? other : start;
        heads.forEach((item) => item.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", order);
        const value = (body) => body.getAttribute("data-" + head.dataset.key) || "";
        const sign = order === "ascending" ? 1 : -1;
        const sorted = bodies.filter((body) => !body.hasAttribute("data-idle")).sort((a, b) => sign * (numeric
          ? (parseFloat(value(a)) || 0) - (parseFloat(value(b)) || 0)
          : value(a).localeCompare(value(b))));
        table.tHead.after(...sorted);
      });
    }
  }
  if (navigator.clipboard) {
    for (const button of document.querySelectorAll("button[data-copy]")) {
      button.hidden = false;
      button.addEventListener("click", async () => {
        await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
        button.textContent = "Copied";
        setTimeout(() => { button.textContent = "Copy"; }, 1500);
      });
    }
  }
})();
