"""What is kept of a live conversation, and its form in Redis."""

from dataclasses import dataclass, replace
from typing import Any, Self
from uuid import UUID

import orjson

from sessions.errors import OwnerMismatchError


@dataclass(frozen=True, slots=True)
class Session:
    """Which route a conversation is on and who may see it: a hint for speed, never the gate itself."""

    owner: UUID
    conversation_id: UUID
    route: str
    lock_reason: str | None
    lock_epoch: int
    assured: tuple[str, ...]
    """Levels of age assurance that the owner had when this was written."""

    def encode(self) -> bytes:
        return orjson.dumps(
            {
                "owner": self.owner,
                "route": self.route,
                "lock": self.lock_reason,
                "epoch": self.lock_epoch,
                "assured": self.assured,
            }
        )

    @classmethod
    def decode(cls, raw: bytes, owner: UUID, conversation_id: UUID) -> Self:
        value = _owned(raw, owner)
        return cls(owner, conversation_id, value["route"], value["lock"], value["epoch"], tuple(value["assured"]))


@dataclass(frozen=True, slots=True)
class Line:
    """One message of the recent past."""

    seq: int
    role: str
    content: str
    speaker: str | None = None


@dataclass(frozen=True, slots=True)
class Buffer:
    """The recent past of one conversation: enough for a prompt without PostgreSQL."""

    owner: UUID
    conversation_id: UUID
    head_id: UUID | None
    """The last message of `lines`: whoever uses them checks that they lead to what was said now."""
    companion_name: str
    persona: str
    time_zone: str
    summary: str
    summary_seq: int
    lines: tuple[Line, ...]
    version: int = -1
    """The conversation's when this was read: whoever uses it checks that too. -1 is no conversation's."""

    def extended(self, lines: tuple[Line, ...], head_id: UUID, keep: int) -> Self:
        """The buffer with `lines` said after it, cut to the last `keep`."""
        return replace(self, head_id=head_id, lines=(self.lines + lines)[-keep:])

    def encode(self) -> bytes:
        return orjson.dumps(
            {
                "owner": self.owner,
                "head": self.head_id,
                "name": self.companion_name,
                "persona": self.persona,
                "zone": self.time_zone,
                "summary": self.summary,
                "summary_seq": self.summary_seq,
                "lines": [(line.seq, line.role, line.content, line.speaker) for line in self.lines],
                "version": self.version,
            }
        )

    @classmethod
    def decode(cls, raw: bytes, owner: UUID, conversation_id: UUID) -> Self:
        value = _owned(raw, owner)
        return cls(
            owner,
            conversation_id,
            UUID(value["head"]) if value["head"] else None,
            value["name"],
            value["persona"],
            value["zone"],
            value["summary"],
            value["summary_seq"],
            tuple(Line(*line) for line in value["lines"]),
            value.get("version", -1),  # older releases write none
        )


def _owned(raw: bytes, owner: UUID) -> Any:
    value = orjson.loads(raw)
    # a pooled connection that answers the wrong request has shown people others' chats before
    if value["owner"] != str(owner):
        raise OwnerMismatchError("A value of the live state belongs to another user.")
    return value
