"""What mem0 gives for `get_all()`, saved as JSON: statements about one user, no conversation.

Shape of mem0ai 0.1.40 to 2.2.1 and of its platform: `{"results": [{"id", "memory", "created_at", "updated_at", "user_id",
"agent_id", "metadata", …}]}`; before 0.1.40 the bare list.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

from service.imports.records import (
    MAX_ID,
    Broken,
    BrokenLineError,
    Noted,
    Record,
    Skipped,
    WrongFormatError,
    checked_name,
    checked_object,
    checked_text,
)
from service.imports.times import parse_time


def mem0_records(document: object, wanted: str | None) -> Iterator[Record]:
    """Each memory as a statement, counted from 1. `wanted` is a `user_id`, for an export that holds several users."""
    memories = _memories(document)
    users = sorted({str(one["user_id"]) for one in memories if isinstance(one, dict) and one.get("user_id")})
    if wanted is None and len(users) > 1:
        shown = ", ".join(users[:10])
        raise WrongFormatError(
            f"The file holds memories of {len(users)} users; choose one with `conversation`: {shown}."
        )
    if wanted is not None and wanted not in users:
        raise WrongFormatError(
            f"There is no user {wanted!r} in the file; there are: {', '.join(users[:10]) or 'none'}."
        )
    for number, value in enumerate(memories, 1):
        try:
            yield _memory(number, value, wanted)
        except BrokenLineError as error:
            yield Broken(number, str(error))


def _memories(document: object) -> list[Any]:
    found = document.get("results") if isinstance(document, dict) else document
    if not isinstance(found, list):
        raise WrongFormatError('An export of mem0 is what get_all() gives: {"results": [{"id", "memory", …}]}.')
    return found


def _memory(number: int, value: object, wanted: str | None) -> Record:
    memory = checked_object(value)
    if wanted is not None and str(memory.get("user_id")) != wanted:
        return Skipped(number, "another user's")
    name = checked_name(memory.get("id"), "id", MAX_ID)
    if name is None:
        raise BrokenLineError('"id" is missing')
    text = " ".join(checked_text(memory.get("memory"), "memory").split())
    details = memory.get("metadata")
    if isinstance(details, dict) and details.get("memory_type") == "procedural_memory":
        return Skipped(number, "a procedure of an agent, not a memory of somebody")
    if not text:
        return Skipped(number, "an empty memory")
    if _expired(memory.get("expiration_date")):
        return Skipped(number, "an expired memory")
    told_at = memory.get("updated_at") or memory.get("created_at")
    return Noted(
        number=number,
        program="mem0",
        source_id=name,
        kind="companion" if _of_companion(memory) else "user",
        text=text,
        at=datetime.now(UTC) if told_at is None else parse_time(told_at, UTC),
    )


def _of_companion(memory: dict[str, object]) -> bool:
    """Of an agent alone, or of what it said."""
    said_by = memory.get("attributed_to") or memory.get("role")
    return said_by == "assistant" or (not memory.get("user_id") and bool(memory.get("agent_id")))


def _expired(value: object) -> bool:
    try:
        return isinstance(value, str) and date.fromisoformat(value[:10]) < datetime.now(UTC).date()
    except ValueError:
        return False
