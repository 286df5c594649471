"""What could not be learnt from: shown to operators, and tried again. Where it is and why, never what it says.

A message that was put aside was learnt from by nobody, and the watermark is beyond it. Trying again leaves the watermark
alone: the row of the quarantine is what moves, deleted in the transaction that writes the facts, so that of any number of
tries that succeed one counts.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import structlog

from memory import lessons
from memory.errors import EmbedderUnavailableError, ReasonerRefusedError, ReasonerUnavailableError
from memory.extraction import NonsenseError
from memory.learning import MESSAGES, Learnt
from memory.lessons import Lesson
from memory.ports import Embedder, Reasoner
from memory.postgres import Database
from memory.understanding import Reading, settle, understand

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Aside:
    """A stretch of a conversation that was put aside."""

    user_id: UUID
    conversation_id: UUID
    from_seq: int
    to_seq: int
    attempts: int
    """0 when a release put it aside that didn't write them down."""
    reason: str
    since: datetime


LIST = """
SELECT user_id, conversation_id, from_seq, to_seq, attempts, reason, created_at FROM quarantine
WHERE cardinality($1::uuid[]) = 0 OR conversation_id = ANY ($1)
ORDER BY created_at, conversation_id, from_seq
"""


async def listed(database: Database, conversations: Sequence[UUID] = ()) -> list[Aside]:
    """What is put aside, oldest first: of these conversations, or of all."""
    async with database.system() as connection:
        return [Aside(*row) for row in await connection.fetch(LIST, list(conversations))]


async def learn_again(
    database: Database, reasoner: Reasoner, embedder: Embedder, aside: Aside, reading: Reading
) -> Learnt:
    """Learn from it now. Safe at any time and any number of times: `lost` is what another try was faster with.

    What fails stays where it is, with its attempt counted; a model that is away (`postponed`) is no attempt.
    """
    async with database.as_user(aside.user_id) as connection:
        row = await connection.fetchrow(
            "SELECT route, companion_name, time_zone FROM conversations WHERE user_id = $1 AND id = $2",
            aside.user_id,
            aside.conversation_id,
        )
    if row is None:
        return Learnt("gone")
    lesson = Lesson(aside.user_id, aside.conversation_id, aside.from_seq - 1, aside.attempts, aside.reason, *row)
    try:
        return await _attempt(database, reasoner, embedder, lesson, aside.to_seq, reading)
    except (ReasonerUnavailableError, EmbedderUnavailableError) as error:
        log.warning("learning_postponed", conversation_id=str(aside.conversation_id), reason=str(error))
        return Learnt("postponed")
    except (NonsenseError, ReasonerRefusedError) as error:
        await _note_failure(database, aside, str(error))
        reason = str(error) if isinstance(error, NonsenseError) else "model_refused"
        return Learnt("failed", refused=Counter({reason: 1}))


RELEASE = """
DELETE FROM quarantine WHERE user_id = $1 AND conversation_id = $2 AND from_seq = $3 AND to_seq = $4 RETURNING 1
"""


async def _attempt(
    database: Database, reasoner: Reasoner, embedder: Embedder, lesson: Lesson, last: int, reading: Reading
) -> Learnt:
    first = lesson.watermark + 1
    async with database.as_user(lesson.user_id) as connection:
        rows = await connection.fetch(MESSAGES, lesson.user_id, lesson.conversation_id, first - 1, last - first + 1)
    rows = [row for row in rows if row["seq"] <= last]
    understood = await understand(database, reasoner, embedder, lesson, rows, reading)
    async with database.as_user(lesson.user_id) as connection:
        # in the order in which whoever learns, forgets or deletes locks them
        there = await lessons.lock_owner(connection, lesson)
        if not (there and await lessons.still_there(connection, lesson, at_watermark=False)):
            return Learnt("gone")
        if not await connection.fetchval(RELEASE, lesson.user_id, lesson.conversation_id, first, last):
            return Learnt("lost")
        settled = await settle(connection, lesson, understood)
    log.info("learning_released", conversation_id=str(lesson.conversation_id), from_seq=first, to_seq=last)
    return Learnt("learnt", len(rows), settled, understood.refused)


async def _note_failure(database: Database, aside: Aside, reason: str) -> None:
    async with database.as_user(aside.user_id) as connection:
        await connection.execute(
            """UPDATE quarantine SET attempts = attempts + 1, reason = $4
            WHERE user_id = $1 AND conversation_id = $2 AND from_seq = $3""",
            aside.user_id,
            aside.conversation_id,
            aside.from_seq,
            reason,
        )
