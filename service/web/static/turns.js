// One turn as the page sees it: sent once however often it is tried, followed to its end through any number of
// broken connections. A connection is not the reply: the reply is a log, and this reads it from where it stopped.

import { followTurn, Problem } from "./api.js";
import { isLater, SseParser } from "./sse.js";

export const RETRY = {
  attempts: 10, // without one new event; a stream that moves starts counting anew
  firstDelay: 300, // ms, doubled each time
  longestDelay: 8_000, // ms
  silence: 45_000, // ms without a byte: the server pings every 15 s, so the connection is dead
};

const TERMINAL = new Set(["turn.completed", "turn.failed"]);

/** A key for one message. Browsers keep randomUUID from pages without TLS, such as a phone's on the home network. */
export function newKey() {
  if (crypto.randomUUID) return crypto.randomUUID();
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Milliseconds before try number `attempt` (0 is the first): doubled, capped, spread so that readers don't march. */
export function delayBefore(attempt, random = Math.random) {
  const full = Math.min(RETRY.longestDelay, RETRY.firstDelay * 2 ** attempt);
  return full * (0.5 + random() / 2);
}

/**
 * Follows one turn: `turnId`, or the one that `open(signal)` begins, which may be called again when it breaks.
 *
 * `onEvent(type, data)` is called once for each event of the contract, in order. `onState(state)` tells about the
 * connection: "open", "reconnecting", "lost" (gave up; `again()` starts over), "done". `onRefused(problem)` is called
 * when the service itself declines: nothing more will come.
 */
export class TurnFollower {
  constructor({ conversationId, turnId = null, open = null, onEvent, onState, onRefused }) {
    Object.assign(this, { conversationId, turnId, open, onEvent, onState, onRefused });
    this.lastId = "";
    this.attempt = 0;
    this.done = false;
    this.abort = null;
    this.wake = null;
    this.comeBack = () => this.wake?.();
  }

  async run() {
    addEventListener("online", this.comeBack);
    try {
      while (!this.done) {
        const problem = await this.connect();
        if (this.done) break;
        if (problem && !this.mayPass(problem)) {
          this.done = true;
          this.onRefused(problem);
          break;
        }
        if (this.attempt >= RETRY.attempts) {
          this.onState("lost");
          break;
        }
        this.onState("reconnecting");
        await this.pause(Math.max(delayBefore(this.attempt), (problem?.retryAfter ?? 0) * 1000));
        this.attempt += 1;
      }
    } finally {
      removeEventListener("online", this.comeBack);
    }
  }

  /** A turn already accepted is worth waiting for; a message that was declined is its writer's decision. */
  mayPass(problem) {
    return problem.isUnreachable || (this.turnId !== null && problem.retryable);
  }

  again() {
    this.attempt = 0;
    return this.run();
  }

  /** Stop looking. The reply goes on without us: a disconnect never cancels. */
  close() {
    this.done = true;
    this.abort?.abort();
    this.wake?.();
  }

  /** One connection, read until it ends or breaks. Returns the problem when there was one. */
  async connect() {
    this.abort = new AbortController();
    try {
      const response = this.turnId
        ? await followTurn(this.conversationId, this.turnId, this.lastId, this.abort.signal)
        : await this.open(this.abort.signal);
      await this.read(response.body.getReader());
      return null;
    } catch (error) {
      if (error instanceof Problem) return error;
      return null; // aborted, or broken in the middle of the body
    } finally {
      this.abort.abort(); // whatever is left of this connection must not linger beside the next
    }
  }

  async read(reader) {
    const parser = new SseParser();
    for (;;) {
      const { value, done } = await this.withinSilence(reader.read());
      if (done) return;
      for (const event of parser.push(value)) {
        this.take(event);
        if (this.done) return;
      }
    }
  }

  async withinSilence(reading) {
    let timer;
    const silence = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error("silence")), RETRY.silence);
    });
    try {
      return await Promise.race([reading, silence]);
    } finally {
      clearTimeout(timer);
    }
  }

  take({ id, type, data }) {
    if (id && this.lastId && !isLater(id, this.lastId)) return; // shown before the connection broke
    let body;
    try {
      body = JSON.parse(data);
    } catch {
      return; // no event of the contract
    }
    if (id) this.lastId = id;
    if (type === "turn.accepted") this.turnId = body.turn_id;
    this.attempt = 0;
    this.onState("open");
    this.onEvent(type, body);
    if (TERMINAL.has(type)) {
      this.done = true;
      this.onState("done");
    }
  }

  pause(milliseconds) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
