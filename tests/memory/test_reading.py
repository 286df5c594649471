"""What is read is answered before its transaction has ended; and it does end, whatever happens to it."""

from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from memory.errors import StoreUnavailableError, TransactionConflictError
from memory.postgres import Connection, Database, PoolConfig


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(PoolConfig(database_url, size=1, overflow=0))
    yield database
    await database.close()


async def one(connection: Connection) -> int:
    return int(await connection.fetchval("SELECT 1"))


async def test_an_answer_does_not_wait_for_its_transaction_which_ends_behind_it(database: Database) -> None:
    seen: list[Connection] = []

    async def work(connection: Connection) -> int:
        seen.append(connection)
        return await one(connection)

    assert await database.read(uuid4(), work) == 1
    assert seen[0].is_in_transaction()  # nothing was waited for since
    await database.ended()
    # the only connection there is serves whoever comes next, with nothing of the user before
    user = uuid4()
    async with database.as_user(user) as connection:
        assert await connection.fetchval("SELECT current_setting('rapport.user_id')") == str(user)
    assert [await database.read(user, one) for _ in range(5)] == [1] * 5


async def test_reading_that_fails_says_so_and_gives_its_connection_back(database: Database) -> None:
    async def fails(connection: Connection) -> int:
        raise asyncpg.DeadlockDetectedError("in the way")

    async def is_wrong(connection: Connection) -> int:
        return int(await connection.fetchval("SELECT 1 / 0"))

    with pytest.raises(TransactionConflictError):
        await database.read(uuid4(), fails)
    with pytest.raises(asyncpg.DivisionByZeroError):
        await database.read(uuid4(), is_wrong)
    assert await database.read(uuid4(), one) == 1


async def test_a_connection_that_is_lost_behind_an_answer_is_nobodys_trouble(
    database: Database, superuser_url: str
) -> None:
    async def own_number(connection: Connection) -> int:
        return int(await connection.fetchval("SELECT pg_backend_pid()"))

    number = await database.read(uuid4(), own_number)
    operator = await asyncpg.connect(superuser_url)
    try:
        await operator.execute("SELECT pg_terminate_backend($1)", number)
    finally:
        await operator.close()
    await database.ended()
    try:
        assert await database.read(uuid4(), one) == 1
    except StoreUnavailableError:  # the pool had not heard of it yet; it has now
        assert await database.read(uuid4(), one) == 1


async def test_closing_waits_for_what_is_being_ended(database_url: str) -> None:
    database = Database(PoolConfig(database_url, size=1, overflow=0))
    assert await database.read(uuid4(), one) == 1
    await database.close()
    await database.ended()
