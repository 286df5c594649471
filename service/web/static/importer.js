// Bringing an old conversation: a JSONL file, sent with its progress shown, its broken lines told by number.

import { importConversation } from "./api.js";
import { KEEP_OPEN, openDialog } from "./dialogs.js";
import { byId, make } from "./dom.js";

function summaryOf({ imported, duplicates = 0, skipped = 0, broken = 0, facts = 0, refused = 0, already_imported: wasHere = false }) {
  if (wasHere) return "Everything in this file was here already.";
  const parts = [`${imported} ${imported === 1 ? "message" : "messages"} imported`];
  if (facts) parts.push(`${facts} ${facts === 1 ? "statement" : "statements"} taken over`);
  if (refused) parts.push(`${refused} refused`);
  if (duplicates) parts.push(`${duplicates} here already`);
  if (skipped) parts.push(`${skipped} left out`);
  if (broken) parts.push(`${broken} ${broken === 1 ? "line" : "lines"} not readable`);
  return `${parts.join(", ")}.`;
}

/** hooks: imported(conversationId, name of the file), open(conversationId) */
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
    const query = { format: byId("import-format").value, time_zone: Intl.DateTimeFormat().resolvedOptions().timeZone };
    byId("import-progress").hidden = false;
    byId("import-bar").value = 0;
    byId("import-state").textContent = "Sending…";
    try {
      const result = await importConversation(file, query, (sent, total) => this.progress(sent, total));
      this.showResult(result, file);
    } catch (problem) {
      this.showErrors(problem.errors);
      throw problem;
    } finally {
      byId("import-progress").hidden = true;
    }
    return KEEP_OPEN;
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

  showResult(result, file) {
    const conversationId = result.conversation_id;
    this.conversationId = conversationId;
    byId("import-result").hidden = false;
    byId("import-summary").textContent = summaryOf(result);
    this.showErrors(result.errors, result.broken + (result.refused ?? 0));
    byId("import-start").hidden = true;
    byId("import-show").hidden = !conversationId;
    byId("import-show").focus();
    this.hooks.imported(conversationId, file.name.replace(/\.[^.]+$/, ""));
  }

  showErrors(errors, broken = 0) {
    const lines = (errors ?? []).filter((error) => error?.line !== undefined);
    if (lines.length === 0) return;
    byId("import-result").hidden = false;
    const rows = lines.map((error) => make("li", {}, `Line ${error.line}: ${error.reason ?? "not readable"}`));
    if (broken > lines.length) rows.push(make("li", {}, `and ${broken - lines.length} more`));
    byId("import-errors").replaceChildren(...rows);
    byId("import-errors").hidden = false;
  }
}
