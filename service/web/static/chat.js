// The conversation one looks at: opening it, paging through it, sending, following, stopping.

import { listMessages, Problem, readConversation, readTurn, stopTurn } from "./api.js";
import { companionOf, titleFrom } from "./conversations.js";
import { byId } from "./dom.js";
import { Exchange } from "./exchange.js";
import { ReplyMessage, UserMessage } from "./messages.js";
import { recalledBy } from "./recalled.js";
import { Thread } from "./thread.js";
import { newKey } from "./turns.js";

const PAGE = 50; // messages a request
const LOOK_AGAIN = 10_000; // ms between two looks for news from elsewhere; requests are counted per day

/** hooks: changed(conversation), opened(conversation), started(conversationId, turnId), failed(problem). */
export class Chat {
  constructor({ conversations, composer, memory, hooks }) {
    Object.assign(this, { conversations, composer, memory, hooks });
    this.thread = new Thread((filled) => this.showWelcome(filled));
    this.conversation = null;
    this.exchange = null;
    this.visit = 0; // grows with each opening, so that late answers of an earlier one are dropped
    this.lookedAt = 0;
    byId("load-earlier").addEventListener("click", () => this.loadEarlier());
    byId("load-latest").addEventListener("click", () => this.open(this.conversation));
  }

  /**
   * Show a conversation (null: one that begins with the next message), at its end or at message `seq`. One that was
   * made a moment ago (`isNew`) is known to be empty.
   */
  async open(conversation, seq = null, isNew = false) {
    const visit = (this.visit += 1);
    this.leaveExchange();
    this.conversation = conversation; // before the thread is cleared: the welcome depends on it
    this.composer.moveTo(conversation?.id ?? "");
    this.composer.setStatus("");
    this.thread.clear();
    this.memory.showRecalled(null);
    this.showEdges({ earlier: null, later: false });
    this.hooks.opened(conversation);
    if (!conversation || isNew) return;
    const page = await listMessages(conversation.id, { limit: PAGE, before: seq ? seq + PAGE / 2 : null });
    if (visit !== this.visit) return;
    this.addPage(page);
    const last = this.thread.lastSeq;
    this.showEdges({ earlier: page.next_before, later: seq !== null && conversation.last_seq > last });
    const active = conversation.active_turn_id;
    if (active && !this.hasReplyOf(active)) this.follow(active);
    if (seq) this.thread.reveal(seq);
    else this.thread.toEnd();
  }

  showWelcome(filled) {
    byId("welcome").hidden = filled || (this.conversation?.last_seq ?? 0) > 0;
  }

  leaveExchange() {
    this.exchange?.close();
    this.exchange = null;
    this.composer.setBusy(false);
  }

  addPage({ items }) {
    this.thread.add(items.filter((item) => item.role !== "system").map((item) => this.view(item)));
  }

  view(data) {
    if (data.role === "user") return new UserMessage(data);
    return this.makeReply(data);
  }

  makeReply(data) {
    const reply = new ReplyMessage(data, companionOf(this.conversation), (each) => this.showMemoriesOf(each));
    reply.onDraw = () => this.thread.keepEnd();
    return reply;
  }

  hasReplyOf(turnId) {
    return this.thread.items.some((item) => item instanceof ReplyMessage && item.turnId === turnId);
  }

  showEdges({ earlier, later }) {
    this.earlier = earlier ?? null;
    this.later = later;
    byId("load-earlier").hidden = this.earlier === null;
    byId("load-latest").hidden = !later;
  }

  async loadEarlier() {
    const visit = this.visit;
    const button = byId("load-earlier");
    button.disabled = true;
    try {
      const page = await listMessages(this.conversation.id, { limit: PAGE, before: this.earlier });
      if (visit !== this.visit) return;
      this.thread.follows = false;
      this.addPage(page);
      this.showEdges({ earlier: page.next_before, later: this.later });
    } catch (problem) {
      this.hooks.failed(problem);
    } finally {
      button.disabled = false;
    }
  }

  /** Look at a message of this conversation, loading the part of it where it stands. */
  async jumpTo(seq) {
    if (!this.thread.reveal(seq)) await this.open(this.conversation, seq);
  }

  async send(text) {
    if (this.later) await this.open(this.conversation);
    const said = new UserMessage({ content: text, seq: null });
    this.thread.follows = true;
    this.thread.add([said]);
    await this.deliver(said, { content: text, client_message_id: newKey() });
  }

  /** Send `message`, which `said` shows; the same message again keeps its key, so that it is never said twice. */
  async deliver(said, message, failedTurn = null) {
    const visit = this.visit;
    this.composer.setBusy(true);
    said.setState("Sending…");
    try {
      if (!this.conversation) await this.beginConversation(message.content, visit);
    } catch (problem) {
      if (visit === this.visit) this.declined(said, message, problem);
      else this.composer.keep("", message.content);
      return;
    }
    if (visit === this.visit) this.begin({ said, message, failedTurn });
  }

  async beginConversation(text, visit) {
    const conversation = await this.conversations.createFor(text);
    if (visit !== this.visit) {
      this.composer.keep(conversation.id, text); // its writer has gone elsewhere meanwhile
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

  begin({ said = null, message = null, turnId = null, failedTurn = null }) {
    const reply = this.makeReply({ seq: null });
    this.thread.add([reply]);
    this.memory.showRecalled(reply);
    this.composer.setBusy(true, turnId !== null);
    const exchange = new Exchange({
      conversationId: this.conversation.id,
      thread: this.thread,
      said, reply, message, turnId, failedTurn,
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
    this.composer.setBusy(true, true);
    this.conversation.active_turn_id = data.turn_id;
    if (exchange.message) {
      this.hooks.started(this.conversation.id, data.turn_id);
      // A name is a convenience: without it the talk goes on all the same.
      void this.conversations.nameIfNameless(this.conversation.id, titleFrom(exchange.message.content)).catch(() => {});
    }
    if (!exchange.said && data.seq && !this.thread.has(data.seq)) void this.catchUp();
    this.touch(data.seq, data.created_at);
  }

  /** Messages that were said elsewhere since. */
  async catchUp() {
    const visit = this.visit;
    try {
      const page = await listMessages(this.conversation.id, { limit: PAGE, after: this.thread.lastSeq });
      if (visit !== this.visit) return;
      const live = this.exchange?.turnId;
      this.addPage({ items: page.items.filter((item) => item.role === "user" || item.turn_id !== live) });
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
    this.composer.setBusy(false);
    this.composer.setStatus("");
    this.touch(outcome === "completed" ? detail.seq : null, null);
    this.memory.grewStale();
    if (outcome === "completed") {
      if (!exchange.reply.recalled) this.missedRecall(exchange.reply);
      return;
    }
    if (outcome === "failed") this.failed(exchange, detail);
    else if (exchange.said && !exchange.turnId) this.refused(exchange, detail);
    else void this.lostSight(exchange, detail);
  }

  /** A reader who joined late was given the text in one piece, without what came before it. */
  missedRecall(reply) {
    reply.offerKnots();
    this.memory.showRecalled(null);
  }

  failed({ said, reply, message, turnId }, problem) {
    const again = () => {
      this.thread.remove(reply);
      void this.deliver(said, message, turnId);
    };
    const canRetry = problem.retryable && said && message;
    reply.showTrouble(problem, canRetry ? [{ label: "Try again", run: again, waits: true }] : []);
    this.thread.keepEnd();
  }

  refused({ said, reply, message }, problem) {
    this.thread.remove(reply);
    this.memory.showRecalled(this.thread.items.findLast((item) => item.recalled) ?? null);
    this.declined(said, message, problem);
    if (problem.turnId) this.follow(problem.turnId);
  }

  declined(said, message, problem) {
    this.composer.setBusy(false);
    said.setState("Not sent");
    const mayPass = problem.retryable || problem.turnId;
    said.showTrouble(problem, [
      ...(mayPass ? [{ label: "Try again", run: () => this.deliver(said, message), waits: true }] : []),
      { label: "Edit", run: () => this.takeBack(said) },
    ]);
    this.thread.keepEnd();
  }

  takeBack(said) {
    this.thread.remove(said);
    this.composer.restore(said.text);
  }

  /** The reply's log is out of reach; what was stored of it is not. */
  async lostSight({ reply, turnId }, problem) {
    const turn = await readTurn(this.conversation.id, turnId).catch(() => null);
    if (turn?.text) reply.replace(turn.text);
    reply.finish({ finishReason: turn?.status === "stopped" ? "stopped" : "stop", scripted: turn?.scripted, model: turn?.model });
    if (!turn?.text) reply.showTrouble(turn?.failure ? Problem.fromBody(turn.failure, problem.status) : problem);
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
    if (!this.conversation || this.exchange || this.later || Date.now() - this.lookedAt < LOOK_AGAIN) return;
    this.lookedAt = Date.now();
    const visit = this.visit;
    const fresh = await readConversation(this.conversation.id).catch(() => null);
    if (!fresh || visit !== this.visit || this.exchange) return;
    Object.assign(this.conversation, fresh);
    if (fresh.last_seq > this.thread.lastSeq) await this.catchUp();
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
