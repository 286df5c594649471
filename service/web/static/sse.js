// Server-sent events out of raw bytes: the event stream of a POST, which EventSource can't send.
// Follows https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream, with one
// difference: `id` belongs to its own event alone, because the caller resumes from ids it has acted upon.

// A line this long is no event of ours; refusing it keeps a broken upstream from eating the phone's memory.
const LONGEST_LINE = 4_000_000;

/** Incremental parser: bytes in any pieces in, whole events `{id, type, data}` out. */
export class SseParser {
  constructor() {
    // Carries the bytes of a character that two pieces share, and drops a byte order mark.
    this.decoder = new TextDecoder("utf-8");
    this.rest = "";
    this.endedWithCr = false;
    this.clear();
  }

  clear() {
    this.id = null;
    this.type = "";
    this.data = [];
  }

  /** @param {Uint8Array} bytes @returns {{id: string|null, type: string, data: string}[]} */
  push(bytes) {
    let text = this.decoder.decode(bytes, { stream: true });
    const afterCr = this.endedWithCr;
    if (text !== "") this.endedWithCr = text.endsWith("\r");
    if (afterCr && text.startsWith("\n")) text = text.slice(1); // the second half of a CRLF that was cut
    const events = [];
    const lines = (this.rest + text).split(/\r\n|\r|\n/);
    this.rest = lines.pop();
    if (this.rest.length > LONGEST_LINE) throw new RangeError("The event stream holds a line without an end.");
    for (const line of lines) this.take(line, events);
    return events;
  }

  take(line, events) {
    if (line === "") {
      if (this.data.length > 0) {
        events.push({ id: this.id, type: this.type || "message", data: this.data.join("\n") });
      }
      this.clear();
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return; // a comment: the server's ping
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1);
    if (field === "data") this.data.push(value);
    else if (field === "event") this.type = value;
    else if (field === "id" && !value.includes("\0")) this.id = value;
  }
}

/** `<epoch>-<n>` as comparable numbers, or null for anything else. */
export function parseEventId(id) {
  const match = /^(\d{1,15})-(\d{1,15})$/.exec(id ?? "");
  return match && { epoch: Number(match[1]), n: Number(match[2]) };
}

/** Whether event id `a` was given out after `b` (a later writer's epoch wins; then its number). */
export function isLater(a, b) {
  const left = parseEventId(a);
  const right = parseEventId(b);
  if (!left || !right) return true; // without a usable id there is nothing to compare: show it
  return left.epoch !== right.epoch ? left.epoch > right.epoch : left.n > right.n;
}
