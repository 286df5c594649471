// What has been said: the part of a conversation that is loaded, its chosen branch in the thread, and how to get to more.

import { listMessages } from "./api.js";
import { Branches } from "./branches.js";
import { byId } from "./dom.js";
import { Thread } from "./thread.js";

const PAGE = 50; // messages a request
const MOST_PAGES = 10; // looked through for the end of the chosen branch

/** hooks: view(data) makes a message's view; filled(any); choose(message) goes over to its branch; failed(problem). */
export class History {
  constructor(hooks) {
    this.hooks = hooks;
    this.thread = new Thread(hooks.filled);
    this.reset(null);
    byId("load-earlier").addEventListener("click", () => this.loadEarlier());
  }

  reset(conversation) {
    this.conversationId = conversation?.id ?? null;
    this.branches = new Branches();
    this.branches.headId = conversation?.head_id ?? null;
    this.endId = null; // another end than the head, while one looks at an older part
    this.thread.clear();
    this.showEdges(null, false);
  }

  /** Load the newest messages, or those around message `seq`. False when another conversation was opened meanwhile. */
  async load(conversation, seq = null) {
    const branches = this.branches;
    const ask = (query) => listMessages(conversation.id, { limit: PAGE, ...query });
    let page = await ask({ before: seq ? seq + PAGE / 2 : null });
    branches.put(page.items);
    const head = conversation.head_id;
    for (let more = 1; !seq && head && !branches.byId.has(head) && page.next_before && more < MOST_PAGES; more += 1) {
      page = await ask({ before: page.next_before });
      branches.put(page.items);
    }
    if (branches !== this.branches) return false;
    this.showEdges(page.next_before, seq !== null && conversation.last_seq > branches.lastSeq);
    const sought = seq && page.items.find((message) => message.seq === seq);
    if (sought && !branches.path().includes(sought)) this.endId = branches.leafUnder(sought.id).id;
    this.show();
    return true;
  }

  showEdges(earlier, later) {
    this.earlier = earlier ?? null;
    this.later = later; // there are newer messages than the loaded ones
    byId("load-earlier").hidden = this.earlier === null;
    byId("load-latest").hidden = !later;
  }

  async loadEarlier() {
    const branches = this.branches;
    const button = byId("load-earlier");
    button.disabled = true;
    try {
      const page = await listMessages(this.conversationId, { limit: PAGE, before: this.earlier });
      if (branches !== this.branches) return;
      branches.put(page.items);
      this.thread.follows = false;
      this.show();
      this.showEdges(page.next_before, this.later);
    } catch (problem) {
      this.hooks.failed(problem);
    } finally {
      button.disabled = false;
    }
  }

  /** Messages that were said elsewhere since; a reply that is still followed here shows itself. */
  async catchUp(followedTurn) {
    const branches = this.branches;
    const page = await listMessages(this.conversationId, { limit: PAGE, after: branches.lastSeq });
    if (branches !== this.branches) return;
    branches.put(page.items.filter((item) => item.role !== "assistant" || item.turn_id !== followedTurn));
  }

  /** Draw the chosen branch: views that stay keep their place, their text and the reader's selection in it. */
  show() {
    const path = this.branches.path(this.endId).filter((message) => message.role !== "system");
    const wanted = new Set(path.map((message) => message.id));
    for (const item of this.thread.items) if (item.id && !wanted.has(item.id)) this.thread.remove(item);
    const shown = new Set(this.thread.items.map((item) => item.id));
    this.thread.add(path.filter((message) => !shown.has(message.id)).map((message) => this.hooks.view(message)));
    for (const item of this.thread.items) this.showPlace(item);
  }

  showPlace(item) {
    const message = this.branches.byId.get(item.id);
    if (!message) return;
    const siblings = this.branches.siblings(message);
    item.showPlace(siblings.indexOf(message), siblings.length, (at) => this.hooks.choose(siblings[at]));
  }

  /** A message that has just become part of the talk; the next one follows it. */
  extend(message) {
    this.branches.put([message]);
    this.branches.headId = message.id;
    this.endId = null;
  }

  /** Whether message `seq` is on the shown branch and now in view. */
  reveal(seq) {
    return this.thread.reveal(seq);
  }
}
