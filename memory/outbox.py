"""The outbox: conversations that wait to be learnt from, whoever is told of them and whatever becomes of the telling.

Its rows are written with the messages themselves (memory/turns.py) and go when all is learnt (memory/lessons.py).
"""

from dataclasses import dataclass
from uuid import UUID

from memory.postgres import Connection


@dataclass(frozen=True, slots=True)
class Backlog:
    waiting: int
    oldest_seconds: float
    quarantined: int


DUE = """
UPDATE outbox SET dispatched_at = clock_timestamp()
WHERE (user_id, conversation_id) IN (
    SELECT o.user_id, o.conversation_id FROM outbox o
    LEFT JOIN conversations c ON c.user_id = o.user_id AND c.id = o.conversation_id
    WHERE o.not_before <= now() - $1 * interval '1 second'
        AND (o.dispatched_at IS NULL OR o.dispatched_at < clock_timestamp() - $2 * interval '1 second')
        AND (c.learning_until IS NULL OR c.learning_until < clock_timestamp())
    ORDER BY o.not_before LIMIT $3 FOR UPDATE OF o SKIP LOCKED
)
RETURNING user_id, conversation_id
"""


async def take_due(connection: Connection, *, grace: float, again: float, limit: int) -> list[tuple[UUID, UUID]]:
    """Users and conversations, at most `limit`, that are due for `grace` seconds, on which nobody works, and of which
    nobody was told in the last `again` seconds; they count as told when the transaction commits. What somebody else is
    taking is skipped. Ask over `Database.system`."""
    rows = await connection.fetch(DUE, grace, again, limit)
    return [(row["user_id"], row["conversation_id"]) for row in rows]


RECONCILE = """
INSERT INTO outbox (user_id, conversation_id)
SELECT c.user_id, c.id FROM conversations c
WHERE c.learnt_seq < c.next_seq - 1 AND c.deleted_at IS NULL AND c.updated_at < now() - interval '1 minute'
    AND NOT EXISTS (SELECT FROM outbox o WHERE o.user_id = c.user_id AND o.conversation_id = c.id)
ORDER BY c.updated_at LIMIT 1000
ON CONFLICT (user_id, conversation_id) DO NOTHING
RETURNING 1
"""


async def put_back_missing(connection: Connection) -> int:
    """Conversations with messages beyond the watermark that no row spoke of, and one does now: there should never be any.
    Ask over `Database.system`."""
    return len(await connection.fetch(RECONCILE))


BACKLOG = """
SELECT (SELECT count(*) FROM outbox),
    (SELECT coalesce(extract(epoch FROM now() - min(not_before)), 0) FROM outbox WHERE not_before <= now()),
    (SELECT count(*) FROM quarantine)
"""


async def read_backlog(connection: Connection) -> Backlog:
    """How much waits to be learnt from, over all users; for health and metrics. Ask over `Database.system`."""
    waiting, oldest, quarantined = await connection.fetchrow(BACKLOG)  # type: ignore[misc]  # an aggregate has a row
    return Backlog(int(waiting), float(oldest), int(quarantined))
