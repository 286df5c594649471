"""Replies that ended before their end, and can be gone on with: stopped, cut at the length limit, or failed with text."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from memory.errors import ConversationNotFoundError, NothingToContinueError, TurnInProgressError
from memory.postgres import Connection
from memory.vault import opened

UNFINISHED = """
SELECT t.status, t.finish_reason, t.request, t.user_message_id, t.reply_message_id, coalesce(m.content, t.checkpoint) AS text,
    u.content AS asked, u.speaker
FROM turns t JOIN messages u ON u.user_id = t.user_id AND u.id = t.user_message_id
LEFT JOIN messages m ON m.user_id = t.user_id AND m.id = t.reply_message_id
WHERE t.user_id = $1 AND t.conversation_id = $2 AND t.id = $3
"""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A reply to go on with: its text, and what it answered."""

    turn_id: UUID
    reply_message_id: UUID | None
    text: str
    user_message_id: UUID
    asked: str
    speaker: str | None
    request: dict[str, Any]


async def read_unfinished(connection: Connection, user_id: UUID, conversation_id: UUID, turn_id: UUID) -> Unfinished:
    """Raises `ConversationNotFoundError`, `TurnInProgressError`, or `NothingToContinueError` for a reply that is whole."""
    row = await connection.fetchrow(UNFINISHED, user_id, conversation_id, turn_id)
    if row is None:
        raise ConversationNotFoundError("There is no such turn.")
    if row["status"] == "running":
        raise TurnInProgressError(turn_id)
    if row["status"] == "completed" and row["finish_reason"] != "length":
        raise NothingToContinueError("The reply came to its own end.")
    if not row["text"].strip():
        raise NothingToContinueError("Nothing had been said yet: ask for another reply instead.")
    return Unfinished(
        turn_id,
        # a reply that failed has no message: whatever it went on with is what this one will stand for
        row["reply_message_id"] or _uuid((row["request"].get("continues") or {}).get("message_id")),
        row["text"],
        row["user_message_id"],
        row["asked"],
        row["speaker"],
        # words among the options are sealed for the turn that they were given for
        {
            name: await opened(connection, user_id, value) if isinstance(value, str) else value
            for name, value in row["request"].items()
            if name != "continues"
        },
    )


def _uuid(text: str | None) -> UUID | None:
    return UUID(text) if text else None
