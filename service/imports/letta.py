"""Letta's agent files (`.af`): an agent's last messages, and the blocks in which it kept what it knew.

Shape of AgentFileSchema (letta 0.9 on): `{"agents": [{"name", "messages", "block_ids", …}], "blocks": [{"id", "label",
"value"}], …}`. The messages are those of an inner loop: what the two said to each other has to be found among heartbeats,
reasoning and tool calls.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import orjson

from service.imports.records import (
    MAX_NAME,
    Broken,
    BrokenLineError,
    Header,
    Noted,
    Record,
    Said,
    Skipped,
    WrongFormatError,
    checked_name,
    checked_object,
    checked_text,
)
from service.imports.times import parse_time, zone_of

ABOUT_THE_USER = frozenset({"human", "user", "about_user", "customer"})
"""Labels of blocks whose lines are about the user; all other blocks are the agent's own notes and tools."""
PERSONA_CHARS = 8_000
REMINDER = re.compile(r"<system-reminder>.*?(?:</system-reminder>|\Z)", re.DOTALL)
BULLET = re.compile(r"^(?:[-*•]|\d+[.)])\s+")
# what a template asks to be filled in, and the notes that an agent writes to itself
UNFILLED = re.compile(r"\?\s*$|\[(?:[^\]]*\b)?(?:unknown|none yet|empty|todo|tbd)\b|:\s*$|^[#<{\[]", re.IGNORECASE)
TO_ITSELF = re.compile(r"\b(?:I|me|my)\b|\bthis is what\b|\bthis block\b", re.IGNORECASE)


def letta_records(document: object, wanted: str | None) -> Iterator[Record]:
    """The agent's conversation, then what its blocks say; `wanted` is an agent's name or id."""
    if not isinstance(document, dict) or not isinstance(document.get("agents"), list):
        raise WrongFormatError(
            'An agent file of Letta is a JSON object with "agents", "blocks" and "messages" in them.'
        )
    agent = _agent(document["agents"], wanted)
    blocks = _blocks(document, agent)
    name = _name(agent)
    yield Header(
        title=name,
        companion=name or None,
        time_zone=_zone(agent.get("timezone")),
        key=f"letta {name}",
        sliding=True,
        persona=next((_text_of(b.get("value")) for b in blocks if b.get("label") == "persona"), "")[:PERSONA_CHARS],
    )
    messages = agent.get("messages")
    number = 0
    for number, value in enumerate(messages if isinstance(messages, list) else (), 1):
        try:
            yield _said(number, value)
        except BrokenLineError as error:
            yield Broken(number, str(error))
    yield from _noted(blocks, name, number, _moment(document.get("created_at")))


def _agent(agents: list[object], wanted: str | None) -> dict[str, Any]:
    found: list[dict[str, Any]] = [one for one in agents if isinstance(one, dict)]
    # a background agent that tends the memory of the first talks to nobody
    talking = [one for one in found if "sleeptime" not in str(one.get("agent_type"))]
    chosen = [one for one in found if wanted in (one.get("name"), one.get("id"))] if wanted is not None else talking
    if len(chosen) == 1:
        return chosen[0]
    names = ", ".join(str(one.get("name") or one.get("id")) for one in talking[:10])
    if not found:
        raise WrongFormatError("There is no agent in the file.")
    if wanted is not None and not chosen:
        raise WrongFormatError(f"There is no agent {wanted!r} in the file; there are: {names}.")
    raise WrongFormatError(f"The file holds {len(talking)} agents; choose one with `conversation`: {names}.")


def _name(agent: dict[str, Any]) -> str:
    name = agent.get("name")
    return "" if not isinstance(name, str) or "\0" in name else name.strip()[:MAX_NAME]


def _blocks(document: dict[str, Any], agent: dict[str, Any]) -> list[dict[str, Any]]:
    ids = agent.get("block_ids")
    theirs = set(map(str, ids)) if isinstance(ids, list) else set()
    blocks = document.get("blocks")
    return [
        one
        for one in (blocks if isinstance(blocks, list) else ())
        if isinstance(one, dict) and str(one.get("id")) in theirs
    ]


def _zone(value: object) -> str | None:
    try:
        zone_of(value if isinstance(value, str) else None)
    except BrokenLineError:
        return None
    return value if isinstance(value, str) else None


def _moment(value: object) -> datetime:
    try:
        return parse_time(value, UTC)
    except BrokenLineError:
        return datetime.now(UTC)


# --- what was said


def _said(number: int, value: object) -> Record:
    message = checked_object(value)
    role = message.get("role")
    if role not in ("user", "assistant"):
        return Skipped(number, f"a {role} message")
    text = _spoken(message) if role == "assistant" else _of_envelope(_text_of(message.get("content")))
    text = REMINDER.sub("", checked_text(text, "content")).strip()
    if not text:
        return Skipped(number, "nothing that the two said to each other")
    at = message.get("created_at")
    return Said(
        number=number,
        role=role,
        speaker=checked_name(message.get("name"), "name") if role == "user" else None,
        text=text,
        at=None if at is None else parse_time(at, UTC),
        # ids in the file count from 0 anew with each export
    )


def _text_of(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    return "\n".join(
        part["text"]
        for part in parts
        if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
    )


def _of_envelope(text: str) -> str:
    """The words of a packed message; of heartbeats, logins and alerts, which nobody said, nothing."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        packed = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    if not isinstance(packed, dict) or not isinstance(packed.get("type"), str):
        return text
    words = packed.get("message")
    return words if packed["type"] == "user_message" and isinstance(words, str) else ""


def _spoken(message: dict[str, object]) -> str:
    """What the user got to read: the text, and in older agents the argument of the tool that sends it."""
    said = [_text_of(message.get("content"))]
    calls = message.get("tool_calls")
    sent = []
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or function.get("name") != "send_message":
            continue
        try:
            arguments = orjson.loads(function.get("arguments") or "")
        except (orjson.JSONDecodeError, TypeError):
            continue
        if isinstance(arguments, dict) and isinstance(arguments.get("message"), str):
            sent.append(arguments["message"])
    # with that tool the text beside it is the agent's inner monologue
    return "\n".join(sent or said)


# --- what the agent knew


def _noted(blocks: list[dict[str, Any]], agent: str, number: int, at: datetime) -> Iterator[Record]:
    """Line by line: a block is one text that the agent rewrites as a whole."""
    for block in blocks:
        label = str(block.get("label"))
        if label not in ABOUT_THE_USER:
            continue
        for line in _text_of(block.get("value")).splitlines():
            text = BULLET.sub("", line.strip())
            if not text:
                continue
            number += 1
            if "\0" in text or UNFILLED.search(text) or TO_ITSELF.search(text):
                yield Skipped(number, "not a statement about the user")
            else:
                yield Noted(number, "letta", f"{agent}/{label}/{text}", "user", text, at)
