// The small menu of the conversation one looks at.

import { byId } from "./dom.js";

export function prepareMenu(current, conversations) {
  const opener = byId("conversation-menu");
  const menu = byId("conversation-actions");
  const actions = {
    rename: (conversation) => conversations.askRename(conversation),
    lock: (conversation) => conversations.askLock(conversation),
    unlock: (conversation) => conversations.unlock(conversation),
    delete: (conversation) => conversations.askDelete(conversation),
  };

  const show = (open) => {
    menu.hidden = !open;
    opener.setAttribute("aria-expanded", String(open));
    if (!open) return;
    const isLocked = Boolean(current()?.lock);
    menu.querySelector("[data-action=lock]").hidden = isLocked;
    menu.querySelector("[data-action=unlock]").hidden = !isLocked;
    menu.querySelector("button:not([hidden])").focus();
  };

  opener.addEventListener("click", () => show(menu.hidden));
  menu.addEventListener("click", (event) => {
    const action = event.target.closest("[data-action]")?.dataset.action;
    if (!action) return;
    show(false);
    opener.focus();
    actions[action](current());
  });
  menu.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") {
      event.stopPropagation();
      show(false);
      opener.focus();
    } else if (step) {
      event.preventDefault();
      const buttons = [...menu.querySelectorAll("button:not([hidden])")];
      const at = buttons.indexOf(document.activeElement);
      buttons[(at + step + buttons.length) % buttons.length].focus();
    }
  });
  menu.addEventListener("focusout", (event) => {
    if (!menu.contains(event.relatedTarget) && event.relatedTarget !== opener) show(false);
  });
  addEventListener("pointerdown", (event) => {
    if (!menu.hidden && !menu.contains(event.target) && !opener.contains(event.target)) show(false);
  });
}
