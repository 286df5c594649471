// The conversation one looks at: opening it, paging through it, sending, following, stopping.

import { chooseHead, goOn, readConversation, replyAgain, sayAgain, startTurn, stopTurn } from "./api.js";
import { companionOf, titleFrom } from "./conversations.js";
import { askText } from "./dialogs.js";
import { byId } from "./dom.js";
import { Exchange } from "./exchange.js";
import { History } from "./history.js";
import { ReplyMessage, UserMessage } from "./messages.js";
import { declined, settle } from "./outcomes.js";
import { recalledBy } from "./recalled.js";
import { newKey } from "./turns.js";

const LOOK_AGAIN = 10_000; // ms between two looks for news from elsewhere

/** hooks: changed(conversation), opened(conversation), started(conversationId, turnId), failed(problem). */
export class Chat {
  constructor({ conversations, composer, memory, hooks }) {
    Object.assign(this, { conversations, composer, memory, hooks });
    this.conversation = null;
    this.exchange = null;
    this.visit = 0; // grows with each opening, so that late answers of an earlier one are dropped
    this.lookedAt = 0;
    this.history = new History({
      view: (data) => this.view(data),
      filled: (any) => this.showWelcome(any),
      choose: (message) => this.choose(message),
      failed: hooks.failed,
    });
    this.thread = this.history.thread;
    byId("load-latest").addEventListener("click", () => this.open(this.conversation));
  }

  /**
   * Show a conversation (null: one that begins with the next message), at its end or at message `seq`. One that was
   * made a moment ago (`isNew`) is known to be empty.
   */
  async open(conversation, seq = null, isNew = false) {
    this.visit += 1;
    this.leaveExchange();
    this.keepUnsent();
    this.conversation = conversation; // before the thread is cleared: the welcome depends on it
    this.composer.moveTo(conversation?.id ?? "");
    this.composer.setStatus("");
    this.history.reset(conversation);
    this.memory.showRecalled(null);
    this.hooks.opened(conversation);
    if (!conversation || isNew || !(await this.history.load(conversation, seq))) return;
    const active = conversation.active_turn_id;
    if (active && !this.hasReplyOf(active)) this.follow(active);
    if (seq) this.history.reveal(seq);
    else this.thread.toEnd();
  }

  /** What could not be sent is found in the message box when one comes back. */
  keepUnsent() {
    const unsent = this.thread.items.filter((item) => item.isUnsent).map((item) => item.text);
    if (unsent.length > 0) this.composer.keep(unsent.join("\n"));
  }

  showWelcome(filled) {
    byId("welcome").hidden = filled || (this.conversation?.last_seq ?? 0) > 0;
  }

  leaveExchange() {
    this.exchange?.close();
    this.exchange = null;
    this.setBusy(false);
  }

  /** While a reply is being written nothing else can be asked for: what would ask goes out of sight. */
  setBusy(busy, stoppable = false) {
    this.composer.setBusy(busy, stoppable);
    byId("messages").classList.toggle("busy", busy);
  }

  view(data) {
    if (data.role !== "user") return this.makeReply(data);
    return new UserMessage(data, (said) => this.askEdit(said));
  }

  makeReply(data) {
    const reply = new ReplyMessage(data, companionOf(this.conversation), {
      memories: (each) => this.showMemoriesOf(each),
      again: (each) => this.replyAgain(each),
      goOn: (each) => this.goOnWith(each),
    });
    reply.onDraw = () => this.thread.keepEnd();
    return reply;
  }

  hasReplyOf(turnId) {
    return this.thread.items.some((item) => item instanceof ReplyMessage && item.turnId === turnId);
  }

  /** Look at a message of this conversation, loading the part of it where it stands. */
  async jumpTo(seq) {
    if (!this.history.reveal(seq)) await this.open(this.conversation, seq);
  }

  /** Go over to the branch of a message: the talk goes on from its end. */
  async choose(message) {
    if (this.exchange) return;
    const leaf = this.history.branches.leafUnder(message.id);
    this.history.extend(leaf);
    this.history.show();
    this.thread.reveal(message.seq);
    try {
      this.took(await chooseHead(this.conversation.id, leaf.id));
    } catch (problem) {
      this.hooks.failed(problem);
    }
  }

  took(conversation) {
    Object.assign(this.conversation, conversation);
    this.hooks.changed(this.conversation);
  }

  /** Another reply to the same message; the first one stays beside it. */
  replyAgain(reply) {
    const asked = this.history.branches.byId.get(reply.id)?.parent_id;
    if (asked && !this.exchange) this.answerAgain(asked);
  }

  answerAgain(messageId) {
    this.history.endId = messageId;
    this.history.show();
    this.composer.offerFocus(); // what was pressed is gone
    const key = newKey();
    this.begin({ open: (signal) => replyAgain(this.conversation.id, messageId, key, signal) });
  }

  /** The rest of a reply that was stopped, cut or interrupted, in the same bubble as what there is of it. */
  goOnWith({ id, turnId, text, askedId = null }) {
    const asked = this.history.branches.byId.get(id)?.parent_id ?? askedId;
    if (!asked || this.exchange) return;
    this.history.endId = asked;
    this.history.show();
    this.composer.offerFocus();
    const key = newKey();
    this.begin({ open: (signal) => goOn(this.conversation.id, turnId, key, signal), begun: { id, text } });
  }

  /** Other words in a message's place; the old ones and what followed stay, as a branch beside. */
  askEdit(said) {
    if (this.exchange) return;
    askText({
      title: "Say it differently",
      label: "Your words",
      value: said.text,
      submit: "Send",
      work: (text) => () => this.sayInPlace(said, text),
    });
  }

  sayInPlace(old, text) {
    const parentId = this.history.branches.byId.get(old.id).parent_id;
    const said = this.view({ role: "user", content: text, seq: null });
    this.thread.remove(old);
    this.history.endId = parentId;
    if (parentId) this.history.show();
    else this.thread.clear();
    this.thread.add([said]);
    void this.deliver(said, { content: text, client_message_id: newKey() }, old.id);
  }

  async send(text) {
    if (this.history.later || this.history.endId) await this.open(this.conversation);
    const said = this.view({ role: "user", content: text, seq: null });
    this.thread.follows = true;
    this.thread.add([said]);
    await this.deliver(said, { content: text, client_message_id: newKey() });
  }

  /** Send `message`, which `said` shows; the same message again keeps its key, so that it is never said twice. */
  async deliver(said, message, inPlaceOf = null) {
    const visit = this.visit;
    this.setBusy(true);
    said.isUnsent = false;
    said.setState("Sending…");
    try {
      if (!this.conversation) await this.beginConversation(message.content, visit);
    } catch (problem) {
      if (visit === this.visit) declined(this, { said, message }, problem);
      else this.composer.keep(message.content, "");
      return;
    }
    if (visit !== this.visit) return;
    const id = this.conversation.id;
    const open = inPlaceOf ? (signal) => sayAgain(id, inPlaceOf, message, signal) : (signal) => startTurn(id, message, signal);
    this.begin({ said, message, inPlaceOf, open });
  }

  async beginConversation(text, visit) {
    const conversation = await this.conversations.createFor(text);
    if (visit !== this.visit) {
      this.composer.keep(text, conversation.id); // its writer has gone elsewhere meanwhile
      return;
    }
    this.conversation = conversation;
    this.composer.rename(conversation.id);
    this.hooks.opened(conversation);
  }

  follow(turnId) {
    if (this.exchange?.turnId === turnId || this.hasReplyOf(turnId)) return;
    this.leaveExchange();
    this.begin({ turnId });
  }

  begin({ said = null, message = null, inPlaceOf = null, turnId = null, open = null, begun = null }) {
    const reply = this.makeReply({ seq: null });
    if (begun) reply.replace(begun.text);
    this.thread.add([reply]);
    this.memory.showRecalled(reply);
    this.setBusy(true, turnId !== null);
    const exchange = new Exchange({
      conversationId: this.conversation.id,
      thread: this.thread,
      said, reply, message, inPlaceOf, turnId, open, continues: begun?.id ?? null,
      hooks: {
        accepted: (data) => this.accepted(exchange, data),
        recalled: (each) => this.memory.newlyRecalled(each),
        connection: (text) => this.composer.setStatus(text),
        ended: (outcome, detail) => this.ended(exchange, outcome, detail),
      },
    });
    this.exchange = exchange;
    void exchange.start();
  }

  accepted(exchange, data) {
    const { said, message, open } = exchange;
    const { branches } = this.history;
    this.setBusy(true, true);
    this.conversation.active_turn_id = data.turn_id;
    if (open) this.hooks.started(this.conversation.id, data.turn_id);
    const isKnown = branches.byId.has(data.message_id);
    if (said && !isKnown) this.extendBy(said, message.content, exchange.inPlaceOf);
    // whatever stood after the message that is answered is another branch, unless no reply comes
    if (isKnown) exchange.headBefore = branches.headId;
    branches.headId = data.message_id;
    this.history.endId = null;
    if (isKnown) this.history.show();
    else if (!said) void this.catchUp();
    if (!this.conversation.title && message) this.conversation.title = titleFrom(message.content); // as the service does
    this.touch(data.seq, data.created_at);
  }

  extendBy(said, content, inPlaceOf) {
    const { branches } = this.history;
    const parentId = inPlaceOf ? branches.byId.get(inPlaceOf)?.parent_id : branches.headId;
    this.history.extend({ id: said.id, seq: said.seq, parent_id: parentId ?? null, role: "user", content });
    this.history.showPlace(said);
  }

  /** Read what was said elsewhere since, and show the chosen branch with it. */
  async catchUp() {
    const visit = this.visit;
    try {
      await this.history.catchUp(this.exchange?.turnId);
      if (visit === this.visit) this.history.show();
    } catch (problem) {
      this.hooks.failed(problem);
    }
  }

  touch(seq, time) {
    const conversation = this.conversation;
    conversation.last_seq = Math.max(conversation.last_seq ?? 0, seq ?? 0);
    conversation.updated_at = time ?? new Date().toISOString();
    this.hooks.changed(conversation);
  }

  ended(exchange, outcome, detail) {
    if (this.exchange !== exchange) return;
    this.exchange = null;
    this.conversation.active_turn_id = null;
    this.setBusy(false);
    this.composer.setStatus("");
    if (outcome === "completed") this.keep(exchange, detail);
    if (outcome === "failed" && exchange.headBefore) {
      this.history.branches.headId = exchange.headBefore;
      this.history.show();
    }
    this.conversation.head_id = this.history.branches.headId;
    this.touch(outcome === "completed" ? detail.seq : null, null);
    this.memory.grewStale();
    settle(this, exchange, outcome, detail);
  }

  keep({ reply, askedId, continues }, { message_id: id, seq }) {
    const turn = { turn_id: reply.turnId, content: reply.text, continues };
    this.history.extend({ id, seq, parent_id: askedId, role: "assistant", ...turn });
    this.history.showPlace(reply);
  }

  async stop() {
    const exchange = this.exchange;
    if (!exchange?.turnId || exchange.stopped) return;
    exchange.stopped = true;
    this.composer.setStatus("Stopping…");
    try {
      await stopTurn(this.conversation.id, exchange.turnId);
    } catch (problem) {
      exchange.stopped = false;
      this.composer.setStatus("");
      this.hooks.failed(problem);
    }
  }

  /** The tab is looked at again: has the talk gone on elsewhere? */
  async lookAgain() {
    if (!this.conversation || this.exchange || this.history.later || Date.now() - this.lookedAt < LOOK_AGAIN) return;
    this.lookedAt = Date.now();
    const visit = this.visit;
    const fresh = await readConversation(this.conversation.id).catch(() => null);
    if (!fresh || visit !== this.visit || this.exchange) return;
    this.took(fresh);
    if (fresh.head_id !== this.history.branches.headId) {
      this.history.branches.headId = fresh.head_id;
      await this.catchUp();
    }
    if (fresh.active_turn_id && visit === this.visit) this.follow(fresh.active_turn_id);
  }

  async showMemoriesOf(reply) {
    this.memory.open();
    this.memory.showRecalled(reply);
    if (reply.recalled) return;
    reply.setRecalled(await recalledBy(this.conversation.id, reply.turnId));
    this.memory.showRecalled(reply);
  }
}
