"""An account is erased while its owner's chats go on and a worker sleeps over it; then nothing of it is anywhere."""

import asyncio
import contextlib
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import asyncpg
import httpx
import pytest
import redis

from memory import erasure
from memory.postgres import Database
from tests.fixtures.service import LiveService, Process
from tests.memory.learning_kit import Talk, opened

pytestmark = [pytest.mark.faults, pytest.mark.timeout(320)]

CHATS = 3
FACTS_WAIT = 60.0


class Chatter(threading.Thread):
    """Says the same thing again and again, in a conversation of its own, until it is refused."""

    def __init__(self, service: LiveService, user: str, line: str) -> None:
        super().__init__(name=f"chatter-{user}", daemon=True)
        self.line = line
        self.turns = 0
        self.refused: str | None = None
        self.going = True
        self.http = httpx.Client(base_url=service.url, headers=service.headers(user), timeout=30)

        Chatter.out.append(self)

    out: ClassVar[list["Chatter"]] = []

    @classmethod
    def everybody_home(cls) -> None:
        for chatter in cls.out:
            chatter.going = False
        while cls.out:
            cls.out.pop().join(20)

    def run(self) -> None:
        answer = self.http.post("/v1/conversations", json={"companion": {"name": "Mira"}})
        path = f"/v1/conversations/{answer.json()['id']}/turns"
        while self.going and self.refused is None:
            content = {"content": f"{self.line} That is number {self.turns}."}
            with contextlib.suppress(httpx.RemoteProtocolError), self.http.stream("POST", path, json=content) as reply:
                if reply.status_code != 200:
                    reply.read()
                    self.refused = reply.json()["code"]
                else:
                    reply.read()
                    self.turns += 1
        self.http.close()


def rows_with(superuser_url: str, text: str) -> dict[str, int]:
    """Rows of any table that contain the text, seen past row-level security."""

    async def look() -> dict[str, int]:
        connection = await asyncpg.connect(superuser_url)
        tables = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        )
        counts = {
            table["relname"]: await connection.fetchval(
                f'SELECT count(*) FROM "{table["relname"]}" AS t WHERE strpos(t::text, $1) > 0', text
            )
            for table in tables
        }
        await connection.close()
        return {table: count for table, count in counts.items() if count}

    return in_a_loop(look)


def in_a_loop(work: Callable[[], object]) -> dict[str, int]:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as apart:
        found: dict[str, int] = apart.submit(lambda: asyncio.run(work())).result()  # type: ignore[arg-type]
    return found


def halfway(superuser_url: str) -> bool:
    """Whether somebody stands in the middle of a transaction, or waits for one who does."""

    async def look() -> dict[str, int]:
        connection = await asyncpg.connect(superuser_url)
        found = await connection.fetchval(
            """SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
            AND pid <> pg_backend_pid() AND state IN ('active', 'idle in transaction')
            AND xact_start < now() - interval '0.5 seconds'"""
        )
        await connection.close()
        return {"found": found}

    return in_a_loop(look)["found"] > 0


def files_with(superuser_url: str, text: str) -> list[str]:
    """Files of the database that hold the bytes, after a VACUUM FULL."""

    async def vacuum() -> dict[str, int]:
        connection = await asyncpg.connect(superuser_url)
        await connection.execute("VACUUM FULL")
        await connection.execute("CHECKPOINT")
        root = await connection.fetchval("SHOW data_directory")
        oid = await connection.fetchval("SELECT oid FROM pg_database WHERE datname = current_database()")
        await connection.close()
        return {f"{root}/base/{oid}": 1}

    (directory,) = in_a_loop(vacuum)
    files = [path for path in Path(directory).iterdir() if path.is_file()]
    return [path.name for path in files if text.encode() in path.read_bytes()]


def keys_with(url: str, text: str) -> list[str]:
    """Keys of Valkey whose name or value contains the text."""
    with redis.Redis.from_url(url) as client:
        return [key.decode() for key in client.scan_iter() if text.encode() in repr(_value(client, key)).encode() + key]


def _value(client: "redis.Redis", key: bytes) -> object:
    read: dict[bytes, Callable[[], object]] = {
        b"string": lambda: client.get(key),
        b"hash": lambda: client.hgetall(key),
        b"list": lambda: client.lrange(key, 0, -1),
        b"set": lambda: client.smembers(key),
        b"zset": lambda: client.zrange(key, 0, -1, withscores=True),
        b"stream": lambda: client.xrange(key),
    }
    kind = client.type(key)
    return read.get(kind if isinstance(kind, bytes) else kind.encode(), lambda: b"")()


@pytest.fixture
def worker(service_factory: Callable[..., LiveService], broker_url: str) -> Iterator[tuple[LiveService, Process]]:
    # unsealed, so that what is left can be seen
    service = service_factory(DRAMATIQ_BROKER_URL=broker_url, RAPPORT_MASTER_KEY="off")
    service.start()
    process = service.start("worker")
    yield service, process
    process.kill(signal.SIGCONT)
    Chatter.everybody_home()


def test_nothing_of_an_erased_account_is_left_anywhere(
    worker: tuple[LiveService, Process], superuser_url: str, redis_url: str, broker_url: str
) -> None:
    service, process = worker
    # letters only: what looks like a secret or a number is not learnt so easily
    canary = "Xana" + "".join(random.choices("bdfgklmnprst", k=8))
    chatters = [Chatter(service, "canary-owner", f"I live in {canary}.") for _ in range(CHATS)]
    bystander = Chatter(service, "bystander", "I live in Biscuit Town.")
    for chatter in (*chatters, bystander):
        chatter.start()
    deadline = time.monotonic() + FACTS_WAIT
    while not any(table.startswith("facts_") for table in rows_with(superuser_url, canary)):
        assert time.monotonic() < deadline, (chatters[0].refused, chatters[0].turns, process.log.read_text()[-2000:])
        time.sleep(0.3)
    for _ in range(20):
        process.kill(signal.SIGSTOP)  # the worker has read, and will write when all is over
        time.sleep(1)
        if not halfway(superuser_url):
            break
        process.kill(signal.SIGCONT)  # it holds rows: that is another story, of seconds (idle transactions are ended)
        time.sleep(0.3)
    assert keys_with(redis_url, canary)
    answer = httpx.delete(
        f"{service.url}/v1/account?confirm=everything", headers=service.headers("canary-owner"), timeout=150
    )
    assert answer.status_code == 200, answer.text
    for chatter in chatters:
        chatter.join(40)
        assert chatter.refused in {"conversation_not_found", "token_revoked"}
    process.kill(signal.SIGCONT)
    time.sleep(5)  # the worker takes up what it held; leases and sweeps go round
    bystander.going = False
    bystander.join(20)
    assert rows_with(superuser_url, canary) == {}
    assert files_with(superuser_url, canary) == []
    assert keys_with(redis_url, canary) == []
    assert keys_with(broker_url, canary) == []
    logs = [log.name for log in service.home.rglob("*") if log.is_file() and canary.encode() in log.read_bytes()]
    assert logs == []
    assert bystander.refused is None
    assert any(table.startswith("facts_") for table in rows_with(superuser_url, "Biscuit Town"))


async def erase(database: Database, talk: Talk, what: str) -> None:
    async with database.as_user(talk.user_id) as connection:
        if what == "account":
            await erasure.erase_user(connection, talk.user_id)
        else:
            await erasure.forget_all(connection, talk.user_id, keep_conversations=what == "memories")


@pytest.mark.parametrize(("where", "what"), [("before", "account"), ("after", "account"), ("after", "memories")])
async def test_a_learner_that_sleeps_inside_its_transaction_writes_nothing_afterwards(
    database_url: str, superuser_url: str, where: str, what: str
) -> None:
    """Stopped before it locked anything, or with its facts written and not committed: PostgreSQL ends the second after
    10 s, the erasure that waited for its locks goes on, and what the learner does when it wakes changes nothing."""
    async with opened(database_url) as database:
        talk = await Talk(database).open()
        await talk.say("I live in Xanabdfgk.")
        arguments = (database_url, str(talk.user_id), str(talk.id), where, "I live in Xanabdfgk")
        learner = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.faults.late_learner", *arguments, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert learner.stdout is not None
            assert await asyncio.wait_for(learner.stdout.readline(), 60) == b"stopping\n"
            await asyncio.sleep(0.2)
            if where == "after":
                assert await sleeping_with_locks(superuser_url) == 1
            await asyncio.wait_for(erase(database, talk, what), 60)
            learner.send_signal(signal.SIGCONT)
            said = await asyncio.wait_for(learner.stdout.readline(), 60)
            assert said.strip().decode() in ({"lost", "gone"} if where == "before" else {"away"})
            await learner.wait()
        finally:
            if learner.returncode is None:
                learner.kill()
                await learner.wait()
        assert [await talk.count(table) for table in ("facts", "fact_sources", "profiles")] == [0, 0, 0]
    left = rows_with(superuser_url, "Xanabdfgk")
    assert not left if what != "memories" else {table.rstrip("_01234567") for table in left} == {"messages"}


async def sleeping_with_locks(superuser_url: str) -> int:
    connection = await asyncpg.connect(superuser_url)
    try:
        return int(
            await connection.fetchval(
                """SELECT count(DISTINCT a.pid) FROM pg_stat_activity a JOIN pg_locks l USING (pid)
                WHERE a.datname = current_database() AND a.state = 'idle in transaction' AND l.mode = 'RowExclusiveLock'"""
            )
        )
    finally:
        await connection.close()
