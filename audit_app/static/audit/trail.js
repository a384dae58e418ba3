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

  for (const element of root.querySelectorAll("[data-au-script]")) element.hidden = false;

  // -- Filters -----------------------------------------------------------------------------------

  for (const form of root.querySelectorAll("[data-au-form]")) {
    // Addresses hold what restricts, and nothing else.
    form.addEventListener("formdata", ({ formData }) => {
      for (const [name, value] of [...formData]) if (value === "") formData.delete(name);
    });
    // A relative period and a date are chosen one instead of the other.
    const { period, from, to } = form.elements;
    period.addEventListener("change", () => { if (period.value) from.value = to.value = ""; });
    for (const input of [from, to]) {
      input.addEventListener("change", () => { if (input.value) period.value = ""; });
    }
  }

  // -- The button says how many fields are restored ------------------------------------------------

  for (const form of root.querySelectorAll("[data-au-plan]")) {
    const boxes = [...form.querySelectorAll("input[name=field]")];
    const button = form.querySelector("[data-au-many]");
    if (!boxes.length) continue;
    const count = () => {
      const number = boxes.filter((box) => box.checked).length;
      const text = number === 1 ? button.dataset.auOne : button.dataset.auMany;
      button.textContent = text.replace("%(num)s", number.toLocaleString(lang));
    };
    form.addEventListener("change", count);
    count();
  }

  // -- A period by dragging across the chart -----------------------------------------------------

  for (const chart of root.querySelectorAll("[data-au-days]")) {
    const bars = [...chart.querySelectorAll(".au-slot")];
    if (!bars.length) continue;
    const width = chart.viewBox.baseVal.width / bars.length;
    let start = -1, end = -1, shade = null, dragged = false;
    const barAt = (event) => {
      const box = chart.getBoundingClientRect();
      const place = Math.floor(((event.clientX - box.left) / box.width) * bars.length);
      return Math.min(Math.max(place, 0), bars.length - 1);
    };
    function stop() {
      start = -1;
      if (shade) shade.remove();
      shade = null;
    }
    function draw() {
      if (!shade) {
        shade = document.createElementNS("http://www.w3.org/2000/svg", "rect");
        shade.setAttribute("class", "au-shade");
        shade.setAttribute("height", "100");
        chart.append(shade);
      }
      shade.setAttribute("x", Math.min(start, end) * width);
      shade.setAttribute("width", (Math.abs(end - start) + 1) * width);
    }
    chart.addEventListener("dragstart", (event) => event.preventDefault());
    chart.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey) return;
      start = end = barAt(event);
      dragged = false;
    });
    window.addEventListener("pointermove", (event) => {
      if (start < 0) return;
      end = barAt(event);
      if (end !== start) dragged = true;
      if (dragged) draw();
    });
    window.addEventListener("pointerup", () => {
      if (start < 0) return;
      const [first, last] = [Math.min(start, end), Math.max(start, end)];
      stop();
      if (!dragged) return;
      const target = new URL(location);
      for (const name of ["period", "before", "after"]) target.searchParams.delete(name);
      target.searchParams.set("from", bars[first].dataset.first);
      target.searchParams.set("to", bars[last].dataset.last);
      location.assign(target);
    });
    window.addEventListener("pointercancel", stop);
    window.addEventListener("keydown", (event) => { if (event.key === "Escape") stop(); });
    // The end of a drag is no click on the day where it ended.
    chart.addEventListener("click", (event) => { if (dragged) event.preventDefault(); }, true);
  }

  // -- Keys --------------------------------------------------------------------------------------

  const items = [...root.querySelectorAll("[data-au-item]")];
  let current = -1;
  const linkOf = (item) => item.querySelector("[data-au-open]");
  function move(step) {
    if (!items.length) return;
    // Go on from where the focus is, wherever the mouse or the tab key took it.
    const focused = items.findIndex((item) => item.contains(document.activeElement));
    if (current >= 0) items[current].classList.remove("au-current");
    if (focused >= 0) current = focused;
    current = Math.min(Math.max(current + step, 0), items.length - 1);
    items[current].classList.add("au-current");
    const link = linkOf(items[current]);
    if (link) link.focus({ preventScroll: true });
    items[current].scrollIntoView({ block: "nearest" });
  }
  const follow = (selector) => { const link = root.querySelector(selector); if (link) link.click(); };
  function focus(selector) {
    const input = root.querySelector(selector);
    if (!input) return;
    input.focus();
    input.select();
  }

  const help = root.querySelector("[data-au-dialog]");
  const showHelp = () => { if (help) help.showModal(); };
  for (const button of root.querySelectorAll("[data-au-help]")) {
    button.addEventListener("click", showHelp);
  }

  const keys = {
    j: () => move(1), k: () => move(-1),
    "[": () => follow("a[rel=prev]"), "]": () => follow("a[rel=next]"),
    u: () => follow("[data-au-up]"),
    f: () => focus("[data-au-filter]"), "/": () => focus("[data-au-search]"),
    "?": showHelp,
  };
  document.addEventListener("keydown", (event) => {
    // Some keyboards have [ and ] on AltGr, which some systems report as Ctrl and Alt.
    const modified = event.ctrlKey || event.metaKey || event.altKey;
    if (event.defaultPrevented || event.isComposing) return;
    if (modified && !(event.getModifierState("AltGraph") && /[[\]]/.test(event.key))) return;
    const target = event.target;
    if (target.isContentEditable || /^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName)) return;
    if (document.querySelector("dialog[open]")) return;
    if (event.key === "Enter" && target === document.body && current >= 0) {
      const link = linkOf(items[current]);
      if (link) link.click();
      return;
    }
    const action = Object.hasOwn(keys, event.key) ? keys[event.key] : null;
    if (!action) return;
    event.preventDefault();
    action();
  });
})();
