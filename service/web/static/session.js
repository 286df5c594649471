// Who is talking: a cookie that scripts can't read holds the token; the page only asks and shows.

import { signIn, signOut } from "./api.js";
import { openDialog } from "./dialogs.js";
import { byId } from "./dom.js";

/** The token of `/#token=…`, taken out of the address bar and the history at once, or null. */
export function takeTokenFromAddress() {
  const match = /^#token=(.+)$/.exec(location.hash);
  if (!match) return null;
  history.replaceState(null, "", location.pathname + location.search);
  try {
    return decodeURIComponent(match[1]).trim();
  } catch {
    return match[1].trim();
  }
}

/** hooks: changed() after somebody signed in or out. */
export class Session {
  constructor(hooks) {
    this.hooks = hooks;
    byId("sign-in-open").addEventListener("click", () => this.askToken());
    byId("sign-out").addEventListener("click", () => this.leave());
  }

  /**
   * Be somebody: the bearer of `token`; without one whom the cookie names, or else a new guest. Throws a Problem.
   * One request does it: asking first who one is would cost a newcomer a second, and an error in the console.
   */
  async begin(token) {
    this.show(await signIn(token));
  }

  show(who) {
    this.who = who;
    byId("who-name").textContent = who.anonymous ? "Guest" : nameOf(who);
    byId("who-kind").textContent = who.anonymous ? "Kept for this browser only" : "Signed in";
    byId("sign-in-open").hidden = !who.anonymous;
    byId("sign-out").hidden = who.anonymous;
  }

  askToken() {
    const field = byId("token");
    field.value = "";
    openDialog("dialog-sign-in", async () => {
      const token = field.value.trim().split(/\s+/).at(-1); // a pasted prompt or label comes before the token
      this.show(await signIn(token));
      field.value = "";
      this.hooks.changed();
    });
  }

  async leave() {
    byId("sign-out").disabled = true;
    try {
      await signOut();
      this.show(await signIn());
      this.hooks.changed();
    } catch (problem) {
      this.hooks.failed(problem);
    } finally {
      byId("sign-out").disabled = false;
    }
  }
}

function nameOf(who) {
  return who.name || who.subject;
}
