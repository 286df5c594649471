"""An erasure that a turn stands in the way of comes again by itself."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from memory.erasure import Erasure
from memory.errors import StoreUnavailableError
from service.memories.forgetting import ATTEMPTS, Forgetter
from sessions.logs import LocalReplyLog
from sessions.store import LocalLiveState
from tests.memory.learning_kit import HashEmbedder, opened

WHO = uuid7()


@pytest.fixture
async def forgetter(database_url: str) -> AsyncIterator[Forgetter]:
    async with opened(database_url) as database:
        yield Forgetter(database, HashEmbedder(), LocalLiveState(), LocalReplyLog(), 0.1)


@pytest.mark.parametrize("times", [1, ATTEMPTS - 1])
async def test_a_deadlock_is_tried_again(forgetter: Forgetter, times: int) -> None:
    tried = 0

    async def work(connection: Any) -> Erasure:
        nonlocal tried
        tried += 1
        await connection.fetchval("SELECT 1")
        if tried <= times:
            raise asyncpg.DeadlockDetectedError("deadlock detected")
        return Erasure("account")

    done = await forgetter._in_postgres(WHO, work)
    assert (done.scope, tried) == ("account", times + 1)


async def test_a_database_that_is_away_is_told_at_once(forgetter: Forgetter) -> None:
    tried = 0

    async def work(_connection: Any) -> Erasure:
        nonlocal tried
        tried += 1
        raise asyncpg.CannotConnectNowError("the database system is starting up")

    with pytest.raises(StoreUnavailableError):
        await forgetter._in_postgres(WHO, work)
    assert tried == 1
