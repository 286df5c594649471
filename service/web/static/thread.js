// The thread: messages in order of their sequence numbers, days between them, and where the reader looks.

import { byId, dayName, make, sameDay, scrollBehaviour } from "./dom.js";

const NEAR_END = 96; // px from the bottom that still count as reading along

/** An ordered window on a conversation's messages. It may start and end anywhere in it. */
export class Thread {
  constructor(onFill) {
    this.onFill = onFill; // called with whether anything is shown
    this.scroller = byId("thread");
    this.list = byId("messages");
    this.items = [];
    this.follows = true;
    this.scroller.addEventListener("scroll", () => this.noteScroll(), { passive: true });
    byId("to-bottom").addEventListener("click", () => this.toEnd(scrollBehaviour()));
    new ResizeObserver(() => this.keepEnd()).observe(this.list);
    new ResizeObserver(() => this.keepEnd()).observe(this.scroller);
  }

  clear() {
    for (const item of this.items) item.clearTrouble?.();
    this.items = [];
    this.list.replaceChildren();
    this.follows = true;
    this.onFill(false);
    this.noteScroll();
  }

  get firstSeq() {
    return this.items.find((item) => item.seq !== null)?.seq ?? null;
  }

  get lastSeq() {
    return this.items.findLast((item) => item.seq !== null)?.seq ?? 0;
  }

  has(seq) {
    return this.items.some((item) => item.seq === seq);
  }

  /** Messages at their places; ones already here are left out. Those without a number yet stay last. */
  add(messages) {
    const height = this.scroller.scrollHeight;
    const top = this.scroller.scrollTop;
    const before = this.firstSeq;
    for (const message of messages) {
      if (message.seq !== null && this.has(message.seq)) continue;
      this.place(message);
    }
    this.drawDays();
    // Text that arrives above must not push what is being read.
    if (!this.follows && before !== null && this.firstSeq < before) {
      this.scroller.scrollTop = top + (this.scroller.scrollHeight - height);
    }
    this.keepEnd();
  }

  place(message) {
    const at = message.seq === null ? -1 : this.items.findIndex((item) => item.seq === null || item.seq > message.seq);
    if (at < 0) {
      this.items.push(message);
      this.list.append(...message.parts);
    } else {
      this.items[at].parts[0].before(...message.parts);
      this.items.splice(at, 0, message);
    }
  }

  remove(message) {
    message.clearTrouble();
    for (const part of message.parts) part.remove();
    this.items = this.items.filter((item) => item !== message);
    this.drawDays();
  }

  addBeside(element, message) {
    if (message.text) {
      message.parts.at(-1).after(element);
      message.after.push(element);
    } else {
      message.root.before(element);
      message.before.push(element);
    }
    this.keepEnd();
  }

  drawDays() {
    this.onFill(this.items.length > 0);
    for (const day of this.list.querySelectorAll(".day")) day.remove();
    let last = null;
    for (const item of this.items) {
      if (!last || !sameDay(last, item.date)) {
        item.parts[0].before(make("li", { className: "day" }, make("span", { textContent: dayName(item.date) })));
      }
      last = item.date;
    }
  }

  noteScroll() {
    const left = this.scroller.scrollHeight - this.scroller.scrollTop - this.scroller.clientHeight;
    this.follows = left < NEAR_END;
    byId("to-bottom").hidden = this.follows;
  }

  keepEnd() {
    if (this.follows) this.scroller.scrollTop = this.scroller.scrollHeight;
    else this.noteScroll();
  }

  toEnd(behavior = "auto") {
    this.follows = true;
    this.scroller.scrollTo({ top: this.scroller.scrollHeight, behavior });
  }

  /** Bring a message into view, mark it for a moment and give it the focus. False when it isn't loaded. */
  reveal(seq) {
    const item = this.items.find((each) => each.seq === seq);
    if (!item) return false;
    this.follows = false;
    // At once: a slow scroll over a long talk says nothing, and each new layout on the way would start it anew.
    item.root.scrollIntoView({ block: "center", behavior: "instant" });
    item.root.classList.remove("found");
    void item.root.offsetWidth; // lets the mark start anew when the same message is asked for twice
    item.root.classList.add("found");
    item.root.focus({ preventScroll: true });
    return true;
  }
}
