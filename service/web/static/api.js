// Calls of Rapport's API. Every failure leaves here as a Problem, whatever went wrong underneath.

/** An RFC 9457 problem as the API words it; `status` 0 when no answer came at all. */
export class Problem extends Error {
  constructor({ status = 0, code = "", title = "", detail = "", retryable, retryAfter = null, errors = [], turnId = null }) {
    super(title || detail || code);
    this.status = status;
    this.code = code;
    this.title = title || "Something went wrong";
    this.detail = detail;
    this.retryAfter = retryAfter;
    this.errors = errors;
    this.turnId = turnId; // of `turn_in_progress`: the turn that is being answered already
    this.retryable = retryable ?? (status === 0 || status === 429 || status >= 500);
  }

  /** No answer, or a proxy's: the service itself has not judged the request, so it may simply be sent again. */
  get isUnreachable() {
    return this.status === 0 || ([502, 503, 504].includes(this.status) && this.code === "");
  }

  static unreachable() {
    return new Problem({
      code: "unreachable",
      title: "Rapport can't be reached",
      detail: "Check your connection. Nothing you wrote is lost.",
    });
  }

  /** A problem object out of an SSE `turn.failed` or a JSON body. */
  static fromBody(body, status, retryAfterHeader = null) {
    const seconds = Number(body?.retry_after ?? retryAfterHeader ?? NaN);
    return new Problem({
      status: body?.status ?? status,
      code: asText(body?.code),
      title: asText(body?.title) || wordsFor(status),
      detail: asText(body?.detail),
      retryable: body?.retryable,
      retryAfter: Number.isFinite(seconds) && seconds > 0 ? Math.ceil(seconds) : null,
      errors: Array.isArray(body?.errors) ? body.errors : [],
      turnId: asText(body?.turn_id) || null,
    });
  }
}

function asText(value) {
  return typeof value === "string" ? value : "";
}

function wordsFor(status) {
  if (status === 401) return "You are signed out";
  if (status === 403) return "This is not open to you";
  if (status === 404) return "This is not here";
  if (status === 413) return "That is too large";
  if (status === 429) return "A short break, please";
  return status >= 500 ? "The service is having trouble" : "That did not work";
}

/** Called once whenever an answer says 401, so that one place decides what signing out means. */
let whenSignedOut = () => {};
export function onSignedOut(handler) {
  whenSignedOut = handler;
}

async function request(method, path, { body, query, headers = {}, signal, quiet = false } = {}) {
  const url = new URL(path, location.origin);
  for (const [name, value] of Object.entries(query ?? {})) {
    if (value !== undefined && value !== null && value !== "") url.searchParams.set(name, value);
  }
  const init = { method, headers: { ...headers }, signal, credentials: "same-origin", cache: "no-store" };
  if (body !== undefined) {
    init.headers["content-type"] = "application/json";
    init.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(url, init);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw Problem.unreachable();
  }
  if (response.ok) return response;
  const problem = await problemOf(response);
  if (response.status === 401 && !quiet) whenSignedOut(problem);
  throw problem;
}

async function problemOf(response) {
  const body = await response.json().catch(() => null); // a proxy's HTML page is no problem object
  return Problem.fromBody(body, response.status, response.headers.get("retry-after"));
}

async function call(method, path, options) {
  const response = await request(method, path, options);
  if (response.status === 204) return null;
  try {
    return await response.json();
  } catch {
    return null; // a success without a body, or one cut short: the effect has happened
  }
}

const conversation = (id) => `/v1/conversations/${encodeURIComponent(id)}`;
const message = (conversationId, id) => `${conversation(conversationId)}/messages/${encodeURIComponent(id)}`;
const memory = (id) => `/v1/memories/${encodeURIComponent(id)}`;
const turn = (conversationId, turnId) => `${conversation(conversationId)}/turns/${encodeURIComponent(turnId)}`;
const STREAM = { accept: "text/event-stream" };

export const signIn = (token) => call("POST", "/v1/session", { body: token ? { token } : {}, quiet: true });
export const signOut = () => call("DELETE", "/v1/session", { quiet: true });

export const listConversations = (cursor) => call("GET", "/v1/conversations", { query: { limit: 50, cursor } });
export const createConversation = (body) => call("POST", "/v1/conversations", { body });
export const readConversation = (id) => call("GET", conversation(id));
export const renameConversation = (id, title) => call("PATCH", conversation(id), { body: { title } });
export const deleteConversation = (id) => call("DELETE", conversation(id));
export const lockConversation = (id, reason) => call("POST", `${conversation(id)}/lock`, { body: reason ? { reason } : {} });
export const unlockConversation = (id) => call("DELETE", `${conversation(id)}/lock`);
export const chooseHead = (id, messageId) => call("PUT", `${conversation(id)}/head`, { body: { message_id: messageId } });
export const listMessages = (id, query) => call("GET", `${conversation(id)}/messages`, { query });

/** The answers below are the raw `Response`: their bodies are event streams. */
export const startTurn = (id, body, signal) =>
  request("POST", `${conversation(id)}/turns`, { body, signal, headers: STREAM });
export const replyAgain = (id, messageId, key, signal) =>
  request("POST", `${message(id, messageId)}/alternatives`, { signal, headers: { ...STREAM, "idempotency-key": key } });
export const goOn = (id, turnId, key, signal) =>
  request("POST", `${turn(id, turnId)}/continue`, { signal, headers: { ...STREAM, "idempotency-key": key } });
export const sayAgain = (id, messageId, body, signal) =>
  request("POST", `${message(id, messageId)}/edits`, { body, signal, headers: STREAM });
export const followTurn = (id, turnId, after, signal) =>
  request("GET", `${turn(id, turnId)}/stream`, { query: { after }, signal, headers: STREAM });
export const readTurn = (id, turnId) => call("GET", turn(id, turnId));
export const stopTurn = (id, turnId) => call("POST", `${turn(id, turnId)}/stop`);

export const listMemories = (query) => call("GET", "/v1/memories", { query: { limit: 30, ...query } });
export const searchMemories = (query, conversationId) =>
  call("POST", "/v1/memories/search", { body: { query, limit: 30, ...(conversationId && { conversation_id: conversationId }) } });
export const readMemory = (id) => call("GET", memory(id));
export const addMemory = (text) => call("POST", "/v1/memories", { body: { text } });
export const changeMemory = (id, change) => call("PATCH", memory(id), { body: change });
export const forgetMemory = (id) => call("DELETE", memory(id));
export const forgetEverything = () =>
  call("DELETE", "/v1/memories", { query: { confirm: "everything", conversations: "keep" } });

/**
 * Upload a file as a conversation. XMLHttpRequest, since fetch does not tell how much has been sent.
 * @param {(sent: number, total: number) => void} onProgress bytes
 */
export function importConversation(file, query, onProgress) {
  return new Promise((resolve, reject) => {
    const xhr = new XMLHttpRequest();
    xhr.open("POST", `/v1/conversations/import?${new URLSearchParams(query)}`);
    xhr.setRequestHeader("content-type", "application/x-ndjson");
    xhr.upload.onprogress = (event) => onProgress(event.loaded, event.total || file.size);
    xhr.onerror = () => reject(Problem.unreachable());
    xhr.onload = () => {
      const body = parsed(xhr.responseText);
      if (xhr.status >= 200 && xhr.status < 300 && body) resolve(body);
      else reject(Problem.fromBody(body, xhr.status, xhr.getResponseHeader("retry-after")));
    };
    xhr.send(file);
  });
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
