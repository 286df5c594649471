"""The servers that the other tests stand on."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import psutil
import pytest
import redis

from tests.fixtures.loopback import OutsideWorldError
from tests.fixtures.servers import Servers

ROOT = Path(__file__).parents[3]


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
        if turn == 2:
            await admin.execute("DROP TABLE fixture_probe")
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
    admin = await asyncpg.connect(superuser_url)
    await admin.execute("DROP TABLE fixture_probe")
    await admin.close()


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


def test_the_servers_end_with_a_killed_run(tmp_path: Path) -> None:
    """The controller is killed, as by a cancelled CI job; its workers, the owner and both servers go, files and all."""
    probe = ROOT / "tests" / "service" / "dev" / "run_that_is_killed.py"
    told = tmp_path / "told.json"
    argv = [sys.executable, "-m", "pytest", "-q", "-n", "1", "-p", "no:cacheprovider", str(probe)]
    run = subprocess.Popen(
        argv, cwd=ROOT, env={**os.environ, "TELL": str(told)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 90
        while not told.exists():
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        run.kill()
        run.wait()
    facts = json.loads(told.read_text())
    processes = [psutil.Process(pid) for pid in facts["pids"] if psutil.pid_exists(pid)]
    deadline = time.monotonic() + 20
    while [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] or Path(
        facts["root"]
    ).exists():
        assert time.monotonic() < deadline, f"still there: {processes}, {facts['root']}"
        time.sleep(0.1)
