"""A process takes the model that the database names, and keeps its own when it can't."""

from collections.abc import AsyncIterator

import pytest

from memory.embedders import MiniLmEmbedder
from memory.models import model_of
from memory.ports import Embedder
from memory.postgres import Database, PoolConfig
from memory.word_embedder import WordEmbedder
from service.embedding import open_embedder
from service.following import FollowingEmbedder, warm_up
from service.startup import StartError

OLD = MiniLmEmbedder.name


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(PoolConfig(database_url, size=2, overflow=2))
    yield opened
    await current(opened, OLD, 384, "")
    await opened.close()


async def current(database: Database, name: str, dimensions: int, source: str) -> None:
    async with database.system() as connection:
        await connection.execute("DELETE FROM embedding_models")
        await connection.execute(
            "INSERT INTO embedding_models (name, dimensions, slot, state, source) VALUES ($1, $2, 1, 'current', $3)",
            name,
            dimensions,
            source,
        )


def opener(name: str) -> Embedder:
    return open_embedder(name, ())


async def test_it_follows_the_database_and_comes_back(database: Database) -> None:
    own = MiniLmEmbedder()
    following = FollowingEmbedder(own, database, opener)
    await warm_up(following)
    assert (following.name, own.runs) == (OLD, 1)
    await current(database, WordEmbedder.name, 128, "built-in-words")
    await following.refresh()
    (vector,) = await following.embed(["My dog is called Biscuit."])
    assert (vector.shape, model_of(vector)) == ((128,), WordEmbedder.name)
    await current(database, OLD, 384, "")
    await following.refresh()
    assert model_of((await following.embed(["My dog"]))[0]) == OLD
    await following.aclose()
    await own.aclose()


async def test_a_model_that_it_cannot_open_leaves_it_with_its_own(database: Database) -> None:
    own = WordEmbedder()
    following = FollowingEmbedder(own, database, opener)
    await current(database, "far-away", 512, "nowhere/far-away")
    with pytest.raises(StartError, match="no backend 'nowhere'"):
        await following.refresh()
    await warm_up(following)  # says so, and starts all the same
    assert following.name == own.name
