// One message of either side as an element of the thread.

import { asDate, clockTime, fromTemplate, make } from "./dom.js";
import { renderMarkdown } from "./markdown.js";

const FINISHES = {
  stop: "",
  stopped: "Stopped",
  length: "Ended at its length limit",
  content_filter: "Ended by the model's filter",
};

class Message {
  constructor(template, { id, seq, speaker, created_at: createdAt, turn_id: turnId }, fallbackName) {
    const { root, refs } = fromTemplate(template);
    // notices stand beside the message they were told with, before it and after it
    Object.assign(this, { root, refs, turnId: turnId ?? null, before: [], after: [] });
    this.name = speaker || fallbackName;
    refs.speaker.textContent = this.name;
    this.stopTrouble = () => {};
    this.settle({ id, seq, createdAt });
  }

  /** All that stands for it in the thread, in order. */
  get parts() {
    return [...this.before, this.root, ...this.after];
  }

  /** Take the place in the conversation that the service gave. */
  settle({ id, seq, createdAt }) {
    this.id = id ?? this.id ?? null;
    this.seq = seq ?? this.seq ?? null;
    this.date = asDate(createdAt) ?? this.date ?? new Date();
    if (this.seq !== null) this.root.id = `m-${this.seq}`;
    this.refs.time.dateTime = this.date.toISOString();
    this.refs.time.textContent = clockTime(this.date);
  }

  setState(text) {
    this.refs.state.textContent = text;
  }

  /** Which of several it is in its place, and the way to the others: `go(at)`. */
  showPlace(at, count, go) {
    const { act, turns, turnText, before, after } = this.refs;
    act.hidden = false;
    turns.hidden = count < 2;
    turnText.textContent = `${at + 1} of ${count}`;
    before.disabled = at === 0;
    after.disabled = at === count - 1;
    before.onclick = () => go(at - 1);
    after.onclick = () => go(at + 1);
  }

  /**
   * Say plainly what went wrong, with what can be done: actions are `{label, run, waits?}`; one that waits is
   * counted down over the problem's retryAfter first.
   */
  showTrouble(problem, actions = []) {
    this.clearTrouble();
    const { root, refs } = fromTemplate("t-trouble");
    refs.title.textContent = problem.title;
    refs.detail.textContent = problem.detail;
    refs.detail.hidden = !problem.detail;
    for (const action of actions) {
      const button = make("button", { type: "button", className: "button", textContent: action.label });
      button.addEventListener("click", () => {
        this.clearTrouble();
        action.run();
      });
      refs.actions.append(button);
      if (action.waits && problem.retryAfter) this.stopTrouble = countDown(button, action.label, problem.retryAfter);
    }
    refs.actions.hidden = actions.length === 0;
    this.refs.trouble.replaceChildren(root);
    this.refs.trouble.hidden = false;
  }

  clearTrouble() {
    this.stopTrouble();
    this.stopTrouble = () => {};
    this.refs.trouble.hidden = true;
    this.refs.trouble.replaceChildren();
  }
}

/** Seconds as they are said: a spent budget is new at midnight, and nobody counts down 40,000 s. */
function duration(seconds) {
  if (seconds >= 7200) return `${Math.round(seconds / 3600)} h`;
  return seconds >= 120 ? `${Math.round(seconds / 60)} min` : `${seconds} s`;
}

function countDown(button, label, seconds) {
  // Against the clock, not by counting ticks: a phone's timers sleep with its screen.
  const due = Date.now() + seconds * 1000;
  const tick = () => {
    const left = Math.ceil((due - Date.now()) / 1000);
    button.disabled = left > 0;
    button.textContent = left > 0 ? `${label} in ${duration(left)}` : label;
    if (left <= 0) clearInterval(timer);
  };
  const timer = setInterval(tick, 500);
  tick();
  return () => clearInterval(timer);
}

/** What the user wrote, shown as written. */
export class UserMessage extends Message {
  constructor(data, onEdit) {
    super("t-user", data, "You");
    this.refs.act.addEventListener("click", () => onEdit(this));
    this.refs.speaker.textContent = `${this.name}:`;
    this.text = data.content;
    this.refs.words.textContent = data.content;
    this.after = noticeElements(data.notices);
  }
}

/** What the companion answers, whole or growing. */
export class ReplyMessage extends Message {
  /** on: memories(reply), again(reply), goOn(reply) */
  constructor(data, companion, on) {
    super("t-reply", data, companion);
    this.refs.act.addEventListener("click", () => on.again(this));
    this.refs.more.addEventListener("click", () => on.goOn(this));
    this.text = "";
    this.recalled = null;
    this.frame = 0;
    this.refs.knots.addEventListener("click", () => on.memories(this));
    this.before = noticeElements(data.notices);
    this.think(data.reasoning ?? "");
    if (data.content) this.replace(data.content);
    if (data.status === "stopped") this.setState(FINISHES.stopped);
    if (data.status === "cut") this.setState(FINISHES.length);
    if (["stopped", "cut"].includes(data.status) && data.turn_id) this.offerMore();
    // Which memories served an older reply is known to its log alone; asking costs a request, so only on demand.
    if (this.turnId && data.content) this.offerKnots();
  }

  wait(text) {
    this.root.classList.add("live");
    this.root.setAttribute("aria-busy", "true");
    this.refs.waiting.textContent = text;
    this.refs.waiting.hidden = false;
  }

  /** What the model thought, as plain text and folded away: it is not what the companion says. */
  think(text) {
    this.thought = text;
    this.refs.thoughtText.textContent = text;
    this.refs.thought.hidden = !text;
  }

  append(text) {
    this.text += text;
    this.refs.waiting.hidden = true;
    this.frame ||= requestAnimationFrame(() => this.draw());
  }

  replace(text) {
    this.text = text;
    if (text) this.refs.waiting.hidden = true;
    this.draw();
  }

  draw() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    renderMarkdown(this.refs.words, this.text);
    this.onDraw?.();
  }

  finish({ finishReason = "stop", scripted = false, model = "" } = {}) {
    this.draw();
    this.root.classList.remove("live");
    this.root.removeAttribute("aria-busy");
    this.refs.waiting.hidden = true;
    const words = FINISHES[finishReason] ?? "";
    this.setState([words, scripted ? "Scripted reply" : ""].filter(Boolean).join(" · "));
    this.refs.state.title = model ? `Written by ${model}` : "";
    this.refs.state.classList.toggle("scripted", scripted);
  }

  /** It ended before its end: the rest can be asked for. */
  offerMore() {
    this.refs.more.hidden = !this.text;
  }

  setRecalled(items) {
    this.recalled = items;
    this.refs.knots.classList.remove("asks");
    this.refs.knots.title = "";
    this.refs.knotText.className = "";
    this.root.classList.toggle("remembers", items.length > 0);
    this.refs.dots.replaceChildren(...items.slice(0, 3).map(() => make("i")));
    this.refs.knotText.textContent = items.length === 1 ? "1 memory" : `${items.length} memories`;
    this.refs.knots.hidden = items.length === 0;
  }

  offerKnots() {
    this.refs.dots.replaceChildren(make("i"));
    this.refs.knotText.textContent = "Which memories served this reply?";
    this.refs.knotText.className = "visually-hidden";
    this.refs.knots.title = this.refs.knotText.textContent;
    this.refs.knots.classList.add("asks");
    this.refs.knots.hidden = false;
  }
}

function noticeElements(notices) {
  return (notices ?? []).map((notice) => noticeElement(notice.kind, notice.text));
}

/** A notice of the service (that this is no human, a break, where to find help), in the flow of the talk. */
export function noticeElement(kind, text) {
  return make("li", { className: `notice notice-${/^[a-z_]+$/.test(kind) ? kind : "other"}` }, make("p", { textContent: text }));
}
