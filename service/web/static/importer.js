// Bringing an old conversation: a JSONL file, sent with its progress shown, its broken lines told by number.

import { importConversation } from "./api.js";
import { openDialog } from "./dialogs.js";
import { byId, make } from "./dom.js";

const SHOWN_ERRORS = 200;

/** "sillytavern" or "rapport", from the first lines of a file. */
export function guessFormat(text) {
  for (const line of text.split("\n", 5)) {
    try {
      const first = JSON.parse(line);
      if ("chat_metadata" in first || "user_name" in first || "mes" in first) return "sillytavern";
      return "rapport";
    } catch {
      continue; // a broken first line is the importer's to report
    }
  }
  return "rapport";
}

/** hooks: imported(conversationId), open(conversationId) */
export class Importer {
  constructor(hooks) {
    this.hooks = hooks;
    byId("import-show").addEventListener("click", () => {
      byId("dialog-import").close();
      hooks.open(this.conversationId);
    });
    byId("import-file").addEventListener("change", () => this.reset());
  }

  ask() {
    byId("dialog-import").querySelector("form").reset();
    this.reset();
    openDialog("dialog-import", () => this.send());
  }

  reset() {
    for (const id of ["import-progress", "import-result", "import-errors", "import-show"]) byId(id).hidden = true;
    byId("import-start").hidden = false;
  }

  async send() {
    this.reset();
    const file = byId("import-file").files[0];
    const format = byId("import-format").value || guessFormat(await file.slice(0, 65_536).text());
    byId("import-progress").hidden = false;
    byId("import-bar").value = 0;
    byId("import-state").textContent = "Sending…";
    try {
      const result = await importConversation(file, format, (sent, total) => this.progress(sent, total));
      this.showResult(result);
    } catch (problem) {
      this.showErrors(problem.errors);
      throw problem;
    } finally {
      byId("import-progress").hidden = true;
    }
    return true; // stays open: the result is to be read
  }

  progress(sent, total) {
    if (sent < total) {
      byId("import-bar").value = sent / total;
      byId("import-state").textContent = `Sending… ${Math.floor((sent / total) * 100)} %`;
    } else {
      byId("import-bar").removeAttribute("value"); // no more to count: the service reads
      byId("import-state").textContent = "Reading the messages…";
    }
  }

  showResult({ conversation_id: conversationId, imported, skipped = 0, errors = [] }) {
    this.conversationId = conversationId;
    const parts = [`${imported} ${imported === 1 ? "message" : "messages"} imported`];
    if (skipped) parts.push(`${skipped} left out`);
    byId("import-result").hidden = false;
    byId("import-summary").textContent = `${parts.join(", ")}.`;
    this.showErrors(errors);
    byId("import-start").hidden = true;
    byId("import-show").hidden = !conversationId;
    byId("import-show").focus();
    this.hooks.imported(conversationId);
  }

  showErrors(errors) {
    const lines = (errors ?? []).filter((error) => error?.line !== undefined);
    if (lines.length === 0) return;
    byId("import-result").hidden = false;
    const rows = lines.slice(0, SHOWN_ERRORS).map((error) => make("li", {}, `Line ${error.line}: ${error.reason ?? "not readable"}`));
    if (lines.length > SHOWN_ERRORS) rows.push(make("li", {}, `and ${lines.length - SHOWN_ERRORS} more`));
    byId("import-errors").replaceChildren(...rows);
    byId("import-errors").hidden = false;
  }
}
