// The two side panels: columns on a wide window, a drawer and a sheet over a narrow one.

import { byId, isNarrow } from "./dom.js";

const REMEMBERED = "rapport.memory-panel"; // "open" or "closed", by the reader's own hand or by the first offer

class Panel {
  constructor(id, opener, closer, { alwaysOpenWhenWide }) {
    this.node = byId(id);
    this.opener = byId(opener);
    this.alwaysOpenWhenWide = alwaysOpenWhenWide;
    this.open = false;
    this.opener.addEventListener("click", () => this.set(!this.open, { focus: true }));
    byId(closer).addEventListener("click", () => this.set(false, { focus: true }));
  }

  set(open, { focus = false } = {}) {
    this.open = open;
    if (open && isNarrow()) this.others.forEach((panel) => panel.set(false));
    this.draw();
    if (!focus) return;
    const target = open ? this.node.querySelector("button:not([hidden])") : this.opener;
    if (open && !isNarrow()) return; // a column that appears beside takes nothing over
    target?.focus();
  }

  /** Show itself beside the talk, where that covers nothing and nobody has closed it. */
  offer() {
    if (isNarrow() || this.open || localStorage.getItem(REMEMBERED) === "closed") return;
    localStorage.setItem(REMEMBERED, "open");
    this.set(true);
  }

  draw() {
    const shown = this.open || (this.alwaysOpenWhenWide && !isNarrow());
    this.node.classList.toggle("open", shown);
    this.node.inert = !shown;
    this.opener.setAttribute("aria-expanded", String(shown));
    const covered = isNarrow() && (this.open || this.others.some((panel) => panel.open));
    byId("stage").inert = covered;
    byId("scrim").hidden = !covered;
    byId("shell").classList.toggle("with-memory", byId("memory").classList.contains("open"));
  }
}

/** @returns {{rail: Panel, memory: Panel}} */
export function preparePanels() {
  const rail = new Panel("rail", "rail-open", "rail-close", { alwaysOpenWhenWide: true });
  const memory = new Panel("memory", "memory-open", "memory-close", { alwaysOpenWhenWide: false });
  rail.others = [memory];
  memory.others = [rail];
  const both = [rail, memory];
  const closeAll = () => both.filter((panel) => panel.open && isNarrow()).forEach((panel) => panel.set(false, { focus: true }));
  byId("scrim").addEventListener("click", closeAll);
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !document.querySelector("dialog[open]")) closeAll();
  });
  memory.opener.addEventListener("click", () => {
    if (!isNarrow()) localStorage.setItem(REMEMBERED, memory.open ? "open" : "closed");
  });
  byId("memory-close").addEventListener("click", () => {
    if (!isNarrow()) localStorage.setItem(REMEMBERED, "closed");
  });
  const settle = () => {
    rail.open = false;
    memory.open = !isNarrow() && localStorage.getItem(REMEMBERED) === "open";
    both.forEach((panel) => panel.draw());
  };
  matchMedia("(max-width: 52rem)").addEventListener("change", settle);
  settle();
  return { rail, memory };
}
