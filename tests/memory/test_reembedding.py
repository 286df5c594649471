"""Another embedding model, online: nothing lost or done twice, search all the while, and a way back."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from uuid import UUID, uuid4

import numpy as np
import pytest
from uuid_utils.compat import uuid7

from memory import reembedding
from memory.indexing import EpisodeRow, index_messages
from memory.many import index_many
from memory.models import named, read_models
from memory.ports import Vectors
from memory.postgres import Database, PoolConfig
from memory.reembedding import ReembeddingError
from memory.retrieval import RecallQuery, recall
from memory.word_embedder import WordEmbedder

OLD = "all-minilm-l6-v2-int8"
LINES = [
    *[f"Remark {number} about harbours and boats" for number in range(30)],
    "My dog is called Biscuit.",
    "We painted the kitchen yellow.",
    "The lighthouse keeper lent me a telescope.",
]


class OldEmbedder:
    """Vectors of the model that is current at first, without its weights: each text has its own direction."""

    name = OLD
    dimensions = 384

    async def embed(self, texts: Sequence[str], *, question: bool = False) -> Vectors:
        rows = [np.random.default_rng(sum(text.encode()) + len(text)).normal(size=384) for text in texts]
        return named(np.array([row / np.linalg.norm(row) for row in rows], np.float32), self.name)

    async def aclose(self) -> None:
        """Nothing is open."""


class Dying(WordEmbedder):
    """Stops working after some batches."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    async def embed(self, texts: Sequence[str], *, question: bool = False) -> Vectors:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("killed")
        return await super().embed(texts)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(PoolConfig(database_url, size=2, overflow=2))
    yield opened
    async with opened.system() as connection:
        await connection.execute("DELETE FROM embedding_models")
        await connection.execute(
            "INSERT INTO embedding_models (name, dimensions, slot, state) VALUES ($1, 384, 1, 'current')", OLD
        )
    await opened.close()


async def told(database: Database, lines: Sequence[str], *, user: UUID | None = None, first: int = 1) -> UUID:
    user = user or uuid4()
    vectors = await OldEmbedder().embed([f"user: {line}" for line in lines])
    rows = [
        EpisodeRow(
            # by time, so that the first batch has each of the lines
            user,
            first + n,
            uuid7(),
            "user",
            None,
            line,
            datetime(2024, 1, 1, tzinfo=UTC),
            "general",
            vectors[n],
        )
        for n, line in enumerate(lines)
    ]
    async with database.as_user(user) as connection:
        await connection.execute(
            "INSERT INTO users (user_id, issuer, subject) VALUES ($1, 'test', $2) ON CONFLICT DO NOTHING",
            user,
            str(user),
        )
        await index_messages(connection, user, rows)
    return user


async def asked(database: Database, user: UUID, text: str, vector: Vectors) -> list[int]:
    query = RecallQuery(user, text, vector, ("general",), 500, 5, datetime(2024, 6, 1, tzinfo=UTC))
    async with database.as_user(user) as connection:
        return [item.seq for item in await recall(connection, query) if "dense" in item.why]


async def counts(database: Database) -> tuple[int, int]:
    async with database.system() as connection:
        row = await connection.fetchrow("SELECT count(embedding), count(embedding_b) FROM episodes")
    assert row is not None
    return row[0], row[1]


async def test_it_goes_on_where_it_died_and_both_models_find_all_the_while(database: Database) -> None:
    user = await told(database, LINES * 6)
    total = 6 * len(LINES)
    words, old = WordEmbedder(), OldEmbedder()
    model = await reembedding.begin(database, words.name, words.dimensions, "built-in-words")
    with pytest.raises(RuntimeError):
        await reembedding.fill(database, Dying(1), model)
    assert await counts(database) == (total, 64)
    assert await reembedding.left(database, model) == total - 64

    (mine,) = await old.embed(["user: My dog is called Biscuit."])
    (theirs,) = await words.embed(["dog"])
    assert {seq % len(LINES) for seq in (await asked(database, user, "zzz", mine))[:1]} == {31}
    assert await asked(database, user, "zzz", theirs)  # what has a vector of the new model already is found by it

    again = await reembedding.begin(database, words.name, words.dimensions, "built-in-words")
    assert again == model
    assert await reembedding.fill(database, words, again) == total - 64
    assert await reembedding.fill(database, words, again) == 0
    late = await told(database, ["A meteorite fell into the pond."], user=user, first=500)
    assert await reembedding.left(database, model) == 1
    assert await reembedding.fill(database, words, again) == 1
    assert await counts(database) == (total + 1, total + 1)
    assert late == user


async def test_the_switch_is_one_step_and_so_is_the_way_back(database: Database) -> None:
    user = await told(database, LINES)
    words = WordEmbedder()
    model = await reembedding.begin(database, words.name, words.dimensions, "built-in-words")
    with pytest.raises(ReembeddingError, match="No vectors of other are ready"):
        await reembedding.switch(database, "other")
    await reembedding.fill(database, words, model)
    await reembedding.switch(database, words.name)
    async with database.system() as connection:
        models = await read_models(connection)
    assert {state: found.name for state, found in models.items()} == {"current": words.name, "previous": OLD}

    # a process that has not noticed reads and writes the old place
    (stale,) = await OldEmbedder().embed(["user: We painted the kitchen yellow."])
    assert 32 in await asked(database, user, "zzz", stale)
    await told(database, ["Said in between."], user=user, first=100)
    assert await reembedding.left(database, models["current"]) == 1

    back = await reembedding.switch_back(database)
    assert (back.name, back.state) == (OLD, "current")
    assert await reembedding.fill(database, OldEmbedder(), back) == 0
    assert (await reembedding.begin(database, words.name, words.dimensions, "built-in-words")).state == "filling"
    assert await reembedding.drop(database) == words.name
    assert await counts(database) == (len(LINES) + 1, 0)
    with pytest.raises(ReembeddingError, match="Only the current model"):
        await reembedding.drop(database)


async def test_what_cannot_work_is_refused_with_a_reason(database: Database) -> None:
    with pytest.raises(ReembeddingError, match="already"):
        await reembedding.begin(database, OLD, 384, "built-in")
    with pytest.raises(ReembeddingError, match="4001 numbers"):
        await reembedding.begin(database, "vast", 4001, "x")
    with pytest.raises(ReembeddingError, match="no previous model"):
        await reembedding.switch_back(database)
    await reembedding.begin(database, "next", 512, "x")
    with pytest.raises(ReembeddingError, match="another model under the same name"):
        await reembedding.begin(database, "next", 768, "x")
    with pytest.raises(ReembeddingError, match="room for two"):
        await reembedding.begin(database, "third", 512, "x")


async def test_vectors_of_unknown_models_are_not_mixed_in(database: Database) -> None:
    stray = named(np.eye(1, 77, dtype=np.float32), "stray")[0]
    user = uuid4()
    row = EpisodeRow(uuid4(), 1, uuid4(), "user", None, "Nothing", datetime(2024, 1, 1, tzinfo=UTC), "general", stray)
    async with database.as_user(user) as connection:
        await index_messages(connection, user, [row])
    assert await counts(database) == (0, 0)
    assert await asked(database, user, "nothing", stray) == []


async def test_users_with_many_memories_get_cells_of_the_new_model(database: Database) -> None:
    user = await told(database, LINES * 4)
    assert await index_many(database, read_all=100) == 1
    words = WordEmbedder()
    model = await reembedding.begin(database, words.name, words.dimensions, "built-in-words")
    await reembedding.fill(database, words, model)
    assert await reembedding.fill_cells(database, model) == 1
    assert await reembedding.fill_cells(database, model) == 0
    await reembedding.switch(database, words.name)
    (vector,) = await words.embed(["user: The lighthouse keeper lent me a telescope."])
    found = await asked(database, user, "zzz", vector)
    assert {seq % len(LINES) for seq in found[:1]} == {0}  # the last line, wherever it was repeated
    async with database.as_user(user) as connection:
        await connection.execute("DELETE FROM episodes WHERE user_id = $1", user)
        for table in ("postings", "memory_cells"):
            assert await connection.fetchval(f"SELECT count(*) FROM {table} WHERE user_id = $1", user) == 0
        assert not await connection.fetchval("SELECT many_memories FROM users WHERE user_id = $1", user)
