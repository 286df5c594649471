"""PostgreSQL behind PgBouncer in transaction mode: every transaction may be another server connection's."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from uuid import uuid4

import asyncpg
import pytest

from memory.errors import StoreUnavailableError
from memory.postgres import SESSION, SINCE_17, Database, PoolConfig
from memory.vault import MasterKey, Vault
from service import migrate
from service.dev.postgres import EmbeddedPostgres
from service.startup import StartError, refuse_second_local_instance
from tests.clusters.postgreses import PgBouncer, needed

READ_SESSION = "SELECT " + ", ".join(f"current_setting('{name}', true)" for name in (*SESSION, *SINCE_17))


@pytest.fixture
async def database(bouncer: PgBouncer) -> AsyncIterator[Database]:
    opened = Database(PoolConfig(bouncer.dsn, 10, 10, acquire_timeout=60), Vault(MasterKey(b"m" * 32)))
    yield opened
    await opened.close()


async def test_a_pooler_is_recognised(database: Database, primary: EmbeddedPostgres) -> None:
    await database.open()
    assert database.pooled
    straight = Database(PoolConfig(primary.dsn, 1, 1))
    await straight.open()
    assert not straight.pooled
    await straight.close()


async def test_statements_find_what_they_rely_on(database: Database, primary: EmbeddedPostgres) -> None:
    straight = Database(PoolConfig(primary.dsn, 1, 1))
    found = []
    for one in (straight, database):
        async with one.as_user(uuid4()) as connection:
            found.append(tuple((await connection.fetch(READ_SESSION))[0]))
    assert found[0] == found[1] == (*SESSION.values(), *SINCE_17.values())
    await straight.close()


async def test_users_don_t_mix_over_few_server_connections(database: Database, bouncer: PgBouncer) -> None:
    """60 tasks on 20 connections share 8 of the server's; each sees its own rows and its own key."""

    async def live(number: int) -> None:
        user = uuid4()
        for round_ in range(3):
            async with database.as_user(user) as connection:
                seen = await connection.fetchval("SELECT current_setting('rapport.user_id')")
                pid = await connection.fetchval("SELECT pg_backend_pid()")
                await connection.fetchval(f"SELECT pg_sleep(0.001), {number}, {round_}")
                assert seen == str(user)
                assert pid == await connection.fetchval("SELECT pg_backend_pid()")
                assert await connection.fetchval("SELECT count(*) FROM user_keys") == 1

    await asyncio.gather(*(live(number) for number in range(60)))


async def test_a_restart_is_the_store_being_away_and_no_more(database: Database, bouncer: PgBouncer) -> None:
    async with database.as_user(uuid4()) as connection:
        await connection.fetchval("SELECT 1")
    bouncer.kill()
    with pytest.raises(StoreUnavailableError):
        async with database.as_user(uuid4()) as connection:
            await connection.fetchval("SELECT 1")
    bouncer.start()
    async with database.as_user(uuid4()) as connection:
        assert await connection.fetchval("SELECT 1") == 1


async def test_the_one_place_without_redis_is_held_through_a_pooler(bouncer: PgBouncer) -> None:
    free = await refuse_second_local_instance(bouncer.dsn)
    for _ in range(3):
        with pytest.raises(StartError):
            await refuse_second_local_instance(bouncer.dsn)
    await free()
    await asyncio.sleep(0.2)
    again = await refuse_second_local_instance(bouncer.dsn)
    await again()


def test_migrations_pass_it(bouncer: PgBouncer, primary: EmbeddedPostgres) -> None:
    async def made() -> None:
        admin = await asyncpg.connect(primary.url("postgres", superuser=True))
        await admin.execute("CREATE DATABASE behind OWNER rapport TEMPLATE template1")
        await admin.close()

    dsn = bouncer.dsn.rpartition("/")[0] + "/behind"
    with ThreadPoolExecutor(1) as apart:
        apart.submit(asyncio.run, made()).result()
        apart.submit(migrate.upgrade, dsn).result()
        apart.submit(migrate.upgrade, dsn).result()

    async def revision() -> str:
        connection = await asyncpg.connect(primary.url("behind", superuser=True))
        found = await connection.fetchval("SELECT version_num FROM alembic_version")
        await connection.close()
        return str(found)

    with ThreadPoolExecutor(1) as apart:
        assert apart.submit(asyncio.run, revision()).result() == migrate.head()


async def test_prepared_statements_get_lost_before_1_21(bouncer: PgBouncer) -> None:
    """The very thing that `auto` is there for: Debian 12's PgBouncer can't keep them."""
    told = subprocess.run([str(needed()), "--version"], capture_output=True, text=True, check=True).stdout  # noqa: ASYNC221
    if tuple(int(part) for part in told.split()[1].split(".")[:2]) >= (1, 21):
        pytest.skip(f"{told.splitlines()[0]} keeps prepared statements")
    wished = Database(replace(PoolConfig(bouncer.dsn, 10, 10, acquire_timeout=10), prepared=True))

    async def ask() -> None:
        async with wished.as_user(uuid4()) as connection:
            await connection.fetchval("SELECT $1::int", 1)

    answers = await asyncio.gather(*(ask() for _ in range(100)), return_exceptions=True)
    await wished.close()
    lost = [answer for answer in answers if isinstance(answer, BaseException)]
    print(f"\nprepared statements through PgBouncer: {len(lost)} of {len(answers)} transactions failed")
    assert lost
