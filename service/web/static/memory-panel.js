// The memory panel: what served the reply one looks at, and all that is kept, to be searched, corrected, forgotten.

import { correctMemory, forgetMemory, listMemories, searchMemories } from "./api.js";
import { askConsent, askText } from "./dialogs.js";
import { announce, byId } from "./dom.js";
import { memoryCard } from "./memory-card.js";

const NOT_OFFERED = new Set([404, 405, 501]);

/** hooks: here() is the id of the open conversation; jump(source) to the message a memory comes from. */
export class MemoryPanel {
  constructor(panel, hooks) {
    this.panel = panel;
    this.hooks = hooks;
    this.tabs = [byId("tab-recalled"), byId("tab-kept")];
    this.nextCursor = null;
    this.asked = 0;
    this.keptIsFresh = false;
    this.canCorrect = true;
    this.canForget = true;
    this.tabs.forEach((tab, at) => {
      tab.addEventListener("click", () => this.choose(at));
      tab.addEventListener("keydown", (event) => this.onTabKey(event, at));
    });
    byId("memory-search").addEventListener("submit", (event) => {
      event.preventDefault();
      void this.showKept();
    });
    // The cross of a search field, and emptying it, lead back to the list without another press.
    byId("memory-query").addEventListener("input", (event) => {
      if (event.target.value === "") void this.showKept();
    });
    byId("memory-filter").addEventListener("change", () => {
      byId("memory-query").value = "";
      void this.showKept();
    });
    byId("more-memories").addEventListener("click", () => this.showKept({ more: true }));
    this.showRecalled(null);
  }

  onTabKey(event, at) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = (at + step + this.tabs.length) % this.tabs.length;
    this.choose(next);
    this.tabs[next].focus();
  }

  choose(at) {
    this.tabs.forEach((tab, index) => {
      tab.setAttribute("aria-selected", String(index === at));
      tab.tabIndex = index === at ? 0 : -1;
      byId(tab.getAttribute("aria-controls")).hidden = index !== at;
    });
    if (at === 1 && !this.keptIsFresh) void this.showKept();
  }

  open() {
    this.choose(0);
    this.panel.set(true, { focus: true });
  }

  /** Memories served a reply: on a wide window the panel may show itself, unless it has been closed by hand. */
  newlyRecalled(reply) {
    this.showRecalled(reply);
    if (reply.recalled.length > 0) this.panel.offer();
  }

  /** @param reply a ReplyMessage, or null before there is one */
  showRecalled(reply, note = null) {
    const items = reply?.recalled ?? [];
    const list = byId("recalled-list");
    byId("recalled-note").textContent = note ?? this.noteFor(reply, items);
    const strongest = Math.max(0, ...items.map((item) => item.score ?? 0));
    const onJump = (item) => this.hooks.jump(item.source);
    list.replaceChildren(...items.map((item) => memoryCard(item, { strongest, here: this.hooks.here(), onJump })));
    list.hidden = items.length === 0;
  }

  noteFor(reply, items) {
    if (!reply) return "When a reply uses memories, they are shown here with their source.";
    if (!reply.recalled) return "Looking through memory…";
    if (items.length === 0) return "Nothing from the past was close enough to help with this reply.";
    return items.length === 1 ? "This came to mind for the reply." : `These ${items.length} came to mind for the reply.`;
  }

  /** Something new may be kept by now; the list is read anew when it is looked at next. */
  grewStale() {
    this.keptIsFresh = false;
  }

  async showKept({ more = false } = {}) {
    const asked = (this.asked += 1);
    const query = byId("memory-query").value.trim();
    const filter = Object.fromEntries(new URLSearchParams(byId("memory-filter").value));
    const list = byId("kept-list");
    if (!more) {
      byId("kept-note").textContent = query ? "Searching…" : "Reading…";
      list.replaceChildren();
      byId("more-memories").hidden = true;
    }
    try {
      const answer = query ? await searchMemories(query) : await listMemories({ ...filter, cursor: more ? this.nextCursor : null });
      if (asked !== this.asked) return; // a later question has been asked meanwhile
      this.drawKept(answer, query);
    } catch (problem) {
      if (asked !== this.asked) return;
      const text = NOT_OFFERED.has(problem.status) ? "This service doesn't list memories yet." : `${problem.title}. ${problem.detail}`;
      byId("kept-note").textContent = text;
    }
  }

  drawKept({ items = [], next_cursor: nextCursor = null }, query) {
    this.keptIsFresh = true;
    this.nextCursor = nextCursor;
    const strongest = query ? Math.max(0, ...items.map((item) => item.score ?? 0)) : 0;
    byId("kept-list").append(...items.map((item) => this.keptCard(item, strongest)));
    byId("more-memories").hidden = !nextCursor;
    const count = byId("kept-list").children.length;
    const none = query ? "Nothing found for that." : "Nothing is remembered yet. What you both say will appear here.";
    byId("kept-note").textContent = count === 0 ? none : query ? `${count} found, best first.` : "";
  }

  keptCard(item, strongest) {
    return memoryCard(item, {
      strongest,
      here: this.hooks.here(),
      onJump: (each) => this.hooks.jump(each.source),
      onCorrect: this.canCorrect && item.layer === "fact" ? (each, card) => this.correct(each, card) : null,
      onForget: this.canForget ? (each, card) => this.forget(each, card) : null,
    });
  }

  correct(item, card) {
    askText({
      title: "Correct this memory",
      label: "What is right",
      value: item.text,
      submit: "Save",
      work: async (text) => {
        const answer = await this.orHide("canCorrect", () => correctMemory(item.id, text));
        const corrected = { ...item, ...(answer?.text ? answer : { text }) };
        card.replaceWith(this.keptCard(corrected, 0));
        announce("Corrected.");
      },
    });
  }

  forget(item, card) {
    askConsent({
      title: "Forget this?",
      text: `“${item.text.slice(0, 160)}” will be removed from memory and not be learnt again from the same words.`,
      submit: "Forget",
      work: async () => {
        await this.orHide("canForget", () => forgetMemory(item.id));
        card.remove();
        byId("kept-note").textContent = "Forgotten.";
      },
    });
  }

  /** A control that this service does not know yet goes away instead of failing twice. */
  async orHide(ability, work) {
    try {
      return await work();
    } catch (problem) {
      if ([405, 501].includes(problem.status) || (problem.status === 404 && problem.code === "")) {
        this[ability] = false;
        void this.showKept();
        problem.title = "This service can't do that yet";
        problem.detail = "";
      }
      throw problem;
    }
  }
}
