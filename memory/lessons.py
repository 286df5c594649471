"""The stretch of a conversation that somebody is learning from: claimed, kept, and given back or done.

What is true of it stands in PostgreSQL, on its clock: who learns (a lease), how often it was tried, how far it came.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

import structlog

from memory.errors import StoreUnavailableError
from memory.postgres import Connection, Database

log = structlog.get_logger(__name__)


LONGEST_RETRY = 60.0
"""Seconds between two attempts, whatever their number."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """A claimed stretch of one conversation: what lies beyond `watermark`."""

    user_id: UUID
    conversation_id: UUID
    watermark: int
    attempts: int
    last_error: str | None
    route: str
    companion: str
    time_zone: str


CLAIM = """
UPDATE conversations SET learn_attempts = learn_attempts + 1, learning_until = clock_timestamp() + $3 * interval '1 second'
WHERE user_id = $1 AND id = $2 AND deleted_at IS NULL AND learnt_seq < next_seq - 1
    AND (learning_until IS NULL OR learning_until < clock_timestamp())
RETURNING learnt_seq, learn_attempts, learn_error, route, companion_name, time_zone
"""


async def claim(
    database: Database, user_id: UUID, conversation_id: UUID, lease_seconds: float
) -> Lesson | Literal["busy", "gone", "caught_up"]:
    """Become the one who learns from a conversation, and count the attempt; or say why there is nothing to do."""
    async with database.as_user(user_id) as connection:
        row = await connection.fetchrow(CLAIM, user_id, conversation_id, lease_seconds)
        if row is not None:
            return Lesson(user_id, conversation_id, *row)
        # the row lock waits for an accept in flight: its message is seen here, or its outbox row comes after our delete
        state = await connection.fetchrow(
            """SELECT learnt_seq < next_seq - 1 AS behind, deleted_at FROM conversations
            WHERE user_id = $1 AND id = $2 FOR UPDATE""",
            user_id,
            conversation_id,
        )
        if state is not None and state["deleted_at"] is None and state["behind"]:
            return "busy"
        await connection.execute(
            "DELETE FROM outbox WHERE user_id = $1 AND conversation_id = $2", user_id, conversation_id
        )
        return "gone" if state is None or state["deleted_at"] is not None else "caught_up"


@contextlib.asynccontextmanager
async def kept(database: Database, lesson: Lesson, seconds: float) -> AsyncIterator[None]:
    """Renew the lease while the block runs, each third of it."""

    async def keep() -> None:
        while True:
            await asyncio.sleep(seconds / 3)
            with contextlib.suppress(StoreUnavailableError):
                async with database.as_user(lesson.user_id) as connection:
                    await connection.execute(
                        """UPDATE conversations SET learning_until = clock_timestamp() + $4 * interval '1 second'
                        WHERE user_id = $1 AND id = $2 AND learnt_seq = $3""",
                        lesson.user_id,
                        lesson.conversation_id,
                        lesson.watermark,
                        seconds,
                    )

    task = asyncio.create_task(keep(), name=f"learn-lease-{lesson.conversation_id}")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


ADVANCE = """
UPDATE conversations SET learnt_seq = $4, learn_attempts = 0, learning_until = NULL, learn_error = NULL
WHERE user_id = $1 AND id = $2 AND learnt_seq = $3 AND deleted_at IS NULL
RETURNING next_seq - 1 > learnt_seq
"""


async def lock_owner(connection: Connection, lesson: Lesson) -> bool:
    """Whether the user is there; until the transaction ends nobody else settles facts of theirs, or forgets any."""
    return bool(
        await connection.fetchval(
            "SELECT 1 FROM users WHERE user_id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE", lesson.user_id
        )
    )


async def advance(connection: Connection, lesson: Lesson, last: int) -> bool | None:
    """Move the watermark from where it was read; says whether more is waiting.

    None when another learner moved it, or the conversation is gone: whatever was to be written then must not be. The
    user's row is locked first, so that two conversations of one user settle their facts one after the other.
    """
    if not await lock_owner(connection, lesson):
        return None
    behind = await connection.fetchval(ADVANCE, lesson.user_id, lesson.conversation_id, lesson.watermark, last)
    if behind is None:
        return None
    if behind:
        await connection.execute(
            """UPDATE outbox SET not_before = now(), dispatched_at = NULL, delays = 0
            WHERE user_id = $1 AND conversation_id = $2""",
            lesson.user_id,
            lesson.conversation_id,
        )
    else:
        await connection.execute(
            "DELETE FROM outbox WHERE user_id = $1 AND conversation_id = $2", lesson.user_id, lesson.conversation_id
        )
    return bool(behind)


async def still_there(connection: Connection, lesson: Lesson, *, at_watermark: bool = True) -> bool:
    """Whether the conversation exists, and is learnt from up to where the lesson begins: who forgets everything moves that.

    What is in quarantine lies behind that place (`at_watermark=False`), and who forgets everything takes its row. It stays so
    until the transaction ends, since a deletion has to wait for that.
    """
    return bool(
        await connection.fetchval(
            """SELECT 1 FROM conversations
            WHERE user_id = $1 AND id = $2 AND deleted_at IS NULL AND ($3::bigint IS NULL OR learnt_seq = $3)
            FOR NO KEY UPDATE""",
            lesson.user_id,
            lesson.conversation_id,
            lesson.watermark if at_watermark else None,
        )
    )


async def quarantine(database: Database, lesson: Lesson, last: int) -> bool | None:
    """Step over messages that can't be learnt from, and keep where they are for the operator; answers as `advance`."""
    async with database.as_user(lesson.user_id) as connection:
        behind = await advance(connection, lesson, last)
        if behind is None:
            return None
        await connection.execute(
            """INSERT INTO quarantine (user_id, conversation_id, from_seq, to_seq, reason, attempts)
            VALUES ($1, $2, $3, $4, $5, $6)
            ON CONFLICT (user_id, conversation_id, from_seq)
            DO UPDATE SET to_seq = excluded.to_seq, reason = excluded.reason, attempts = excluded.attempts""",
            lesson.user_id,
            lesson.conversation_id,
            lesson.watermark + 1,
            last,
            lesson.last_error or "interrupted",
            lesson.attempts - 1,  # the claim of who gives up is none
        )
    log.error(
        "learning_quarantined",
        conversation_id=str(lesson.conversation_id),
        from_seq=lesson.watermark + 1,
        to_seq=last,
        reason=lesson.last_error,
    )
    return behind


GIVE_BACK = """
UPDATE conversations SET learn_attempts = greatest(learn_attempts - $4, 0), learning_until = NULL,
    learn_error = coalesce($5, learn_error)
WHERE user_id = $1 AND id = $2 AND learnt_seq = $3
"""
DELAY = """
INSERT INTO outbox (user_id, conversation_id, not_before, delays)
SELECT $1, $2, now() + $3 * interval '1 second', 1
ON CONFLICT (user_id, conversation_id) DO UPDATE SET dispatched_at = NULL, delays = outbox.delays + 1,
    not_before = now() + least($3 * power(2, least(outbox.delays, 12)), $4) * interval '1 second'
"""


async def give_back(database: Database, lesson: Lesson) -> None:
    """Leave it to others at once, as if it had not been tried."""
    async with database.as_user(lesson.user_id) as connection:
        await connection.execute(GIVE_BACK, lesson.user_id, lesson.conversation_id, lesson.watermark, 1, None)
        await connection.execute(
            "UPDATE outbox SET dispatched_at = NULL WHERE user_id = $1 AND conversation_id = $2",
            lesson.user_id,
            lesson.conversation_id,
        )


async def postpone(database: Database, lesson: Lesson, reason: str, seconds: float, most: float) -> None:
    """No model can answer: not the text's fault, so it is no attempt; tried again later, and later each time."""
    log.warning("learning_postponed", conversation_id=str(lesson.conversation_id), reason=reason)
    async with database.as_user(lesson.user_id) as connection:
        await connection.execute(GIVE_BACK, lesson.user_id, lesson.conversation_id, lesson.watermark, 1, None)
        await connection.execute(DELAY, lesson.user_id, lesson.conversation_id, seconds, most)


async def note_failure(database: Database, lesson: Lesson, reason: str, retry_seconds: float) -> None:
    """The attempt counts; the next one comes later each time."""
    log.warning("learning_failed", conversation_id=str(lesson.conversation_id), attempt=lesson.attempts, reason=reason)
    delay = min(retry_seconds * 2.0 ** (lesson.attempts - 1), LONGEST_RETRY)
    async with database.as_user(lesson.user_id) as connection:
        await connection.execute(GIVE_BACK, lesson.user_id, lesson.conversation_id, lesson.watermark, 0, reason)
        await connection.execute(DELAY, lesson.user_id, lesson.conversation_id, delay, delay)
