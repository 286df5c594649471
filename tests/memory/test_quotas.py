"""Daily token quotas: exact when many turns come at once, and nothing is lost with a process."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from memory.postgres import Database, PoolConfig
from memory.quotas import QuotaExceededError, estimated, hold_quota


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(PoolConfig(database_url, size=10, overflow=10, acquire_timeout=30))
    yield database
    await database.close()


async def turn(database: Database, user_id: UUID, cap: int, estimate: int = 100, **columns: Any) -> bool:
    values = {"status": "running", "usage": None, "age": "0 days", "failure": None, **columns}
    try:
        async with database.as_user(user_id) as connection:
            await connection.execute(
                """INSERT INTO turns (user_id, id, conversation_id, user_message_id, status, route, lock_epoch, usage, created_at,
                    failure)
                VALUES ($1, $2, $2, $2, $3, 'general', 0, $4, now() - $5::text::interval, $6)""",
                user_id,
                uuid4(),
                values["status"],
                values["usage"],
                values["age"],
                values["failure"],
            )
            await hold_quota(connection, user_id, cap, estimate)
    except QuotaExceededError as refused:
        return not 0 < refused.seconds <= 86_400
    return True


async def test_of_fifty_at_once_exactly_the_right_number_pass(database: Database) -> None:
    user = uuid4()
    assert sum(await asyncio.gather(*(turn(database, user, 700) for _ in range(50)))) == 7
    async with database.as_user(user) as connection:
        assert await connection.fetchval("SELECT count(*) FROM turns WHERE user_id = $1", user) == 7


async def test_an_ended_turn_counts_as_what_it_used(database: Database) -> None:
    user = uuid4()
    used = {"prompt_tokens": 30, "completion_tokens": 10}
    assert await turn(database, user, 100, status="completed", usage=used)
    assert not await turn(database, user, 139)
    assert await turn(database, user, 140)


async def test_what_failed_costs_nothing_and_what_nobody_counted_its_estimate(database: Database) -> None:
    user = uuid4()
    for _ in range(5):
        assert await turn(database, user, 100, status="failed")
    assert await turn(database, user, 100, status="completed")
    assert not await turn(database, user, 199)
    assert await turn(database, user, 200)


async def test_a_reply_that_failed_after_it_was_shown_costs_what_was_shown(database: Database) -> None:
    user = uuid4()
    assert estimated(0) is None
    locked: dict[str, Any] = {"status": "failed", "failure": {"code": "route_locked"}}
    assert await turn(database, user, 1000, usage=estimated(400), **locked)  # 800 and 100
    assert not await turn(database, user, 999, estimate=100)
    assert await turn(database, user, 1000, estimate=100)


async def test_deleting_a_conversation_in_which_a_reply_is_written_saves_no_tokens(database: Database) -> None:
    user = uuid4()
    deleted: dict[str, Any] = {"status": "failed", "failure": {"code": "conversation_not_found"}}
    assert await turn(database, user, 100, **deleted)
    assert not await turn(database, user, 199)
    assert await turn(database, user, 200)


async def test_yesterday_and_other_people_do_not_count(database: Database) -> None:
    user = uuid4()
    assert await turn(database, user, 100, age="25 hours")
    assert await turn(database, uuid4(), 100)
    assert await turn(database, user, 100)
    assert not await turn(database, user, 100)
