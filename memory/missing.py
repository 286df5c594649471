"""What was written while no model made vectors gets them later; until then it is found by its words."""

from itertools import groupby
from operator import itemgetter
from uuid import UUID

from memory.indexing import dense
from memory.ports import Embedder
from memory.postgres import Database
from memory.reindex import add_vectors

BATCH = 64

# not always the same ones: one that can't be filled must not stand in the others' way
EPISODES = """
SELECT user_id, message_id AS id FROM (SELECT user_id, message_id FROM episodes WHERE embedding IS NULL LIMIT 5000) waiting
ORDER BY random() LIMIT $1
"""
LEFT = "SELECT count(*) FROM episodes WHERE user_id = $1 AND message_id = ANY ($2::uuid[]) AND embedding IS NULL"
FACTS = """
SELECT user_id, id FROM facts WHERE embedding IS NULL AND status IN ('active', 'uncertain') LIMIT $1
"""
READ = "SELECT text FROM facts WHERE user_id = $1 AND id = $2 AND embedding IS NULL"
WRITE = "UPDATE facts SET embedding = $3::text::halfvec WHERE user_id = $1 AND id = $2 AND embedding IS NULL"


async def fill_missing(database: Database, embedder: Embedder, *, batch: int = BATCH) -> int:
    """Embed some of what waits; gives how much was. Several processes may do it at once: the first one's counts.

    Raises `EmbedderUnavailableError` while there is still no model.
    """
    async with database.system() as connection:
        episodes = await connection.fetch(EPISODES, batch)
        facts = await connection.fetch(FACTS, batch)
    done = 0
    by_user = itemgetter("user_id")
    for user_id, rows in groupby(sorted(episodes, key=by_user), key=by_user):
        done += await _fill_episodes(database, embedder, user_id, [row["id"] for row in rows])
    for row in facts:
        done += await _fill_fact(database, embedder, row["user_id"], row["id"])
    return done


async def _fill_episodes(database: Database, embedder: Embedder, user_id: UUID, ids: list[UUID]) -> int:
    await add_vectors(database, embedder, user_id, ids)
    async with database.as_user(user_id) as connection:
        return len(ids) - int(await connection.fetchval(LEFT, user_id, ids))


async def _fill_fact(database: Database, embedder: Embedder, user_id: UUID, fact_id: UUID) -> bool:
    async with database.as_user(user_id) as connection:
        text = await connection.fetchval(READ, user_id, fact_id)
    if text is None:
        return False
    (vector,) = await embedder.embed([text])
    async with database.as_user(user_id) as connection:
        return await connection.execute(WRITE, user_id, fact_id, dense(vector)) == "UPDATE 1"
