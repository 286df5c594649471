"""The events of a reply's stream as OpenAPI shows them."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field


class TurnAccepted(BaseModel):
    """The message is stored, and will not be lost."""

    turn_id: UUID
    conversation_id: UUID
    message_id: UUID
    seq: int
    created_at: datetime
    resumable: bool = Field(description="False while the log is away: a broken stream then ends with the stored reply")
    duplicate: bool = Field(description="True when this message had been sent before: the stream is that turn's")


class MemorySource(BaseModel):
    conversation_id: UUID
    message_id: UUID
    seq: int


class RecalledMemory(BaseModel):
    id: UUID
    layer: Literal["episode", "fact"]
    text: str
    score: float
    why: list[str] = Field(description="Which signals found it, the strongest first", examples=[["dense", "lexical"]])
    said_at: datetime
    speaker: str | None
    source: MemorySource


class MemoryRecalled(BaseModel):
    """What was remembered for this reply, and why."""

    items: list[RecalledMemory]
    tokens: int
    elapsed_ms: float
    degraded: bool = Field(False, description="True when memory was away: the reply knows nothing of the past")
    words_only: bool = Field(False, description="True when no embedding model answered: found by words, not by meaning")


class ReplyDelta(BaseModel):
    text: str


class ReplyReasoning(BaseModel):
    """What the model thinks, where that was asked for (`reasoning`): follows what was told of it before. No part of the reply."""

    text: str


class Notice(BaseModel):
    """Something the user must be told beside the reply."""

    kind: str = Field(examples=["ai_disclosure"], description="ai_disclosure, break_reminder, crisis_referral or queue")
    text: str
    id: str = Field(examples=["ai_disclosure first"], description="Names the moment at which it was due")


class TurnTakenOver(BaseModel):
    """The writer died and another goes on: everything shown so far counts."""

    grade: Literal["exact", "prefix", "restart"]
    kept_chars: int
    after: str = Field(description="The event that this one follows")


class TurnRebased(BaseModel):
    """Replace what is shown by `text`."""

    text: str
    reason: str = Field(
        examples=["catching_up"],
        description="continued: it goes on with a reply that was stopped or cut. catching_up, stored, log_lost: the same text "
        "in one piece. taken_over: what another writer knows of it. restarted: it begins anew. thinking: it was reasoning",
    )
    reasoning: str = Field("", description="Replaces what is shown of the reasoning, also where it is left out")


class TurnCompleted(BaseModel):
    message_id: UUID
    seq: int
    finish_reason: str
    usage: dict[str, int] | None
    backend: str
    model: str
    scripted: bool = Field(description="True when a script, not a model, answered")


class TurnFailed(BaseModel):
    """A problem object (RFC 9457) with two more members."""

    code: str
    title: str
    detail: str
    status: int
    retryable: bool
    retry_after: int | None = None


EVENTS: dict[str, type[BaseModel]] = {
    "turn.accepted": TurnAccepted,
    "memory.recalled": MemoryRecalled,
    "reply.delta": ReplyDelta,
    "reply.reasoning": ReplyReasoning,
    "notice": Notice,
    "turn.taken_over": TurnTakenOver,
    "turn.rebased": TurnRebased,
    "turn.completed": TurnCompleted,
    "turn.failed": TurnFailed,
}

EXAMPLE = """id: 1-0
event: turn.accepted
data: {"turn_id":"0199…","conversation_id":"0199…","message_id":"0199…","seq":7,"created_at":"2026-11-22T10:00:00Z","resumable":true,"duplicate":false}

id: 1-1
event: memory.recalled
data: {"items":[{"id":"0199…","layer":"episode","text":"[2026-05-07] Ana: I moved to Lisbon","score":0.81,"why":["dense"], …}],"tokens":12,"elapsed_ms":1.4}

id: 1-2
event: reply.delta
data: {"text":"To Lisbon"}

id: 1-3
event: reply.delta
data: {"text":", in May."}

: ping

id: 2-0
event: turn.taken_over
data: {"grade":"prefix","kept_chars":17,"after":"1-3"}

id: 2-1
event: turn.completed
data: {"message_id":"0199…","seq":8,"finish_reason":"stop","usage":null,"backend":"embedded","model":"local","scripted":false}
"""

ONE_EVENT = {
    "type": "object",
    "description": "Of each event; `data` is JSON of the schema that its type names",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string", "pattern": "^[0-9]+-[0-9]+$"},
        "event": {"type": "string", "enum": list(EVENTS)},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}

STREAM_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events until `turn.completed` or `turn.failed`. Ids are `<epoch>-<n>`: send the last one seen as "
        "`Last-Event-ID` to the turn's stream, on any instance, and the rest arrives. Event types: "
        + ", ".join(f"`{name}` (schema {model.__name__})" for name, model in EVENTS.items()),
        "content": {"text/event-stream": {"schema": ONE_EVENT, "example": EXAMPLE}},
    }
}


def with_event_schemas(openapi: dict[str, Any]) -> dict[str, Any]:
    """Add every event's schema to the document, so that clients can generate their types."""
    schemas = openapi.setdefault("components", {}).setdefault("schemas", {})
    for model in EVENTS.values():
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
    return openapi
