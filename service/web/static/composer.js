// Where the user writes. It knows nothing of conversations: it hands over text, and shows a state.

import { byId } from "./dom.js";

const TALLEST = 0.4; // of the window

export class Composer {
  constructor({ onSend, onStop }) {
    this.field = byId("message");
    this.busy = false;
    this.ready = false; // whether it is known who writes, and where to
    this.waiting = false; // Enter was pressed before that
    this.drafts = new Map(); // by conversation, for as long as the page lives
    this.place = null; // what is written before the page knows where it is goes wherever it will be
    this.field.addEventListener("input", () => this.refresh());
    this.field.addEventListener("keydown", (event) => this.onKey(event));
    addEventListener("resize", () => this.fit());
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    byId("stop").addEventListener("click", () => onStop());
    this.onSend = onSend;
    this.refresh();
  }

  onKey(event) {
    // While an input method composes, Enter chooses a word (229: Safari says so only by the key code).
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    event.preventDefault();
    this.submit();
  }

  submit() {
    const text = this.field.value.trim();
    if (!text || this.busy) return;
    this.waiting = !this.ready;
    if (this.waiting) {
      this.setStatus("Connecting…");
      return;
    }
    this.field.value = "";
    this.refresh();
    this.onSend(text);
  }

  setReady(ready) {
    this.ready = ready;
    if (!ready || !this.waiting) return;
    this.waiting = false;
    this.setStatus("");
    this.submit();
  }

  /** Put text back that could not be sent, before whatever has been written since. */
  restore(text) {
    this.keep(text);
    this.refresh();
    this.focus();
  }

  moveTo(place) {
    if (this.place === null) {
      this.place = place;
      return;
    }
    if (this.field.value.trim()) this.drafts.set(this.place, this.field.value);
    else this.drafts.delete(this.place);
    this.place = place;
    this.field.value = this.drafts.get(place) ?? "";
    this.refresh();
  }

  /** Leave text for somebody who comes back to `place`, before what is being written there. */
  keep(text, place = this.place) {
    if (place === this.place) this.field.value = this.field.value ? `${text}\n${this.field.value}` : text;
    else this.drafts.set(place, text);
  }

  /** The new conversation has got its id: what is being written belongs to it now. */
  rename(place) {
    this.place = place;
  }

  setName(name) {
    this.field.placeholder = name ? `Say something to ${name}` : "Say something";
  }

  setBusy(busy, stoppable = false) {
    this.busy = busy;
    const stop = byId("stop");
    const hadFocus = document.activeElement === stop;
    stop.hidden = !(busy && stoppable);
    byId("send").hidden = busy && stoppable;
    if (hadFocus && stop.hidden) this.offerFocus(); // a hidden button would drop the keyboard at the top of the page
    this.refresh();
  }

  setStatus(text) {
    byId("composer-status").textContent = text;
    byId("composer-hint").hidden = text !== "";
  }

  /** The focus, unless a thumb would make a keyboard pop up by it. */
  offerFocus() {
    if (!matchMedia("(pointer: coarse)").matches) this.focus();
  }

  focus() {
    this.field.focus({ preventScroll: true });
  }

  refresh() {
    byId("send").disabled = this.busy || this.field.value.trim() === "";
    this.fit();
  }

  fit() {
    this.field.style.height = "auto";
    this.field.style.height = `${Math.min(this.field.scrollHeight, innerHeight * TALLEST)}px`;
  }
}
