// How an exchange can end, and what is shown and offered then. `chat` is the Chat that it was held in.

import { Problem, readTurn } from "./api.js";

/** @param outcome "completed", "failed" or "refused"; `detail` is the event's data, or the problem */
export function settle(chat, exchange, outcome, detail) {
  if (outcome === "completed") missedRecall(chat, exchange.reply);
  else if (outcome === "failed") failed(chat, exchange, detail);
  else if (exchange.turnId) void lostSight(chat, exchange, detail);
  else refused(chat, exchange, detail);
}

/** A reader who joined late was given the text in one piece, without what came before it. */
function missedRecall(chat, reply) {
  if (reply.recalled) return;
  reply.offerKnots();
  chat.memory.showRecalled(null);
}

/** The message is kept; it is answered once more, not said once more. */
function failed(chat, { reply, askedId, continues }, problem) {
  const again = () => {
    chat.thread.remove(reply);
    chat.answerAgain(askedId);
  };
  const goOn = () => {
    chat.thread.remove(reply);
    chat.goOnWith({ id: continues, turnId: reply.turnId, text: reply.text, askedId });
  };
  // what an operator has to mend first, such as a key, may be mended by now: only the reader knows
  const mayPass = problem.retryable || problem.code.startsWith("backend_");
  reply.showTrouble(problem, [
    ...(problem.retryable && reply.text ? [{ label: "Continue", run: goOn, waits: true }] : []),
    ...(mayPass ? [{ label: "Try again", run: again, waits: true }] : []),
  ]);
  chat.thread.keepEnd();
}

/** The service took nothing: the text is its writer's again. */
function refused(chat, exchange, problem) {
  chat.thread.remove(exchange.reply);
  chat.memory.showRecalled(chat.thread.items.findLast((item) => item.recalled) ?? null);
  if (exchange.said) {
    declined(chat, exchange, problem);
  } else {
    showBranch(chat);
    chat.hooks.failed(problem);
  }
  if (problem.turnId) chat.follow(problem.turnId);
}

export function declined(chat, { said, message, inPlaceOf = null }, problem) {
  chat.setBusy(false);
  said.isUnsent = true;
  said.setState("Not sent");
  const mayPass = problem.retryable || problem.turnId;
  const takeBack = () => {
    chat.thread.remove(said);
    if (inPlaceOf) showBranch(chat);
    chat.composer.restore(said.text);
  };
  said.showTrouble(problem, [
    ...(mayPass ? [{ label: "Try again", run: () => chat.deliver(said, message, inPlaceOf), waits: true }] : []),
    { label: "Edit", run: takeBack },
  ]);
  chat.thread.keepEnd();
}

/** The branch as it was before something was tried on it. */
function showBranch(chat) {
  chat.history.endId = null;
  chat.history.show();
}

/** The reply's log is out of reach; what was stored of it is not. */
async function lostSight(chat, { reply, turnId }, problem) {
  const turn = await readTurn(chat.conversation.id, turnId).catch(() => null);
  if (turn?.text) reply.replace(turn.text);
  const finishReason = turn?.status === "stopped" ? "stopped" : "stop";
  reply.finish({ finishReason, scripted: turn?.scripted, model: turn?.model });
  if (!turn?.text) reply.showTrouble(turn?.failure ? Problem.fromBody(turn.failure, problem.status) : problem);
}
