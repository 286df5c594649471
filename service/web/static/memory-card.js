// One memory as a card: what, who said it when, why it came up, and what can be done about it.

import { asDate, fromTemplate, make, shortDate } from "./dom.js";

// The signals of recall, in words that need no manual.
const REASONS = {
  dense: "similar in meaning",
  lexical: "shares words",
  bm25: "shares words",
  time: "from the time you named",
  temporal: "from the time you named",
  neighbour: "said right beside a match",
  neighbor: "said right beside a match",
  speaker: "said by whom you mean",
  recent: "said lately",
  newest: "the newest on this",
  pinned: "pinned",
  profile: "part of your profile",
};

const KINDS = { user: "about you", companion: "about your companion", both: "about you both", open_loop: "still open" };

const STATES = { uncertain: "no longer certain", superseded: "replaced since", corrected: "corrected since" };

const LONG = 320; // characters shown before "Show all"

export const reasonText = (why) => {
  const reasons = Array.isArray(why) ? why : why ? [why] : [];
  return reasons.map((reason) => REASONS[reason] ?? String(reason).replaceAll("_", " ")).join(", ");
};

/**
 * @param item a memory as the API gives it
 * @param options.strongest the highest score shown beside it; scores compare within one list only
 * @param options.here the conversation that is open; a jump inside it is worded as such
 * @param options.onJump, onCorrect, onPin, onPast, onForget controls appear for those that are given
 */
export function memoryCard(item, { strongest = 0, here = null, onJump, onCorrect, onPin, onPast, onForget } = {}) {
  const { root, refs } = fromTemplate("t-memory");
  root.classList.add(item.layer === "fact" ? "fact" : "episode");
  const text = wordsOf(item);
  showText(refs.text, text);
  const date = asDate(item.said_at);
  refs.said.textContent = [
    item.speaker,
    date ? shortDate(date) : "",
    item.layer === "fact" ? KINDS[item.kind] ?? "a fact" : "",
    item.due_at ? `due ${shortDate(asDate(item.due_at))}` : "",
    item.by_user ? "in your words" : "",
    item.imported_from ? `from ${item.imported_from}` : "",
    item.pinned ? "pinned" : "",
    item.status && item.status !== "active" ? STATES[item.status] ?? item.status : "",
  ].filter(Boolean).join(" · ");
  if (date) refs.said.title = date.toLocaleString();
  const quote = item.source?.quote;
  if (quote && quote !== text) refs.said.before(make("p", { className: "card-quote", textContent: `“${quote}”` }));
  showWhy(refs, item, strongest);
  offer(refs.jump, onJump && item.source?.conversation_id ? onJump : null, item);
  if (item.source?.conversation_id !== here) refs.jump.textContent = "Open its conversation";
  offer(refs.correct, onCorrect, item, root);
  offer(refs.pin, onPin, item, root);
  if (item.pinned) refs.pin.textContent = "Unpin";
  offer(refs.past, onPast && hasPast(item) ? onPast : null, item, root);
  offer(refs.forget, onForget, item, root);
  root.dataset.memory = item.id;
  refs.jump.parentElement.hidden = !root.querySelector(".card-actions button:not([hidden])");
  return root;
}

/** What was said, without the day and the name that a prompt needs before it: the card has a line for those. */
function wordsOf({ text = "", speaker }) {
  const words = text.replace(/^\[\d{4}-\d\d-\d\d\] /, "");
  return speaker && words.startsWith(`${speaker}: `) ? words.slice(speaker.length + 2) : words;
}

/** Whether there is more to tell of a fact than that it was said once. */
function hasPast(item) {
  return item.layer === "fact" && (item.confirmations > 1 || item.by_user || (item.status ?? "active") !== "active");
}

/** Where a memory comes from and what it was before, under its card. */
export function showPast(root, { sources = [], history = [] }) {
  const said = sources.map((source) => line("said", source.speaker, source.said_at, source.quote));
  const before = history.map((item) => line(STATES[item.status] ?? "now", item.by_user ? "you" : "", item.said_at, item.text));
  const lines = [...said, ...before];
  if (lines.length === 0) lines.push(make("li", {}, "Nothing more is known of it."));
  root.querySelector(".card-history")?.remove();
  root.append(make("ul", { className: "card-history" }, ...lines));
}

function line(what, who, when, text) {
  const date = asDate(when);
  return make("li", {}, [what, who, date ? shortDate(date) : ""].filter(Boolean).join(" · "), `: “${text}”`);
}

function showText(node, text) {
  if (text.length <= LONG * 1.2) {
    node.textContent = text;
    return;
  }
  const more = make("button", { type: "button", className: "button button-link", textContent: "Show all" });
  more.addEventListener("click", () => node.replaceChildren(text));
  node.replaceChildren(`${text.slice(0, LONG)}… `, more);
}

function showWhy(refs, item, strongest) {
  const words = reasonText(item.why);
  const hasScore = typeof item.score === "number";
  refs.why.textContent = words ? words[0].toUpperCase() + words.slice(1) : "";
  refs.why.parentElement.hidden = !words && !hasScore;
  if (!hasScore) return;
  const score = item.score.toFixed(2);
  refs.meter.hidden = false;
  refs.meter.value = strongest > 0 ? Math.max(0, item.score / strongest) : 0;
  refs.meter.title = `Score ${score}`;
  refs.meter.setAttribute("aria-label", "Score");
  refs.meter.textContent = score;
  refs.meter.after(make("span", { className: "score", textContent: score }));
}

function offer(button, action, item, root) {
  button.hidden = !action;
  if (action) button.addEventListener("click", () => action(item, root));
}
