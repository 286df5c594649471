// Dialogs: the browser's own <dialog>, with a form whose work may take time and may fail.

import { byId } from "./dom.js";

const submitters = new WeakMap();

/** What work returns when its result is to be read in the dialog. */
export const KEEP_OPEN = Symbol("keep open");

/** Wire every dialog once: its form runs the work that was given when it was opened. */
export function prepareDialogs() {
  for (const dialog of document.querySelectorAll("dialog")) {
    const form = dialog.querySelector("form");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      void run(dialog, form);
    });
    for (const button of dialog.querySelectorAll("[data-close]")) button.addEventListener("click", () => dialog.close());
    // A press on the backdrop is one on the dialog itself: its form covers all of the inside.
    dialog.addEventListener("pointerdown", (event) => {
      if (event.target === dialog) dialog.close();
    });
    // Enter sends from a text box of one question; longer ones keep it for new lines.
    for (const area of dialog.querySelectorAll("textarea")) {
      area.addEventListener("keydown", (event) => {
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
      });
    }
  }
}

async function run(dialog, form) {
  const submit = form.querySelector("[type=submit]");
  const error = form.querySelector(".form-error");
  if (submit.disabled) return;
  submit.disabled = true;
  error.textContent = "";
  try {
    const answer = await submitters.get(dialog)?.();
    if (answer !== KEEP_OPEN) dialog.close();
    if (typeof answer === "function") answer(); // after the close, which gives the focus back to where it was
  } catch (problem) {
    error.textContent = [problem.title ?? problem.message, problem.detail].filter(Boolean).join(": ");
  } finally {
    submit.disabled = false;
  }
}

/**
 * Open a dialog. `work` runs on submit: it throws a Problem to keep the dialog open with the reason, returns KEEP_OPEN,
 * or a function for what comes after the dialog has closed.
 */
export function openDialog(id, work) {
  const dialog = byId(id);
  submitters.set(dialog, work);
  dialog.querySelector(".form-error").textContent = "";
  if (!dialog.open) dialog.showModal();
}

/** Ask for one text. */
export function askText({ title, label, value = "", submit, work, optional = false }) {
  byId("text-title").textContent = title;
  byId("text-label").textContent = label;
  byId("text-submit").textContent = submit;
  const field = byId("text-value");
  field.value = value;
  field.required = !optional;
  openDialog("dialog-text", () => work(field.value.trim()));
  field.select();
}

/** Ask before something that can't be undone. */
export function askConsent({ title, text, submit, work }) {
  byId("confirm-title").textContent = title;
  byId("confirm-text").textContent = text;
  byId("confirm-submit").textContent = submit;
  openDialog("dialog-confirm", work);
}
