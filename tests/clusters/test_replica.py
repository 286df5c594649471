"""Reads from a real streaming standby: never the past, and the primary when it is late, hung, gone or another's."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from uuid import UUID, uuid4

import asyncpg
import psutil
import pytest

from memory.metrics import READS
from memory.postgres import Connection, PoolConfig
from memory.replicas import ReplicatedDatabase
from memory.transcript import Owner, create_conversation, list_conversations
from memory.vault import MasterKey, Vault
from service.dev.postgres import EmbeddedPostgres
from tests.clusters.postgreses import PgBouncer, Standby


def reads(by: str) -> float:
    return float(READS.labels(by)._value.get())


async def opened(primary: str, *replicas: str) -> ReplicatedDatabase:
    config = PoolConfig(primary, 10, 10, acquire_timeout=10)
    database = ReplicatedDatabase(
        config,
        [PoolConfig(dsn, 10, 10, acquire_timeout=1.0, command_timeout=5.0) for dsn in replicas],
        Vault(MasterKey(b"m" * 32)),
    )
    await database.open()
    return database


async def usable(database: ReplicatedDatabase, wanted: bool = True, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while any(replica.usable is not wanted for replica in database.replicas):
        assert time.monotonic() < deadline, f"the replica did not become {'usable' if wanted else 'unusable'}"
        await asyncio.sleep(0.02)


@pytest.fixture
async def database(primary: EmbeddedPostgres, standby: Standby) -> AsyncIterator[ReplicatedDatabase]:
    made = await opened(primary.dsn, standby.dsn)
    await usable(made)
    yield made
    await made.close()


async def converse(database: ReplicatedDatabase, user: UUID) -> UUID:
    conversation = uuid4()
    async with database.as_user(user) as connection:
        owner = Owner(user, "test", str(user))
        await create_conversation(connection, owner, conversation, route="general", title="A secret")
    return conversation


def listed(user: UUID) -> Callable[[Connection], "asyncio.Future[list[UUID]]"]:
    async def look(connection: Connection) -> list[UUID]:
        return [found.id for found in await list_conversations(connection, user, 100, None)]

    return look  # type: ignore[return-value]


async def execute(server: EmbeddedPostgres, statement: str) -> None:
    connection = await asyncpg.connect(server.url("rapport", superuser=True))
    await connection.execute(statement)
    await connection.close()


async def test_reads_go_to_the_replica_and_are_opened_there(database: ReplicatedDatabase) -> None:
    user = uuid4()
    conversation = await converse(database, user)
    before = reads("replica")

    async def title(connection: Connection) -> tuple[str, bool]:
        (found,) = await list_conversations(connection, user, 2, None)
        return found.title or "", bool(await connection.fetchval("SELECT pg_is_in_recovery()"))

    # the user's key is as new as the conversation: a replica that hasn't got it yet leaves the read to the primary
    while not (found := await database.read(user, title))[1]:
        assert found == ("A secret", False)
    assert found == ("A secret", True)
    assert await database.read(uuid4(), listed(uuid4())) == []
    assert await database.read(user, listed(user)) == [conversation]
    assert reads("replica") >= before + 2


async def test_a_user_without_a_key_is_given_one_by_the_primary(database: ReplicatedDatabase) -> None:
    user = uuid4()
    assert await database.read(user, listed(user)) == []
    assert all(replica.usable for replica in database.replicas), "its refusal to write is no illness"


async def test_what_was_committed_before_a_read_began_is_seen(
    database: ReplicatedDatabase, primary: EmbeddedPostgres, standby: Standby
) -> None:
    """Writers here and elsewhere, many readers, and a replica that stops replaying every now and then."""
    elsewhere = await opened(primary.dsn, standby.dsn)
    await usable(elsewhere)
    chance, stale, looked = random.Random(7), 0, 0
    before = reads("replica"), reads("primary")
    stopping = False

    async def live() -> None:
        nonlocal stale, looked
        user = uuid4()
        while not stopping:
            latest = await converse(chance.choice([database, elsewhere]), user)
            found = await chance.choice([database, elsewhere]).read(user, listed(user))
            looked += 1
            stale += latest not in found

    async def hold_up() -> None:
        for _ in range(3):
            await asyncio.sleep(0.7)
            await execute(standby, "SELECT pg_wal_replay_pause()")
            await asyncio.sleep(0.4)
            await execute(standby, "SELECT pg_wal_replay_resume()")

    users = [asyncio.create_task(live()) for _ in range(8)]
    await hold_up()
    await asyncio.sleep(0.7)
    stopping = True
    await asyncio.gather(*users)
    by_replica, by_primary = reads("replica") - before[0], reads("primary") - before[1]
    await elsewhere.close()
    print(
        f"\n{looked} reads right after a write, {by_replica:.0f} by the replica, {by_primary:.0f} by the primary: {stale} stale"
    )
    assert stale == 0
    assert by_replica > 0
    assert by_primary > 0, "the replica was never late: nothing was tried"


async def test_without_the_look_at_the_log_reads_would_be_stale(
    database: ReplicatedDatabase, standby: Standby, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above can fail: with the look switched off a late replica's reads are of the past."""
    monkeypatch.setattr("memory.replicas.REPLAYED", "SELECT $1::text IS NOT NULL")
    user = uuid4()
    await converse(database, user)
    while not await database.read(user, listed(user)):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await execute(standby, "SELECT pg_wal_replay_pause()")
    try:
        conversation = await converse(database, user)
        assert conversation not in await database.read(user, listed(user))
    finally:
        await execute(standby, "SELECT pg_wal_replay_resume()")


async def test_a_dead_replica_costs_no_read(database: ReplicatedDatabase, standby: Standby) -> None:
    user = uuid4()
    conversation = await converse(database, user)
    reading = True

    async def keep_reading() -> float:
        slowest = 0.0
        while reading:
            began = time.monotonic()
            assert await database.read(user, listed(user)) == [conversation]
            slowest = max(slowest, time.monotonic() - began)
        return slowest

    readers = [asyncio.create_task(keep_reading()) for _ in range(4)]
    await asyncio.sleep(0.3)
    standby.kill()
    await asyncio.sleep(1.0)
    assert not any(replica.usable for replica in database.replicas)
    standby.restart()
    await usable(database)
    reading = False
    slowest = max(await asyncio.gather(*readers))
    print(f"\nthe slowest read while the replica was killed and came back: {slowest:.2f} s")
    assert await database.read(user, listed(user)) == [conversation]


async def test_a_hung_replica_is_waited_for_once(database: ReplicatedDatabase, standby: Standby) -> None:
    user = uuid4()
    conversation = await converse(database, user)
    assert standby.process is not None
    root = psutil.Process(standby.process.pid)
    family = [root, *root.children(recursive=True)]
    for process in family:
        process.suspend()
    try:
        seconds = []
        for _ in range(5):
            began = time.monotonic()
            assert await database.read(user, listed(user)) == [conversation]
            seconds.append(time.monotonic() - began)
    finally:
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
    print(f"\nreads beside a hung replica: {', '.join(f'{each:.2f}' for each in seconds)} s")
    assert max(seconds) < 5
    assert sum(each > 0.9 for each in seconds) <= 1
    await usable(database)


async def test_another_database_s_replica_is_never_read(primary: EmbeddedPostgres, worker_database_url: str) -> None:
    """A database of the same schema that isn't this one's copy, and this one itself, which isn't a replica."""
    for wrong in (worker_database_url, primary.dsn):
        database = await opened(primary.dsn, wrong)
        await asyncio.sleep(0.5)
        assert not any(replica.usable for replica in database.replicas)
        user = uuid4()
        conversation = await converse(database, user)
        assert await database.read(user, listed(user)) == [conversation]
        await database.close()


async def test_replicas_behind_pgbouncer(primary: EmbeddedPostgres, standby: Standby, bouncer: PgBouncer) -> None:
    database = await opened(bouncer.dsn, standby.dsn)
    await usable(database)
    assert database.pooled
    user, before = uuid4(), reads("replica")
    conversation = await converse(database, user)
    assert await database.read(user, listed(user)) == [conversation]
    assert reads("replica") == before + 1
    await database.close()
