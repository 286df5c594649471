"""Ask a model what a stretch of conversation says, and read its answer with distrust.

A candidate is only what a model claims; `memory.evidence` decides whether it may become a fact.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from memory import prompts
from memory.ports import Reasoner
from memory.vault import misplaced

PROMPT = "extraction-1"
KINDS = ("user", "companion", "both", "open_loop")
MAX_FACTS = 12
TEXT_CHARS = 240
QUOTE_CHARS = 240
LINE_CHARS = 2000
"""Of a longer message only the head is read: what is worth remembering for years is rarely further down."""


def schema_for(messages: int) -> dict[str, Any]:
    """The answer's schema. Fewer messages get less room: a small model fills what it gets, at three tokens a second."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["facts"],
        "properties": {
            "facts": {
                "type": "array",
                "maxItems": min(MAX_FACTS, messages // 2 + 3),
                "items": {
                    "type": "object",
                    "additionalProperties": False,
                    # the proof before the claim: what is written first binds what comes after
                    "required": ["line", "quote", "kind", "text"],
                    "properties": {
                        "line": {"type": "integer"},
                        "quote": {"type": "string", "maxLength": QUOTE_CHARS},
                        "kind": {"type": "string", "enum": list(KINDS)},
                        "text": {"type": "string", "maxLength": TEXT_CHARS},
                    },
                },
            }
        },
    }


class NonsenseError(Exception):
    """The model's answer is not what it was asked for; nothing follows from it."""


@dataclass(frozen=True, slots=True)
class Said:
    """A message as learning reads it."""

    seq: int
    message_id: UUID
    role: str
    speaker: str | None
    text: str
    said_at: datetime

    def __post_init__(self) -> None:
        if misplaced("messages", self.message_id, self.text):
            object.__setattr__(self, "text", "")


@dataclass(frozen=True, slots=True)
class Candidate:
    line: int
    """1-based, into the messages that were shown."""
    quote: str
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Extraction:
    candidates: tuple[Candidate, ...]
    refused: Counter[str]
    """Items that had not even the right form, by reason."""


NOTHING = Extraction((), Counter())


def dialogue(messages: Sequence[Said]) -> str:
    """The messages as numbered lines. A message can't begin a line of its own making: its line breaks become spaces."""
    lines = []
    for number, message in enumerate(messages, 1):
        who = "companion" if message.role == "assistant" else "user"
        lines.append(f"[{number}] {who}: {' '.join(message.text[:LINE_CHARS].split())}")
    return "\n".join(lines)


async def extract(reasoner: Reasoner, messages: Sequence[Said]) -> Extraction:
    """Raises `NonsenseError` when the answer can't be read, and what the reasoner raises."""
    prompt = prompts.load(PROMPT)
    if not any(message.text.strip() for message in messages):
        return NOTHING
    answer = await reasoner.structured(prompt.system, prompt.examples, dialogue(messages), schema_for(len(messages)))
    return parse(answer)


THINKING = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
"""As JSON writes it. Models put it where half of a character is lost, and PostgreSQL takes none."""
FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL | re.IGNORECASE)


def parse(answer: str) -> Extraction:
    """Find the JSON in a model's answer and keep the items that have the right form."""
    items = _items(json_in(answer))
    candidates: list[Candidate] = []
    refused: Counter[str] = Counter()
    for item in items[: 4 * MAX_FACTS]:
        reason = _malformed(item)
        if reason:
            refused[reason] += 1
        elif len(candidates) == MAX_FACTS:
            refused["too_many"] += 1
        else:
            candidates.append(Candidate(int(item["line"]), item["quote"].strip(), item["kind"], item["text"].strip()))
    return Extraction(tuple(candidates), refused)


def json_in(answer: str) -> Any:
    """The first JSON object or array of the answer, whatever a chatty model wrapped it in."""
    text = THINKING.sub("", answer)
    fenced = FENCE.search(text)
    for attempt in (text.strip(), fenced[1].strip() if fenced else "", _from_bracket(text)):
        if not attempt:
            continue
        try:
            return orjson.loads(NUL.sub(r"\1", attempt))
        except orjson.JSONDecodeError:
            continue
    raise NonsenseError("not_json")


def _from_bracket(text: str) -> str:
    starts = [at for at in (text.find("{"), text.find("[")) if at >= 0]
    end = max(text.rfind("}"), text.rfind("]"))
    return text[min(starts) : end + 1] if starts and end > min(starts) else ""


def _items(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = value.get("facts")
    if not isinstance(value, list):
        raise NonsenseError("not_a_list")
    return value


def _malformed(item: Any) -> str:
    """Why this is no candidate, or nothing."""
    if not isinstance(item, dict):
        return "not_an_object"
    line, quote, kind, text = (item.get(name) for name in ("line", "quote", "kind", "text"))
    if isinstance(line, bool) or not isinstance(line, int | float | str) or not str(line).strip("[] ").isdigit():
        return "line"
    item["line"] = str(line).strip("[] ")
    if kind not in KINDS:
        return "kind"
    if not isinstance(quote, str) or not isinstance(text, str) or not quote.strip() or not text.strip():
        return "empty"
    if len(quote) > 2 * QUOTE_CHARS or len(text) > TEXT_CHARS:
        return "length"
    return ""
