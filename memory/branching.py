"""Which messages of a conversation count as said in it: those on the way from its beginning to its latest one.

An edit, another alternative, a reply that was gone on with, or a change to another branch leaves messages beside that way.
They stay in the transcript and are exported and erased like any; but they are neither recalled nor summarised as if they had
been said. Every search asks for the routes that it may see, so that an episode whose route has a mark before it is found by
none.
"""

from uuid import UUID

from memory.postgres import Connection

MARK = "-"
ROUTE = "ltrim(e.route, '-')"
"""Of an episode, wherever it is."""
ASIDE = "left(e.route, 1) = '-'"

KEEP = f"""
WITH RECURSIVE fork AS (
    SELECT coalesce((SELECT seq FROM messages WHERE user_id = $1 AND conversation_id = $2 AND id = $3), $4::bigint) AS seq
), way AS (
    SELECT m.id, m.parent_id FROM conversations c, fork, messages m
    WHERE c.user_id = $1 AND c.id = $2 AND m.user_id = $1 AND m.id = c.head_id AND m.seq > fork.seq
    UNION ALL
    SELECT m.id, m.parent_id FROM way, fork, messages m
    WHERE m.user_id = $1 AND m.id = way.parent_id AND m.seq > fork.seq
)
UPDATE episodes e SET route = CASE WHEN {ASIDE} THEN {ROUTE} ELSE '{MARK}' || e.route END
FROM fork
WHERE e.user_id = $1 AND e.conversation_id = $2 AND e.seq > fork.seq
    AND ({ASIDE}) = (e.message_id IN (SELECT id FROM way))
RETURNING e.seq
"""
# the version fails a summary that is being written from the messages of the way as it was
RESUMMARISE = """
UPDATE conversations SET version = version + 1, summary = CASE WHEN summary_seq >= $3 THEN '' ELSE summary END,
    summary_seq = CASE WHEN summary_seq >= $3 THEN 0 ELSE summary_seq END
WHERE user_id = $1 AND id = $2
"""


async def keep_to_way(
    connection: Connection, user_id: UUID, conversation_id: UUID, *, fork: UUID | None = None, after: int = 0
) -> None:
    """Put aside what isn't on the way to the conversation's head, and take back what is, of the messages behind `fork`
    or else behind the number `after`. A summary that was made of such messages is dropped, and written anew in time.

    Ask in the transaction that moves the head, or behind a lock on the conversation: whoever else does waits for it.
    """
    moved = await connection.fetch(KEEP, user_id, conversation_id, fork, after)
    if moved:
        await connection.execute(RESUMMARISE, user_id, conversation_id, min(row["seq"] for row in moved))
