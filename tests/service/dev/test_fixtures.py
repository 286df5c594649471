"""The servers that the other tests stand on."""

import asyncio
import socket

import asyncpg
import pytest
import redis

from tests.fixtures.loopback import OutsideWorldError
from tests.fixtures.servers import Servers


@pytest.mark.parametrize("turn", [1, 2])
async def test_each_test_gets_an_empty_migrated_database(database_url: str, superuser_url: str, turn: int) -> None:
    service = await asyncpg.connect(database_url)
    admin = await asyncpg.connect(superuser_url)
    try:
        assert (
            await service.fetchval("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user")
            is False
        )
        assert await admin.fetchval("SELECT count(*) FROM alembic_version") == 1
        await admin.execute("CREATE TABLE IF NOT EXISTS fixture_probe (id bigserial)")
        assert await admin.fetchval("INSERT INTO fixture_probe DEFAULT VALUES RETURNING id") == 1
    finally:
        await service.close()
        await admin.close()


async def test_a_forgotten_lock_does_not_stop_the_next_test(
    servers: Servers, superuser_url: str, _database_admin: object
) -> None:
    holder = await asyncpg.connect(superuser_url)
    await holder.execute("CREATE TABLE IF NOT EXISTS fixture_probe (id bigserial)")
    await holder.execute("BEGIN; INSERT INTO fixture_probe DEFAULT VALUES; LOCK TABLE fixture_probe")
    from tests.fixtures.databases import Administrator

    assert isinstance(_database_admin, Administrator)
    await asyncio.to_thread(_database_admin.empty, superuser_url.rpartition("/")[2])
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionError)):
        await holder.execute("SELECT 1")


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_gets_an_empty_redis(redis_url: str, broker_url: str, turn: int) -> None:
    for url in (redis_url, broker_url):
        with redis.Redis.from_url(url, decode_responses=True) as client:
            assert client.dbsize() == 0
            client.set("left", url)
            assert client.get("left") == url


def test_nothing_leaves_this_machine() -> None:
    with socket.socket() as outside, pytest.raises(OutsideWorldError):
        outside.connect(("192.0.2.1", 80))
    with pytest.raises(OutsideWorldError):
        socket.getaddrinfo("example.org", 80)
