// A conversation is a tree of messages: another reply stands beside the first, other words beside the old ones. These
// are its loaded messages, and the one branch of them that is shown.

/** Messages as the API gives them; `headId` is the message that the next one will follow. */
export class Branches {
  constructor() {
    this.byId = new Map();
    this.headId = null;
  }

  put(messages) {
    for (const message of messages) this.byId.set(message.id, message);
  }

  get lastSeq() {
    return Math.max(0, ...[...this.byId.values()].map((message) => message.seq));
  }

  /** The branch that ends at `endId`, or at the head, or where neither is loaded at the newest message; oldest first. */
  path(endId = null) {
    let message = this.byId.get(endId) ?? this.byId.get(this.headId) ?? this.newest();
    const path = [];
    while (message) {
      path.push(message);
      message = this.byId.get(message.parent_id);
    }
    return path.reverse();
  }

  newest() {
    return [...this.byId.values()].reduce((best, each) => (best && best.seq > each.seq ? best : each), undefined);
  }

  /** What was said in the same place, oldest first, the message itself among it. */
  siblings(message) {
    const there = [...this.byId.values()].filter(
      (each) => each.parent_id === message.parent_id && each.role === message.role,
    );
    // a reply that was gone on with stands whole in the one that did: it is no other reply, unless it is what is shown
    const whole = new Set(there.map((each) => each.continues));
    return there.filter((each) => !whole.has(each.id) || each.id === message.id).sort((a, b) => a.seq - b.seq);
  }

  /** The end of the branch that leads on from a message, at each fork by what was said last. */
  leafUnder(id) {
    let leaf = this.byId.get(id);
    for (let next = leaf; next; ) {
      leaf = next;
      next = this.childrenOf(leaf.id).at(-1);
    }
    return leaf;
  }

  childrenOf(id) {
    return [...this.byId.values()].filter((each) => each.parent_id === id).sort((a, b) => a.seq - b.seq);
  }
}
