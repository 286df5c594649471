// The few things every view does with the document.

export const byId = (id) => document.getElementById(id);

/** A copy of a `<template>`: `{root, refs}`, where refs are its data-ref elements by name. */
export function fromTemplate(id) {
  const root = byId(id).content.firstElementChild.cloneNode(true);
  const refs = {};
  for (const node of root.querySelectorAll("[data-ref]")) refs[node.dataset.ref] = node;
  return { root, refs };
}

/** An element with properties and children; strings become text. */
export function make(name, properties = {}, ...children) {
  const node = document.createElement(name);
  Object.assign(node, properties);
  node.append(...children);
  return node;
}

export const isNarrow = () => matchMedia("(max-width: 52rem)").matches;

export function scrollBehaviour() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth";
}

/** Text for a screen reader that has no place to look. A changed node is read; the same words twice still are. */
export function announce(text) {
  const line = make("span", { textContent: text });
  byId("announcer").append(line);
  setTimeout(() => line.remove(), 15_000);
}

/**
 * Reads a streaming text out sentence by sentence: a live region that grows token by token is read as stutter.
 */
export class Reader {
  constructor() {
    this.pending = "";
  }

  add(text) {
    this.pending += text;
    const end = /^[\s\S]*[.!?…。！？\n](?=\s|$)/.exec(this.pending);
    if (end && end[0].trim().length > 24) {
      announce(end[0].trim());
      this.pending = this.pending.slice(end[0].length);
    }
  }

  finish() {
    if (this.pending.trim()) announce(this.pending.trim());
    this.pending = "";
  }
}

export function sameDay(a, b) {
  return a.toDateString() === b.toDateString();
}

/** "Today", "Yesterday", or the date as this reader writes it, with the year only when it is another one. */
export function dayName(date, now = new Date()) {
  if (sameDay(date, now)) return "Today";
  const yesterday = new Date(now);
  yesterday.setDate(now.getDate() - 1);
  if (sameDay(date, yesterday)) return "Yesterday";
  const year = date.getFullYear() === now.getFullYear() ? undefined : "numeric";
  return date.toLocaleDateString(undefined, { weekday: "long", day: "numeric", month: "long", year });
}

export function shortDate(date, now = new Date()) {
  if (sameDay(date, now)) return clockTime(date);
  const year = date.getFullYear() === now.getFullYear() ? undefined : "numeric";
  return date.toLocaleDateString(undefined, { day: "numeric", month: "short", year });
}

export function clockTime(date) {
  return date.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit" });
}

/** A date out of the API's text, or null when it holds none. */
export function asDate(text) {
  const date = new Date(text ?? NaN);
  return Number.isNaN(date.getTime()) ? null : date;
}
