// The list of conversations, newest first, and what can be done to one.

import {
  createConversation, deleteConversation, listConversations, lockConversation, renameConversation, unlockConversation,
} from "./api.js";
import { askConsent, askText, openDialog } from "./dialogs.js";
import { asDate, byId, fromTemplate, shortDate } from "./dom.js";

const RECENT = 60_000; // ms for which a row of the list is believed; other devices write too
const USUAL_TITLE = "New conversation";

export const titleOf = (conversation) => conversation?.title || USUAL_TITLE;
export const companionOf = (conversation) => conversation?.companion?.name || "Companion";
export const addressOf = (id, seq) => (seq ? `#/c/${id}/${seq}` : `#/c/${id}`);

/** A first message as a title: its first line, cut at a word. */
export function titleFrom(text) {
  const line = text.split("\n", 1)[0].replace(/[*_`#>]/g, "").trim();
  if (line.length <= 48) return line || USUAL_TITLE;
  const cut = line.slice(0, 48);
  return `${cut.slice(0, Math.max(cut.lastIndexOf(" "), 24))}…`;
}

const timeZone = () => Intl.DateTimeFormat().resolvedOptions().timeZone;

/** hooks: changed(conversation) after a rename, lock or unlock; removed(id); failed(problem) for what no dialog shows. */
export class Conversations {
  constructor(hooks) {
    this.hooks = hooks;
    this.known = new Map();
    this.readAt = new Map();
    this.currentId = null;
    this.nextCursor = null;
    byId("more-conversations").addEventListener("click", () => this.loadMore());
  }

  async load() {
    this.known.clear();
    this.take(await listConversations());
  }

  async loadMore() {
    try {
      this.take(await listConversations(this.nextCursor));
    } catch (problem) {
      this.hooks.failed(problem);
    }
  }

  take({ items, next_cursor: nextCursor }) {
    for (const conversation of items) {
      this.known.set(conversation.id, conversation);
      this.readAt.set(conversation.id, Date.now());
    }
    this.nextCursor = nextCursor ?? null;
    this.draw();
  }

  /** What is known of a conversation, unless it was read so long ago that it may have gone on elsewhere. */
  recent(id) {
    return Date.now() - (this.readAt.get(id) ?? 0) < RECENT ? this.known.get(id) : undefined;
  }

  put(conversation) {
    this.known.set(conversation.id, { ...this.known.get(conversation.id), ...conversation });
    this.readAt.set(conversation.id, Date.now());
    this.draw();
  }

  setCurrent(id) {
    this.currentId = id;
    this.draw();
  }

  draw() {
    const list = [...this.known.values()].sort((a, b) => (a.updated_at < b.updated_at ? 1 : -1));
    byId("conversation-list").replaceChildren(...list.map((each) => this.row(each)));
    byId("more-conversations").hidden = !this.nextCursor;
  }

  row(conversation) {
    const { root, refs } = fromTemplate("t-conversation");
    refs.link.href = addressOf(conversation.id);
    refs.title.textContent = titleOf(conversation);
    const updated = asDate(conversation.updated_at);
    refs.meta.textContent = [
      companionOf(conversation),
      conversation.route === "mature" ? "mature" : "",
      conversation.lock ? "locked" : "",
      updated ? shortDate(updated) : "",
    ].filter(Boolean).join(" · ");
    if (conversation.id === this.currentId) refs.link.setAttribute("aria-current", "page");
    return root;
  }

  /** Make a conversation without asking anything: the newcomer just writes. */
  async createFor(text) {
    const conversation = await createConversation({ title: titleFrom(text), time_zone: timeZone() });
    this.put(conversation);
    return conversation;
  }

  /** A name for a conversation that nobody gave one. */
  async nameIfNameless(id, title) {
    const conversation = this.known.get(id);
    if (!conversation || conversation.title || !title) return;
    this.changed(conversation, await renameConversation(id, title.slice(0, 200)), { title });
  }

  askNew(opened) {
    byId("dialog-new").querySelector("form").reset();
    openDialog("dialog-new", async () => {
      const name = byId("companion-name").value.trim();
      const persona = byId("companion-persona").value.trim();
      const route = document.querySelector("#dialog-new [name=route]:checked").value;
      const conversation = await createConversation({
        route,
        time_zone: timeZone(),
        ...((name || persona) && { companion: { name: name || "Companion", persona } }),
      });
      this.put(conversation);
      return () => opened(conversation);
    });
  }

  askRename(conversation) {
    askText({
      title: "Rename this conversation",
      label: "Name",
      value: titleOf(conversation),
      submit: "Rename",
      work: async (title) => this.changed(conversation, await renameConversation(conversation.id, title), { title }),
    });
  }

  askLock(conversation) {
    askText({
      title: "Lock this conversation",
      label: "Why (may stay empty)",
      submit: "Lock",
      optional: true,
      work: async (reason) => this.changed(conversation, await lockConversation(conversation.id, reason), { lock: { reason } }),
    });
  }

  async unlock(conversation) {
    try {
      this.changed(conversation, await unlockConversation(conversation.id), { lock: null });
    } catch (problem) {
      this.hooks.failed(problem);
    }
  }

  askDelete(conversation) {
    askConsent({
      title: "Delete this conversation?",
      text: `“${titleOf(conversation)}” and all its messages will be gone. This can't be undone.`,
      submit: "Delete",
      work: async () => {
        await deleteConversation(conversation.id);
        this.remove(conversation.id);
      },
    });
  }

  changed(conversation, answer, change) {
    const isWhole = answer && answer.id === conversation.id;
    this.put({ ...conversation, ...change, ...(isWhole ? answer : {}) });
    this.hooks.changed(this.known.get(conversation.id));
  }

  remove(id) {
    this.known.delete(id);
    this.draw();
    this.hooks.removed(id);
  }
}
