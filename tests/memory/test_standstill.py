"""A process that stands still, wherever in its transaction, holds its rows for a while and not for ever."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import pytest

from memory import erasure, postgres
from memory.errors import StoreUnavailableError
from memory.postgres import Connection, Database, PoolConfig, be_patient
from tests.memory.learning_kit import Talk, opened

ENDED_AFTER = 2.0
LOCK = "SELECT FROM users WHERE user_id = $1 FOR NO KEY UPDATE"


@pytest.fixture
async def awake(database_url: str) -> AsyncIterator[Database]:
    async with opened(database_url) as database:
        yield database


@pytest.fixture
async def still(awake: Database, database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    """Of a process that will stand still; PostgreSQL has less patience with it than is usual."""
    for name in ("idle_in_transaction_session_timeout", "lock_timeout"):
        monkeypatch.setitem(postgres.SESSION, name, f"{ENDED_AFTER}s")
    monkeypatch.setitem(postgres.SINCE_17, "transaction_timeout", f"{1.5 * ENDED_AFTER}s")
    database = Database(PoolConfig(database_url))
    await database.open()
    yield database
    await database.close()


async def between_statements(_connection: Connection) -> None:
    pass


async def between_preparing_and_executing(connection: Connection) -> None:
    await connection.prepare("SELECT 1 + $1::int")


@pytest.mark.parametrize("where", [between_statements, between_preparing_and_executing])
async def test_what_it_holds_is_given_to_others(
    awake: Database, still: Database, where: Callable[[Connection], Awaitable[None]]
) -> None:
    talk = await Talk(awake).open()

    async def stand_still() -> None:
        async with still.as_user(talk.user_id) as connection:
            await connection.execute(LOCK, talk.user_id)
            await where(connection)
            async with asyncio.timeout(60), awake.as_user(talk.user_id) as eraser:
                await erasure.erase_user(eraser, talk.user_id)
            await connection.execute("SELECT 1")

    with pytest.raises(StoreUnavailableError):
        await stand_still()


async def test_nobody_waits_for_ever_and_all_stop_waiting_together(awake: Database, still: Database) -> None:
    talk = await Talk(awake).open()

    async def wait() -> None:
        async with still.as_user(talk.user_id) as connection:
            await connection.execute(LOCK, talk.user_id)

    began = time.monotonic()
    async with awake.as_user(talk.user_id) as connection:
        await connection.execute(LOCK, talk.user_id)
        told = await asyncio.gather(*(wait() for _ in range(8)), return_exceptions=True)
    assert [isinstance(error, StoreUnavailableError) for error in told] == [True] * 8  # come again, says its answer
    assert time.monotonic() - began < 4 * ENDED_AFTER


async def test_work_that_takes_long_says_so(still: Database) -> None:
    async def work(seconds: float) -> None:
        async with still.system() as connection:
            if seconds:
                await be_patient(connection, seconds)
            await connection.execute("SELECT pg_sleep(3.5)")

    await work(60)
    with pytest.raises(StoreUnavailableError):
        await work(0)


async def test_a_server_without_a_limit_for_transactions_is_not_asked_for_one() -> None:
    class Old:
        def get_server_version(self) -> asyncpg.ServerVersion:
            return asyncpg.ServerVersion(16, 4, 0, "final", 0)

    assert "transaction_timeout" not in postgres._session(Old())  # type: ignore[arg-type]
