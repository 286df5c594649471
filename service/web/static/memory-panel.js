// The memory panel: what served the reply one looks at, and all that is kept, to be searched, corrected, forgotten.

import {
  addMemory, changeMemory, forgetEverything, forgetMemory, listMemories, readMemory, searchMemories,
} from "./api.js";
import { askConsent, askText } from "./dialogs.js";
import { announce, byId } from "./dom.js";
import { memoryCard, showPast } from "./memory-card.js";

const NOT_OFFERED = new Set([404, 405, 501]);

/** A receipt of forgetting in a sentence: where was looked, and how much was found. */
function receiptText(receipt) {
  const looked = receipt?.stores ?? [];
  const removed = looked.reduce((sum, each) => sum + (each.removed ?? 0), 0);
  return looked.length === 0 ? "Forgotten." : `Forgotten: ${removed} entries removed from ${looked.length} places.`;
}

/** hooks: here() is the id of the open conversation; jump(source) to the message a memory comes from. */
export class MemoryPanel {
  constructor(panel, hooks) {
    this.panel = panel;
    this.hooks = hooks;
    this.tabs = [byId("tab-recalled"), byId("tab-kept")];
    this.nextCursor = null;
    this.asked = 0;
    this.keptIsFresh = false;
    this.can = { change: true, forget: true };
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
    byId("memory-add").addEventListener("click", () => this.add());
    byId("memory-forget-all").addEventListener("click", () => this.forgetAll());
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
    const isFact = item.layer === "fact";
    return memoryCard(item, {
      strongest,
      here: this.hooks.here(),
      onJump: (each) => this.hooks.jump(each.source),
      onCorrect: this.can.change && isFact ? (each, card) => this.correct(each, card) : null,
      onPin: this.can.change && isFact && item.pinned !== undefined ? (each, card) => this.pin(each, card) : null,
      onPast: (each, card) => this.past(each, card),
      onForget: this.can.forget ? (each, card) => this.forget(each, card) : null,
    });
  }

  async correct(item, card) {
    // A hit of a search carries its day in its text; what is to be corrected is the fact alone.
    const whole = item.kind === undefined ? await readMemory(item.id).catch(() => item) : item;
    askText({
      title: "Correct this memory",
      label: "What is right",
      value: whole.text,
      submit: "Save",
      work: async (text) => {
        const answer = await this.orHide("change", () => changeMemory(item.id, { text }));
        card.replaceWith(this.keptCard({ ...whole, text, ...answer }, 0));
        announce("Corrected.");
      },
    });
  }

  async pin(item, card) {
    await this.orTell(async () => {
      const answer = await this.orHide("change", () => changeMemory(item.id, { pinned: !item.pinned }));
      const fresh = this.keptCard({ ...item, pinned: !item.pinned, ...answer }, 0);
      card.replaceWith(fresh);
      fresh.querySelector("[data-ref=pin]").focus();
    });
  }

  async past(item, card) {
    await this.orTell(async () => showPast(card, await readMemory(item.id)));
  }

  forget(item, card) {
    const rest = item.layer === "fact" ? "and the words that taught it will" : "and what was learnt from it alone will";
    askConsent({
      title: "Forget this?",
      text: `“${item.text.slice(0, 160)}” ${rest} be removed. It will not be learnt again from the same words.`,
      submit: "Forget",
      work: async () => {
        const receipt = await this.orHide("forget", () => forgetMemory(item.id));
        card.remove();
        for (const id of receipt?.forgotten ?? []) byId("kept-list").querySelector(`[data-memory="${CSS.escape(id)}"]`)?.remove();
        byId("kept-note").textContent = receiptText(receipt);
      },
    });
  }

  forgetAll() {
    askConsent({
      title: "Forget everything?",
      text: "All memories will be removed. Your conversations stay and can be read, but nothing of them will be recalled or learnt again. This can't be undone.",
      submit: "Forget everything",
      work: async () => {
        const receipt = await forgetEverything();
        await this.showKept();
        byId("kept-note").textContent = receiptText(receipt);
      },
    });
  }

  add() {
    askText({
      title: "Add a memory",
      label: "What to remember about you",
      submit: "Remember",
      work: async (text) => {
        const item = await addMemory(text);
        byId("kept-list").prepend(this.keptCard(item, 0));
        byId("kept-note").textContent = "Remembered.";
      },
    });
  }

  /** Work without a dialog says in the panel what went wrong. */
  async orTell(work) {
    try {
      await work();
    } catch (problem) {
      byId("kept-note").textContent = `${problem.title}. ${problem.detail}`;
    }
  }

  /** A control that this service does not know yet goes away instead of failing twice. */
  async orHide(ability, work) {
    try {
      return await work();
    } catch (problem) {
      if ([405, 501].includes(problem.status) || (problem.status === 404 && problem.code === "")) {
        this.can[ability] = false;
        void this.showKept();
        problem.title = "This service can't do that yet";
        problem.detail = "";
      }
      throw problem;
    }
  }
}
