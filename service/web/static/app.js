// The page put together: who is here, which conversation, and the paths between the parts.

import { onSignedOut, readConversation } from "./api.js";
import { Chat } from "./chat.js";
import { Composer } from "./composer.js";
import { addressOf, companionOf, Conversations, titleOf } from "./conversations.js";
import { prepareDialogs } from "./dialogs.js";
import { byId, make } from "./dom.js";
import { Importer } from "./importer.js";
import { MemoryPanel } from "./memory-panel.js";
import { prepareMenu } from "./menu.js";
import { preparePanels } from "./panels.js";
import { Session, takeTokenFromAddress } from "./session.js";
import { delayBefore } from "./turns.js";

// Tabs of this browser tell each other what began; other devices are asked when one comes back to a tab.
const tabs = new BroadcastChannel("rapport");

const token = takeTokenFromAddress();
prepareDialogs();
const panels = preparePanels();

const session = new Session({
  changed: () => {
    tabs.postMessage({ type: "session" });
    void start();
  },
  failed: showBanner,
});

const conversations = new Conversations({
  changed: (conversation) => {
    if (chat.conversation?.id === conversation.id) {
      Object.assign(chat.conversation, conversation);
      showTitle(chat.conversation);
    }
    tabs.postMessage({ type: "conversation", conversation });
  },
  removed: (id) => {
    tabs.postMessage({ type: "removed", id });
    if (chat.conversation?.id === id) location.hash = "#/";
  },
  failed: showBanner,
});

const composer = new Composer({ onSend: (text) => chat.send(text), onStop: () => chat.stop() });

const memory = new MemoryPanel(panels.memory, {
  here: () => chat.conversation?.id ?? null,
  jump: (source) => {
    if (matchMedia("(max-width: 52rem)").matches) panels.memory.set(false);
    if (source.conversation_id === chat.conversation?.id) void attempt(() => chat.jumpTo(source.seq));
    else location.hash = addressOf(source.conversation_id, source.seq);
  },
});

const chat = new Chat({
  conversations,
  composer,
  memory,
  hooks: {
    opened: showConversation,
    changed: (conversation) => {
      conversations.put(conversation);
      tabs.postMessage({ type: "conversation", conversation });
    },
    started: (conversationId, turnId) => tabs.postMessage({ type: "turn", conversationId, turnId }),
    failed: showBanner,
  },
});

const importer = new Importer({
  imported: (id, name) => {
    memory.grewStale();
    void attempt(async () => {
      await conversations.load();
      if (id) await conversations.nameIfNameless(id, name); // statements alone make no conversation
    });
  },
  open: (id) => {
    location.hash = addressOf(id);
  },
});

function showConversation(conversation) {
  conversations.setCurrent(conversation?.id ?? null);
  showTitle(conversation);
  if (!conversation) return;
  const address = addressOf(conversation.id);
  if (!location.hash.startsWith(address)) history.replaceState(null, "", address);
}

function showTitle(conversation) {
  byId("title").textContent = titleOf(conversation);
  document.title = conversation ? `${titleOf(conversation)} – Rapport` : "Rapport";
  composer.setName(conversation?.companion?.name ?? "");
  byId("subtitle").textContent = conversation
    ? [
        `With ${companionOf(conversation)}`,
        conversation.route === "mature" ? "mature route" : "",
        conversation.lock ? (conversation.lock.reason ? `locked: ${conversation.lock.reason}` : "locked") : "",
      ].filter(Boolean).join(" · ")
    : "";
  byId("conversation-menu").hidden = !conversation;
}

function showBanner(problem, action = null) {
  const text = [problem.title, problem.detail].filter(Boolean).join(". ").replace(/\.\.$/, ".");
  const button = make("button", { type: "button", className: "button", textContent: action?.label ?? "Close" });
  button.addEventListener("click", () => {
    byId("banner").hidden = true;
    action?.run();
  });
  byId("banner").replaceChildren(make("p", { textContent: text }), button);
  byId("banner").hidden = false;
}

async function attempt(work) {
  try {
    await work();
  } catch (problem) {
    if (problem.title === undefined) throw problem; // a fault of the page, not an answer of the service
    showBanner(problem, problem.retryable ? { label: "Try again", run: () => attempt(work) } : null);
  }
}

/** Show what the address says: `#/c/<conversation>`, `#/c/<conversation>/<seq>`, or the beginning of a new one. */
async function showAddress() {
  const match = /^#\/c\/([\w-]+)(?:\/(\d+))?$/.exec(location.hash);
  if (match && match[1] === chat.conversation?.id && !match[2]) return;
  panels.rail.set(false);
  if (!match) {
    await chat.open(null);
  } else {
    const seq = match[2] ? Number(match[2]) : null;
    const known = conversations.recent(match[1]);
    try {
      const conversation = known ?? (await readConversation(match[1]));
      conversations.put(conversation);
      if (seq && chat.conversation?.id === conversation.id) await chat.jumpTo(seq);
      else await chat.open(conversation, seq);
    } catch (problem) {
      if (problem.status !== 404) throw problem;
      await chat.open(null);
      history.replaceState(null, "", "#/");
      showBanner({ title: "That conversation is not here", detail: "It was deleted, or belongs to someone else." });
    }
  }
  if (!/\/\d+$/.test(location.hash)) composer.offerFocus();
}

/** At once, not by way of the address: what is typed next belongs there already. */
function goTo(conversation) {
  history.pushState(null, "", addressOf(conversation.id));
  panels.rail.set(false);
  composer.focus();
  void attempt(() => chat.open(conversation, null, true));
}

let starts = 0;

/** Begin, or begin anew as somebody else. A service that is away is asked again until it is there. */
async function start(withToken = null) {
  const mine = (starts += 1);
  let tried = 0;
  byId("banner").hidden = true;
  composer.setReady(false);
  while (mine === starts) {
    try {
      await begin(withToken);
      if (tried) byId("banner").hidden = true;
      return;
    } catch (problem) {
      if (problem.title === undefined) throw problem; // a fault of the page, not an answer of the service
      showBanner(problem, { label: "Try again", run: () => start(withToken) });
      if (!problem.retryable) return;
      const seconds = problem.status === 429 ? problem.retryAfter ?? 60 : 0;
      await new Promise((resolve) => setTimeout(resolve, Math.max(delayBefore(tried + 2), seconds * 1000)));
      tried += 1;
    }
  }
}

async function begin(withToken) {
  try {
    await session.begin(withToken);
  } catch (problem) {
    if (!withToken || problem.retryable) throw problem;
    showBanner({ title: "That token was not accepted", detail: problem.detail });
    await session.begin(null);
  }
  memory.grewStale();
  await conversations.load();
  chat.conversation = null;
  await showAddress();
  composer.setReady(true);
}

onSignedOut(() => {
  showBanner({ title: "Your session has ended", detail: "Sign in again to go on where you were." }, {
    label: "Go on",
    run: () => start(),
  });
});

tabs.addEventListener("message", ({ data }) => {
  if (data.type === "session") void start();
  if (data.type === "turn") {
    const known = conversations.known.get(data.conversationId);
    if (known) known.active_turn_id = data.turnId;
    if (chat.conversation?.id === data.conversationId && !chat.history.later) chat.follow(data.turnId);
  }
  if (data.type === "conversation") {
    conversations.put(data.conversation);
    if (chat.conversation?.id === data.conversation.id) showTitle(Object.assign(chat.conversation, data.conversation));
  }
  if (data.type === "removed") {
    conversations.known.delete(data.id);
    conversations.draw();
    if (chat.conversation?.id === data.id) location.hash = "#/";
  }
});

addEventListener("hashchange", () => {
  const late = takeTokenFromAddress(); // a link with a token opened in a tab that already shows the page
  void (late ? start(late).then(() => tabs.postMessage({ type: "session" })) : attempt(showAddress));
});
addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") void chat.lookAgain();
});
byId("new-conversation").addEventListener("click", () => conversations.askNew(goTo));
byId("welcome-companion").addEventListener("click", () => byId("new-conversation").click());
byId("welcome-import").addEventListener("click", () => importer.ask());
byId("import-open").addEventListener("click", () => importer.ask());
document.querySelector("[data-skip]").addEventListener("click", (event) => {
  event.preventDefault(); // the address belongs to the conversation
  composer.focus();
});
prepareMenu(() => chat.conversation, conversations);

void start(token);
