"""Users with very many memories: theirs go into the indexes that recall then asks, instead of reading them all.

Up to `READ_ALL` episodes reading all of a user's is exact and fast, and an index over everybody's would cost every
insert for nothing. Beyond it the rows are marked, a few at a time, and enter two partial indexes (HNSW by meaning, GIN
by words); when all are in, recall is told to use them (docs/decisions/recall-indexes.md).
"""

from uuid import UUID

from memory.postgres import Database

READ_ALL = 15_000
"""Episodes up to which reading all of them is fast enough: about 20 ms."""
BATCH = 200
"""Rows marked in one transaction; each costs the vector index a few milliseconds."""

WHO = """
SELECT c.user_id FROM term_counts c JOIN users u ON u.user_id = c.user_id
WHERE c.term = 0 AND c.episodes > $1 AND NOT u.many_memories
"""
MARK = """
UPDATE episodes SET many = true WHERE user_id = $1 AND message_id IN
    (SELECT message_id FROM episodes WHERE user_id = $1 AND NOT many LIMIT $2)
"""
# writers of the user's episodes update the count of them: holding it, nothing new slips by unmarked
HOLD = "SELECT FROM term_counts WHERE user_id = $1 AND term = 0 FOR UPDATE"
TELL = """
UPDATE users SET many_memories = true
WHERE user_id = $1 AND NOT EXISTS (SELECT FROM episodes WHERE user_id = $1 AND NOT many)
RETURNING 1
"""


async def index_many(database: Database, *, read_all: int = READ_ALL) -> int:
    """Bring users that have outgrown reading into the indexes; gives how many. For a worker, in quiet hours."""
    async with database.system() as connection:
        grown = [row["user_id"] for row in await connection.fetch(WHO, read_all)]
    return sum([await _index(database, user_id) for user_id in grown])


async def _index(database: Database, user_id: UUID) -> bool:
    while True:
        async with database.as_user(user_id) as connection:
            if await connection.execute(MARK, user_id, BATCH) != "UPDATE 0":
                continue
            await connection.fetch(HOLD, user_id)
            if await connection.fetchval(TELL, user_id):
                return True
