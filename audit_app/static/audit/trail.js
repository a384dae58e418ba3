// Adds keys and relative times to the audit pages. They work without it.
(() => {
  "use strict";
  const root = document.querySelector(".audit");
  if (!root) return;
  const lang = document.documentElement.lang || "en";

  // "3 minutes ago" beside recent times; the exact time stays.
  const relative = new Intl.RelativeTimeFormat(lang, { numeric: "auto" });
  const units = [["second", 60], ["minute", 60], ["hour", 24], ["day", 7]];
  function ago(moment) {
    let value = (moment - Date.now()) / 1000;
    for (const [unit, size] of units) {
      if (Math.abs(value) < size) return relative.format(Math.round(value), unit);
      value /= size;
    }
    return "";
  }
  function refresh() {
    for (const time of root.querySelectorAll("time[datetime]")) {
      const text = ago(new Date(time.dateTime));
      let note = time.querySelector(".au-ago");
      if (!text) { if (note) note.remove(); continue; }
      if (!note) {
        note = document.createElement("span");
        note.className = "au-ago";
        time.append(note);
      }
      note.textContent = ` · ${text}`;
    }
  }
  refresh();
  setInterval(refresh, 30000);

  const items = [...root.querySelectorAll("[data-au-item]")];
  let current = -1;
  function move(step) {
    if (!items.length) return;
    if (current >= 0) items[current].classList.remove("au-current");
    current = Math.min(Math.max(current + step, 0), items.length - 1);
    items[current].classList.add("au-current");
    const link = items[current].querySelector("[data-au-open]");
    if (link) link.focus({ preventScroll: true });
    items[current].scrollIntoView({ block: "nearest" });
  }
  const follow = (selector) => { const link = root.querySelector(selector); if (link) link.click(); };

  let help;
  function showHelp() {
    if (!help) {
      help = document.createElement("dialog");
      help.className = "au-help";
      help.setAttribute("aria-labelledby", "au-help-title");
      const title = document.createElement("h2");
      title.id = "au-help-title";
      title.textContent = "Keys";
      const list = document.createElement("dl");
      for (const [keys, text] of [
        ["j k", "next and previous entry"], ["Enter", "open it"],
        ["[ ]", "previous and next change or page"], ["u", "up to the record"],
        ["f", "filter"], ["?", "this help"],
      ]) {
        const term = document.createElement("dt");
        for (const key of keys.split(" ")) {
          const box = document.createElement("kbd");
          box.textContent = key;
          term.append(box, " ");
        }
        const words = document.createElement("dd");
        words.textContent = text;
        list.append(term, words);
      }
      const form = document.createElement("form");
      form.method = "dialog";
      const close = document.createElement("button");
      close.className = "au-button au-quiet";
      close.textContent = "Close";
      form.append(close);
      help.append(title, list, form);
      root.append(help);
    }
    help.showModal();
  }

  const keys = {
    j: () => move(1), k: () => move(-1),
    "[": () => follow("a[rel=prev]"), "]": () => follow("a[rel=next]"),
    u: () => follow("[data-au-up]"),
    f: () => { const input = root.querySelector("[data-au-filter]"); if (input) input.focus(); },
    "?": showHelp,
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const target = event.target;
    if (target.isContentEditable || /^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName)) return;
    if (help && help.open) return;
    const action = keys[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
})();
