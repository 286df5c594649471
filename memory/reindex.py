"""Episodes of messages as they stand now: after words were taken out of them."""

from collections.abc import Sequence
from uuid import UUID

from memory.branching import keep_to_way
from memory.indexing import EpisodeRow, dense, embedding_text, index_messages
from memory.ports import Embedder
from memory.postgres import Connection, Database

ROWS = """
SELECT m.conversation_id, m.seq, m.id, m.role, m.speaker, m.content, m.created_at, c.route, c.time_zone
FROM messages m JOIN conversations c ON c.user_id = m.user_id AND c.id = m.conversation_id AND c.deleted_at IS NULL
WHERE m.user_id = $1 AND m.id = ANY ($2::uuid[]) ORDER BY m.conversation_id, m.seq
"""


async def make_recallable(connection: Connection, user_id: UUID, message_ids: Sequence[UUID]) -> int:
    """Index the messages by their words; `add_vectors` then adds their meaning, outside of this transaction.

    Ask behind a lock on their conversations: those beside the way are put aside again.
    """
    done = 0
    first: dict[UUID, int] = {}
    for row in await connection.fetch(ROWS, user_id, list(message_ids)):
        done += await index_messages(connection, user_id, [EpisodeRow(*tuple(row)[:8])], time_zone=row["time_zone"])
        first.setdefault(row["conversation_id"], row["seq"])
    for conversation_id, seq in first.items():
        await keep_to_way(connection, user_id, conversation_id, after=seq - 1)
    return done


async def add_vectors(database: Database, embedder: Embedder, user_id: UUID, message_ids: Sequence[UUID]) -> None:
    """Embed the messages that have no vector yet."""
    if not message_ids:
        return
    async with database.as_user(user_id) as connection:
        rows = await connection.fetch(ROWS, user_id, list(message_ids))
    vectors = await embedder.embed([embedding_text(row["speaker"], row["role"], row["content"]) for row in rows])
    async with database.as_user(user_id) as connection:
        await connection.execute("SELECT FROM users WHERE user_id = $1 FOR SHARE", user_id)
        now = {row["id"]: row["content"] for row in await connection.fetch(ROWS, user_id, list(message_ids))}
        for row, vector in zip(rows, vectors, strict=True):
            if now.get(row["id"]) == row["content"]:  # else this vector is of words that were forgotten meanwhile
                await connection.execute(
                    """UPDATE episodes SET embedding = coalesce(embedding, vector_for($3, 1)),
                        embedding_b = coalesce(embedding_b, vector_for($3, 2))
                    WHERE user_id = $1 AND message_id = $2""",
                    user_id,
                    row["id"],
                    dense(vector),
                )
