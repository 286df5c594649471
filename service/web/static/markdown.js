// Model text as DOM nodes: paragraphs, bold, italics, code, lists, quotes. Nothing of it is ever markup: every
// character ends in a text node, and links and images stay the plain text that was written, so that a model (or
// whoever spoke through it) can neither send the reader anywhere nor make the page fetch anything.

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`]*)$/;
const BULLET = /^( {0,8})[-*+]\s+(.*)$/;
const NUMBER = /^( {0,8})(\d{1,9})[.)]\s+(.*)$/;
const HEADING = /^ {0,3}#{1,6}\s+(.*?)\s*#*$/;
const QUOTE = /^ {0,3}>\s?(.*)$/;
const RULE = /^ {0,3}([-*_])\s*(?:\1\s*){2,}$/;

// Enough for any sane text; hostile nesting stays flat.
const DEEPEST = 4;

// A mark looks this far for its partner, in characters: text full of lone marks stays cheap to draw.
const LONGEST_SPAN = 1_500;
const MOST_CANDIDATES = 40; // marks that may be its partner

/** Text cut into blocks `{kind, source, …}`; pure, so it can be tested without a page. */
export function parseBlocks(text) {
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (lines[at].trim() === "") {
      at += 1;
      continue;
    }
    const from = at;
    const block = readFence(lines, at) ?? readRule(lines, at) ?? readHeading(lines, at)
      ?? readRun(lines, at, QUOTE, "quote") ?? readList(lines, at) ?? readParagraph(lines, at);
    at = block.next;
    blocks.push({ ...block, source: lines.slice(from, at).join("\n") });
  }
  return blocks;
}

function readFence(lines, at) {
  const open = FENCE.exec(lines[at]);
  if (!open) return null;
  const mark = open[1];
  let end = at + 1;
  while (end < lines.length && !isFenceEnd(lines[end], mark)) end += 1;
  return { kind: "code", text: lines.slice(at + 1, end).join("\n"), next: Math.min(end + 1, lines.length) };
}

function isFenceEnd(line, mark) {
  const bare = line.trim();
  return bare.length >= mark.length && bare === mark[0].repeat(bare.length);
}

function readRule(lines, at) {
  return RULE.test(lines[at]) ? { kind: "rule", next: at + 1 } : null;
}

function readHeading(lines, at) {
  const match = HEADING.exec(lines[at]);
  return match && { kind: "heading", text: match[1], next: at + 1 };
}

function readRun(lines, at, pattern, kind) {
  let end = at;
  const texts = [];
  for (; end < lines.length; end += 1) {
    const match = pattern.exec(lines[end]);
    if (!match) break;
    texts.push(match[1]);
  }
  return end > at ? { kind, text: texts.join("\n"), next: end } : null;
}

function readList(lines, at) {
  if (!listMark(lines[at])) return null;
  const items = [];
  let end = at;
  for (; end < lines.length; end += 1) {
    const mark = listMark(lines[end]);
    if (mark) items.push(mark);
    else if (/^\s{2,}\S/.test(lines[end])) items.at(-1).text += `\n${lines[end].trim()}`;
    else break;
  }
  return { kind: "list", items, next: end };
}

function listMark(line) {
  if (RULE.test(line)) return null;
  const bullet = BULLET.exec(line);
  if (bullet) return { ordered: false, start: 1, depth: depthOf(bullet[1]), text: bullet[2] };
  const number = NUMBER.exec(line);
  return number && { ordered: true, start: Number(number[2]), depth: depthOf(number[1]), text: number[3] };
}

function depthOf(indent) {
  return Math.min(Math.floor(indent.length / 2), DEEPEST);
}

function readParagraph(lines, at) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() !== "" && !startsBlock(lines[end])) end += 1;
  return { kind: "paragraph", text: lines.slice(at, end).join("\n"), next: end };
}

function startsBlock(line) {
  return FENCE.test(line) || HEADING.test(line) || QUOTE.test(line) || RULE.test(line) || listMark(line) !== null;
}

/**
 * Inline spans `{kind: "text"|"code"|"strong"|"em", text?, children?}`.
 * A mark that finds no partner is shown as it was written.
 */
export function parseInline(text, depth = 0) {
  const spans = [];
  let plain = "";
  let at = 0;
  const flush = () => {
    if (plain) spans.push({ kind: "text", text: plain });
    plain = "";
  };
  while (at < text.length) {
    const found = text[at] === "`" ? codeAt(text, at) : depth < DEEPEST ? emphasisAt(text, at) : null;
    if (found) {
      flush();
      spans.push(found.code === undefined
        ? { kind: found.kind, children: parseInline(found.inner, depth + 1) }
        : { kind: "code", text: found.code });
      at = found.next;
    } else if (text[at] === "\\" && /[\\`*_#>~\-]/.test(text[at + 1] ?? "")) {
      plain += text[at + 1];
      at += 2;
    } else if (text[at] === "`") {
      const run = runLength(text, at);
      plain += text.slice(at, at + run);
      at += run;
    } else {
      plain += text[at];
      at += 1;
    }
  }
  flush();
  return spans;
}

function runLength(text, at) {
  let length = 1;
  while (text[at + length] === text[at]) length += 1;
  return length;
}

function codeAt(text, at) {
  const length = runLength(text, at);
  const last = Math.min(text.length, at + length + LONGEST_SPAN);
  for (let close = at + length; close < last; close += 1) {
    if (text[close] !== "`") continue;
    const run = runLength(text, close);
    if (run === length) {
      const inner = text.slice(at + length, close).replace(/\n/g, " ");
      const padded = inner.startsWith(" ") && inner.endsWith(" ") && inner.trim() !== "";
      return { code: padded ? inner.slice(1, -1) : inner, next: close + run };
    }
    close += run - 1;
  }
  return null;
}

function emphasisAt(text, at) {
  const mark = text[at];
  if (mark !== "*" && mark !== "_") return null;
  // snake_case and 2*3 are no emphasis: an underscore opens only after a word's end, a mark only before a letter.
  if (mark === "_" && /[\p{L}\p{N}]/u.test(text[at - 1] ?? "")) return null;
  const width = text[at + 1] === mark ? 2 : 1;
  const inner = at + width;
  if (!text[inner] || /\s/.test(text[inner])) return null;
  const close = closingMark(text, inner, mark, width);
  if (close < 0) return null;
  return { kind: width === 2 ? "strong" : "em", inner: text.slice(inner, close), next: close + width };
}

function closingMark(text, from, mark, width) {
  const last = Math.min(text.length, from + LONGEST_SPAN);
  let seen = 0;
  for (let at = from + 1; at < last && seen < MOST_CANDIDATES; at += 1) {
    if (text[at] === "`") {
      const code = codeAt(text, at);
      if (code) at = code.next - 1;
      continue;
    }
    if (text[at] !== mark) continue;
    seen += 1;
    const run = runLength(text, at);
    const usable = !/\s/.test(text[at - 1]) && (mark !== "_" || !/[\p{L}\p{N}]/u.test(text[at + run] ?? ""));
    if (usable && (run === width || run === 3)) return run === 3 ? at + (3 - width) : at;
    at += run - 1;
  }
  return -1;
}

/**
 * Show `text` inside `container`. Called again with a longer text it leaves finished blocks alone, so a
 * streaming reply costs its last paragraph per frame, and a reader's selection above it survives.
 */
export function renderMarkdown(container, text) {
  const blocks = parseBlocks(text);
  const known = container.renderedBlocks ?? [];
  let same = 0;
  while (same < blocks.length && same < known.length && known[same] === blocks[same].source) same += 1;
  while (container.childNodes.length > same) container.lastChild.remove();
  for (const block of blocks.slice(same)) container.append(blockNode(block));
  container.renderedBlocks = blocks.map((block) => block.source);
}

function blockNode(block) {
  if (block.kind === "rule") return document.createElement("hr");
  if (block.kind === "list") return listNode(block.items);
  if (block.kind === "code") {
    const pre = document.createElement("pre");
    pre.tabIndex = 0; // wide code scrolls, and a keyboard must be able to scroll it
    pre.append(element("code", [document.createTextNode(block.text)]));
    return pre;
  }
  if (block.kind === "heading") return element("p", [element("strong", inlineNodes(block.text))]);
  return element(block.kind === "quote" ? "blockquote" : "p", inlineNodes(block.text));
}

function listNode(items) {
  const root = document.createDocumentFragment();
  const open = [];
  for (const item of items) {
    while (open.length && open.at(-1).depth > item.depth) open.pop();
    const top = open.at(-1);
    if (!top || top.depth < item.depth || top.ordered !== item.ordered) {
      if (top && top.depth === item.depth) open.pop();
      const list = document.createElement(item.ordered ? "ol" : "ul");
      if (item.ordered && item.start !== 1) list.start = item.start;
      (open.at(-1)?.node.lastElementChild ?? root).append(list);
      open.push({ node: list, depth: item.depth, ordered: item.ordered });
    }
    open.at(-1).node.append(element("li", inlineNodes(item.text)));
  }
  // One node for one block: renderMarkdown counts on it.
  return root.childNodes.length === 1 ? root.firstChild : element("div", [root]);
}

function inlineNodes(text) {
  return parseInline(text).map(spanNode);
}

function spanNode(span) {
  if (span.kind === "text") return document.createTextNode(span.text);
  if (span.kind === "code") return element("code", [document.createTextNode(span.text)]);
  return element(span.kind, span.children.map(spanNode));
}

function element(name, children) {
  const node = document.createElement(name);
  node.append(...children);
  return node;
}
