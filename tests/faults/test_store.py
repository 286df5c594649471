"""A connection to PostgreSQL that dies at an awkward moment is the store being away, never a bug."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from memory.errors import StoreUnavailableError
from memory.postgres import Database, PoolConfig
from tests.faults.proxy import Hop

LAST_WORDS = b"SFATAL\0VFATAL\0C57P02\0Mterminating connection because of crash of another server process\0\0"
FATAL = b"E" + (len(LAST_WORDS) + 4).to_bytes(4) + LAST_WORDS


@pytest.fixture
async def hop(database_url: str) -> AsyncIterator[Hop]:
    hop = await Hop(int(database_url.rpartition(":")[2].partition("/")[0])).open()
    yield hop
    await hop.close()


@pytest.fixture
async def store(hop: Hop, database_url: str) -> AsyncIterator[Database]:
    address, name = database_url.rpartition(":")[0], database_url.rpartition("/")[2]
    store = Database(PoolConfig(f"{address}:{hop.port}/{name}", 1, 0, acquire_timeout=1.0, command_timeout=1.0))
    yield store
    await store.close()


async def test_last_words_of_a_server_are_the_store_being_away(hop: Hop, store: Database) -> None:
    async with store.as_user(uuid4()) as connection:
        assert await connection.fetchval("SELECT 1") == 1
    hop.say(FATAL)
    await asyncio.sleep(0.1)
    with pytest.raises(StoreUnavailableError):
        async with store.as_user(uuid4()):
            pass
    hop.cut()
    await asyncio.sleep(0.1)
    async with store.as_user(uuid4()) as connection:
        assert await connection.fetchval("SELECT 2") == 2
