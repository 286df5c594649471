// One exchange: what the user said, the reply that grows under it, and everything that can happen in between.

import { Problem } from "./api.js";
import { Reader, announce } from "./dom.js";
import { noticeElement } from "./messages.js";
import { TurnFollower } from "./turns.js";

const CONNECTION = { open: "", reconnecting: "Reconnecting…", lost: "Connection lost", done: "" };

/**
 * Begins a turn (by `open`) or only follows one (`turnId`) and shows it in `reply`; `said` shows the user's `message`,
 * if it was said here, and `inPlaceOf` is the id of the one whose place it takes.
 *
 * hooks: accepted(data), recalled(reply), connection(text), ended(outcome) where the outcome is
 * "completed", "failed" or "refused" (with the problem as second argument).
 */
export class Exchange {
  constructor({ conversationId, thread, said = null, reply, message = null, inPlaceOf = null, turnId = null, open = null, continues = null, hooks }) {
    Object.assign(this, { conversationId, thread, said, reply, message, inPlaceOf, turnId, open, continues, hooks });
    this.reader = new Reader();
    this.stopped = false;
    this.told = new Set(); // notices by id: a reply that starts again tells nothing twice
    this.follower = new TurnFollower({
      conversationId: this.conversationId,
      turnId: this.turnId,
      open: this.open,
      onEvent: (type, data) => this.take(type, data),
      onState: (state) => this.connection(state),
      onRefused: (problem) => this.refused(problem),
    });
  }

  start() {
    this.reply.wait(`${this.reply.name} is thinking`);
    return this.follower.run();
  }

  close() {
    this.follower.close();
  }

  connection(state) {
    this.hooks.connection(CONNECTION[state]);
    if (state === "lost") {
      this.reply.showTrouble(Problem.unreachable(), [{ label: "Try again", run: () => this.follower.again() }]);
    }
  }

  take(type, data) {
    const handle = this[HANDLERS[type]];
    handle?.call(this, data); // an event of a later version is no reason to stumble
  }

  accepted(data) {
    this.turnId = data.turn_id;
    this.askedId = data.message_id; // the message that is being answered
    this.reply.turnId = data.turn_id;
    this.said?.settle({ id: data.message_id, seq: data.seq, createdAt: data.created_at });
    this.said?.setState("");
    this.hooks.accepted(data);
  }

  recalled(data) {
    this.reply.setRecalled(data.items ?? []);
    this.hooks.recalled(this.reply);
  }

  delta(data) {
    this.reply.append(data.text);
    this.reader.add(data.text);
  }

  reasoning(data) {
    this.reply.think(this.reply.thought + data.text);
  }

  notice(data) {
    if (data.kind === "queue") {
      this.reply.wait(data.text); // a place in a queue is news for a moment only
      return;
    }
    if (this.told.has(data.id)) return;
    this.told.add(data.id ?? data.text);
    this.thread.addBeside(noticeElement(data.kind, data.text), this.reply);
    announce(data.text);
  }

  /** Another writer goes on behind the first `kept_chars` characters, which is all that both have in common. */
  takenOver(data) {
    const kept = firstCharacters(this.reply.text, data.kept_chars ?? Infinity);
    if (kept !== this.reply.text) this.reply.replace(kept);
    if (data.grade !== "exact") this.reply.setState("Picked up by another server");
  }

  rebased(data) {
    this.reply.replace(data.text ?? "");
    this.reply.think(data.reasoning ?? "");
    if (data.reason === "continued") return; // this is where it goes on
    if (data.reason === "thinking") {
      this.reply.wait(`${this.reply.name} is thinking`);
      this.reader.pending = "";
      return;
    }
    if (!data.text) this.reply.wait(`${this.reply.name} starts again`);
    this.reply.setState("Started again after an interruption");
    this.reader.pending = data.text ?? "";
    announce("The reply starts again.");
  }

  completed(data) {
    this.reply.settle({ id: data.message_id, seq: data.seq, createdAt: new Date().toISOString() });
    const finishReason = this.stopped ? "stopped" : data.finish_reason;
    this.reply.finish({ finishReason, scripted: data.scripted, model: data.model });
    if (["stopped", "length"].includes(finishReason)) this.reply.offerMore();
    this.reader.finish();
    this.hooks.ended("completed", data);
  }

  failed(data) {
    const problem = Problem.fromBody(data, data.status ?? 500);
    this.reply.finish({ finishReason: "" });
    this.reader.finish();
    announce(`${problem.title}. ${problem.detail}`);
    this.hooks.ended("failed", problem);
  }

  refused(problem) {
    this.hooks.ended("refused", problem);
    announce(`${problem.title}. ${problem.detail}`);
  }
}

/** The service counts characters as Unicode does; JavaScript's strings count an emoji as two. */
function firstCharacters(text, count) {
  return text.length <= count ? text : Array.from(text).slice(0, count).join("");
}

const HANDLERS = {
  "turn.accepted": "accepted",
  "memory.recalled": "recalled",
  "reply.delta": "delta",
  "reply.reasoning": "reasoning",
  notice: "notice",
  "turn.taken_over": "takenOver",
  "turn.rebased": "rebased",
  "turn.completed": "completed",
  "turn.failed": "failed",
};
