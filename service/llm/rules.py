"""The scripted backend's extraction: plain patterns over the lines of a dialogue, in the JSON shape asked for."""

import re
from dataclasses import dataclass
from typing import Any

from service.llm.ports import ChatRequest

MAX_FOUND = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact of a line: its sentence about the user, the words that support it, and who said them in which line."""

    text: str
    quote: str
    kind: str
    category: str
    line: int
    label: str
    speaker: str


_NAME = r"[A-ZÀ-Þ][\w'’-]*(?: [A-ZÀ-Þ][\w'’-]*){0,3}"
_RELATIVE = (
    r"(?:sister|brother|mother|mum|mom|father|dad|wife|husband|partner|girlfriend|boyfriend"
    r"|son|daughter|friend|dog|cat)"
)
_PHRASE = r"[^.!?,;\n]{2,80}?"
_END = r"(?=[.!?,;\n]|\s+(?:and|but|because|so|now)\s|$)"

# (pattern, sentence, kind, category); the pattern's groups are what the sentence says
_RULES: tuple[tuple[re.Pattern[str], str, str, str], ...] = tuple(
    (re.compile(pattern), sentence, kind, category)
    for pattern, sentence, kind, category in (
        (rf"\b[Mm]y name(?: is|'s|’s) ({_NAME})", "{who}'s name is {0}.", "user", "identity"),
        (rf"\b(?:I live|I'm living|I am living) in ({_PHRASE}){_END}", "{who} lives in {0}.", "user", "home"),
        (rf"\bI(?: have|'ve|’ve)?(?: just)? moved to ({_PHRASE}){_END}", "{who} lives in {0}.", "user", "home"),
        (rf"\bI(?:'m|’m| am) allergic to ({_PHRASE}){_END}", "{who} is allergic to {0}.", "user", "health"),
        (rf"\bI work ((?:as|for|at|in) {_PHRASE}){_END}", "{who} works {0}.", "user", "work"),
        (rf"\bI(?:'m|’m| am) (an? {_PHRASE}){_END}", "{who} is {0}.", "user", "identity"),
        (rf"\bI (?:really )?(?:love|like|enjoy) ({_PHRASE}){_END}", "{who} likes {0}.", "user", "likes"),
        (rf"\bI (?:hate|dislike|can't stand|don't like) ({_PHRASE}){_END}", "{who} dislikes {0}.", "user", "likes"),
        (rf"\b[Mm]y favou?rite ({_PHRASE} is {_PHRASE}){_END}", "{who}'s favourite {0}.", "user", "likes"),
        (
            rf"\b[Mm]y ({_RELATIVE})(?:'s name)?(?: is(?: called| named)?|,)? ({_NAME})",
            "{who}'s {0} is called {1}.",
            "user",
            "people",
        ),
        (
            rf"\bI have (an? {_PHRASE} (?:on|tomorrow|next|this|at) ?{_PHRASE}|an? {_PHRASE} tomorrow){_END}",
            "{who} has {0}.",
            "open_loop",
            "plans",
        ),
        (rf"\bI(?:'m|’m| am) going to ({_PHRASE}){_END}", "{who} is going to {0}.", "open_loop", "plans"),
    )
)
_LINE = re.compile(
    r"^\s*(?:\[(?P<label>[^\]\n]{1,40})\]\s*)?(?:(?P<speaker>[\w .'’-]{1,40}?)(?:\s*\([^)\n]*\))?:\s+)?(?P<said>.+)$"
)


def findings_in(dialogue: str) -> list[Finding]:
    """Return what the patterns find, in the order of the text, at most `MAX_FOUND`."""
    found: list[Finding] = []
    for number, line in enumerate(dialogue.splitlines()):
        match = _LINE.match(line)
        if match is None or (match["speaker"] or "").strip().lower() in {"assistant", "companion", "system"}:
            continue
        for pattern, sentence, kind, category in _RULES:
            for hit in pattern.finditer(match["said"]):
                quote = hit[0].strip()
                text = sentence.format(*(part.strip() for part in hit.groups()), who="The user")
                speaker = (match["speaker"] or "").strip()
                found.append(Finding(text, quote, kind, category, number, match["label"] or "", speaker))
    return found[:MAX_FOUND]


def extract(request: ChatRequest) -> Any:
    """Return JSON of the request's schema: its first list of objects holds the findings, all else is empty."""
    dialogue = next((message.content for message in reversed(request.messages) if message.role == "user"), "")
    return _filled(request.schema or {}, findings_in(dialogue), dialogue)


def _filled(schema: dict[str, Any], findings: list[Finding], dialogue: str, name: str = "") -> Any:
    kind = schema.get("type")
    if kind == "object" or "properties" in schema:
        parts = schema.get("properties", {})
        return {each: _filled(part, findings, dialogue, each) for each, part in parts.items()}
    if kind == "array":
        items = schema.get("items", {})
        if items.get("type") != "object":
            return []
        return [_item(items, finding) for finding in findings[: schema.get("maxItems", MAX_FOUND)]]
    if name == "summary":
        so_far = re.search(r"^Summary so far:[ \t]*(.*)$", dialogue, re.MULTILINE)
        told = [so_far[1].strip() if so_far else "", *(finding.text for finding in findings)]
        return " ".join(dict.fromkeys(part for part in told if part))[: schema.get("maxLength", 600)]
    return _empty(schema)


def _item(schema: dict[str, Any], finding: Finding) -> dict[str, Any]:
    return {name: _value(name.lower(), part, finding) for name, part in schema.get("properties", {}).items()}


def _value(name: str, schema: dict[str, Any], finding: Finding) -> Any:
    if choices := schema.get("enum"):
        return _chosen(choices, finding)
    if schema.get("type") in {"integer", "number"}:
        if name in {"line", "message", "seq", "source", "index", "n", "id", "message_seq"}:
            digits = re.sub(r"\D", "", finding.label)
            return int(digits) if digits else finding.line
        return schema.get("maximum", 1)
    if schema.get("type") == "string":
        return _text(name, finding)[: schema.get("maxLength", 1000)]
    return _empty(schema)


def _text(name: str, finding: Finding) -> str:
    if "quote" in name or "evidence" in name:
        return finding.quote
    if name in {"text", "fact", "statement", "content", "summary", "memory", "value"}:
        return finding.text
    if name in {"line", "message", "source", "id", "seq", "label"}:
        return finding.label
    if name in {"speaker", "who"}:
        return finding.speaker
    return {"subject": "user", "about": "user", "kind": finding.kind, "type": finding.kind}.get(name, "")


def _chosen(choices: list[Any], finding: Finding) -> Any:
    for wanted in (finding.kind, finding.category, "user"):
        if wanted in choices:
            return wanted
    return choices[0]


def _empty(schema: dict[str, Any]) -> Any:
    if choices := schema.get("enum"):
        return next((choice for choice in ("both", "none", "unknown") if choice in choices), choices[0])
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) else kind
    return {"string": "", "integer": 0, "number": 0, "boolean": False, "array": [], "object": {}}.get(str(kind))
