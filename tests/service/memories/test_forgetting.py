"""An erasure that a turn stands in the way of comes again by itself."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from memory.erasure import Erasure
from memory.errors import StoreUnavailableError
from memory.postgres import Database
from service.memories.forgetting import ATTEMPTS, Forgetter
from sessions.logs import LocalReplyLog
from sessions.store import LocalLiveState
from tests.memory.learning_kit import HashEmbedder, Talk, opened


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with opened(database_url) as database:
        yield database


@pytest.mark.parametrize("times", [1, ATTEMPTS - 1])
async def test_a_deadlock_is_tried_again(database: Database, times: int) -> None:
    talk = await Talk(database, "whoever deadlocks").open()
    forgetter = Forgetter(database, HashEmbedder(), LocalLiveState(), LocalReplyLog(), 0.1)
    tried = 0

    async def work(connection: Any) -> Erasure:
        nonlocal tried
        tried += 1
        await connection.fetchval("SELECT 1")
        if tried <= times:
            raise asyncpg.DeadlockDetectedError("deadlock detected")
        return Erasure("account")

    done = await forgetter._in_postgres(talk.owner.user_id, work)
    assert (done.scope, tried) == ("account", times + 1)


async def test_a_database_that_is_away_is_told_at_once(database: Database) -> None:
    talk = await Talk(database, "whoever waits").open()
    forgetter = Forgetter(database, HashEmbedder(), LocalLiveState(), LocalReplyLog(), 0.1)
    tried = 0

    async def work(_connection: Any) -> Erasure:
        nonlocal tried
        tried += 1
        raise asyncpg.CannotConnectNowError("the database system is starting up")

    with pytest.raises(StoreUnavailableError):
        await forgetter._in_postgres(talk.owner.user_id, work)
    assert tried == 1
