"""The events of a reply's stream: their data, their SSE frames, and the text that they add up to."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from memory.turns import StoredTurn
from sessions.replies import Event, EventId

ACCEPTED = "turn.accepted"
RECALLED = "memory.recalled"
DELTA = "reply.delta"
REASONING = "reply.reasoning"
NOTICE = "notice"
TAKEN_OVER = "turn.taken_over"
REBASED = "turn.rebased"
COMPLETED = "turn.completed"
FAILED = "turn.failed"

TERMINAL = frozenset({COMPLETED, FAILED})

PING = b": ping\n\n"


def event(event_id: EventId, kind: str, data: dict[str, Any]) -> Event:
    # copied, since it stays until the reply has ended: what orjson gives lies in a buffer of 1 to 32 kB (measured)
    return Event(event_id, kind, bytes(memoryview(orjson.dumps(data))))


def frame(item: Event) -> bytes:
    """The event as server-sent bytes; JSON has no line break of its own, so that one data line is enough."""
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (str(item.id).encode(), item.type.encode(), item.data)


def accepted_data(
    turn_id: UUID,
    conversation_id: UUID,
    message_id: UUID,
    seq: int,
    created_at: datetime,
    *,
    resumable: bool,
    duplicate: bool = False,
) -> dict[str, Any]:
    return {
        "turn_id": turn_id,
        "conversation_id": conversation_id,
        "message_id": message_id,
        "seq": seq,
        "created_at": created_at,
        "resumable": resumable,
        "duplicate": duplicate,
    }


def completed_data(turn: StoredTurn) -> dict[str, Any]:
    return {
        "message_id": turn.reply_message_id,
        "seq": turn.reply_seq,
        "finish_reason": turn.finish_reason,
        "usage": turn.usage,
        "backend": turn.backend,
        "model": turn.model,
        "scripted": turn.scripted,
    }


def text_of(events: Iterable[Event]) -> str:
    """What a reader who was shown these events has on the screen."""
    parts: list[str] = []
    for item in events:
        if item.type == DELTA:
            parts.append(orjson.loads(item.data)["text"])
        elif item.type == REBASED:
            parts = [orjson.loads(item.data)["text"]]
        elif item.type == TAKEN_OVER:
            parts = ["".join(parts)[: orjson.loads(item.data)["kept_chars"]]]
    return "".join(parts)


def reasoning_of(events: Iterable[Event]) -> str:
    """What a reader who was shown these events has of the model's reasoning."""
    parts: list[str] = []
    for item in events:
        if item.type == REASONING:
            parts.append(orjson.loads(item.data)["text"])
        elif item.type == REBASED:
            parts = [orjson.loads(item.data).get("reasoning", "")]
    return "".join(parts)


def rebased_data(text: str, reason: str, reasoning: str | None) -> dict[str, Any]:
    data = {"text": text, "reason": reason}
    return {**data, "reasoning": reasoning} if reasoning else data


def rebase(events: Sequence[Event], event_id: EventId, reason: str) -> Event:
    """One event that stands for all of `events`."""
    return event(event_id, REBASED, rebased_data(text_of(events), reason, reasoning_of(events)))
