"""What was written while no model made vectors gets them later; until then it is found by its words."""

from itertools import groupby
from operator import itemgetter
from uuid import UUID

from memory.indexing import dense
from memory.ports import Embedder
from memory.postgres import Database
from memory.reindex import add_vectors

BATCH = 64

SLOT = "SELECT slot FROM embedding_models WHERE name = $1"
COLUMNS = {1: "embedding", 2: "embedding_b"}
# not always the same ones: one that can't be filled must not stand in the others' way
EPISODES = """
SELECT user_id, message_id AS id FROM (SELECT user_id, message_id FROM episodes WHERE {column} IS NULL LIMIT 5000) waiting
ORDER BY random() LIMIT $1
"""
LEFT = "SELECT count(*) FROM episodes WHERE user_id = $1 AND message_id = ANY ($2::uuid[]) AND {column} IS NULL"
FACTS = "SELECT user_id, id FROM facts WHERE {column} IS NULL AND status IN ('active', 'uncertain') LIMIT $1"
READ = "SELECT text FROM facts WHERE user_id = $1 AND id = $2 AND {column} IS NULL"
WRITE = """
UPDATE facts SET embedding = coalesce(embedding, vector_for($3, 1)), embedding_b = coalesce(embedding_b, vector_for($3, 2))
WHERE user_id = $1 AND id = $2
"""


async def fill_missing(database: Database, embedder: Embedder, *, batch: int = BATCH) -> int:
    """Embed some of what waits for this embedder's model; gives how much was. Several processes may do it at once.

    Raises `EmbedderUnavailableError` while there is still no model.
    """
    async with database.system() as connection:
        slot = await connection.fetchval(SLOT, embedder.name)
        if slot is None:
            return 0  # nothing here is of that model
        column = COLUMNS[slot]
        episodes = await connection.fetch(EPISODES.format(column=column), batch)
        facts = await connection.fetch(FACTS.format(column=column), batch)
    done = 0
    by_user = itemgetter("user_id")
    for user_id, rows in groupby(sorted(episodes, key=by_user), key=by_user):
        done += await _fill_episodes(database, embedder, user_id, [row["id"] for row in rows], column)
    for row in facts:
        done += await _fill_fact(database, embedder, row["user_id"], row["id"], column)
    return done


async def _fill_episodes(database: Database, embedder: Embedder, user_id: UUID, ids: list[UUID], column: str) -> int:
    await add_vectors(database, embedder, user_id, ids)
    async with database.as_user(user_id) as connection:
        return len(ids) - int(await connection.fetchval(LEFT.format(column=column), user_id, ids))


async def _fill_fact(database: Database, embedder: Embedder, user_id: UUID, fact_id: UUID, column: str) -> bool:
    async with database.as_user(user_id) as connection:
        text = await connection.fetchval(READ.format(column=column), user_id, fact_id)
    if text is None:
        return False
    (vector,) = await embedder.embed([text])
    async with database.as_user(user_id) as connection:
        await connection.execute(WRITE, user_id, fact_id, dense(vector))
        return await connection.fetchval(READ.format(column=column), user_id, fact_id) is None
