// Which memories served an older reply: the first events of its log tell, for as long as the log is kept.

import { followTurn } from "./api.js";
import { SseParser } from "./sse.js";

/** The items of a turn's `memory.recalled`; none when the log is gone. Reads no further than that event. */
export async function recalledBy(conversationId, turnId) {
  const abort = new AbortController();
  try {
    const response = await followTurn(conversationId, turnId, "", abort.signal);
    const parser = new SseParser();
    const reader = response.body.getReader();
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return [];
      const found = parser.push(value).find((event) => event.type === "memory.recalled");
      if (found) return JSON.parse(found.data).items ?? [];
    }
  } catch {
    return [];
  } finally {
    abort.abort();
  }
}
