"""Reading from streaming replicas, without ever reading the past.

A read asks the primary how far its log has been flushed and is served by a replica that has replayed as much, so that
it sees everything that was committed before it began, by whichever process. One short question to the primary stands
for all reads that begin while it is under way. A replica that is away, late, or another database's is not used.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from uuid import UUID

import asyncpg
import structlog

from memory.errors import StoreUnavailableError
from memory.metrics import READS, REPLICAS
from memory.postgres import AWAY, IN_THE_WAY, Connection, Database, PoolConfig, T
from memory.vault import Vault

log = structlog.get_logger(__name__)

CATCH_UP_SECONDS = 0.05
"""How long a read waits for a replica to replay what it must see; streaming takes 2 ms (median) on one machine."""
POLL_SECONDS = 0.002
CONNECT_SECONDS = 1.0
"""A replica that gives no connection and no answer in this time is away."""
PROBE_SECONDS = 1.0
"""Between looks at a replica that is not used."""
# with synchronous_commit = off a commit is answered before it is flushed
POSITION = """
SELECT (CASE current_setting('synchronous_commit') WHEN 'off' THEN pg_current_wal_insert_lsn()
        ELSE pg_current_wal_flush_lsn() END)::text
"""
REPLAYED = "SELECT pg_is_in_recovery() AND pg_last_wal_replay_lsn() >= $1::text::pg_lsn"
IDENTITY = "SELECT system_identifier FROM pg_control_system()"
# what a replica refuses although it is well: the read needs a row of its own first, or was in the way of replaying
REFUSED = (asyncpg.ReadOnlySQLTransactionError, *IN_THE_WAY)


class Replica:
    """One of them, and whether it is fit to be read from."""

    def __init__(self, config: PoolConfig, vault: Vault | None, name: str) -> None:
        self.database = Database(config, vault)
        self.name = name
        self._usable = False
        self._told = ""

    @property
    def usable(self) -> bool:
        return self._usable

    def use(self) -> None:
        if not self._usable:
            log.info("replica_used", replica=self.name)
        self._usable, self._told = True, ""
        REPLICAS.labels(self.name).set(1)

    def leave(self, reason: str) -> None:
        if self._told != reason:
            log.warning("replica_left", replica=self.name, reason=reason)
        self._usable, self._told = False, reason
        REPLICAS.labels(self.name).set(0)


class ReplicatedDatabase(Database):
    """A database whose reads may be served by replicas. Writes, and all that decides on writes, go to the primary."""

    def __init__(self, config: PoolConfig, replicas: Sequence[PoolConfig], vault: Vault | None = None) -> None:
        super().__init__(config, vault)
        self._replicas = [Replica(each, vault, f"replica{number}") for number, each in enumerate(replicas)]
        self._order = itertools.cycle(self._replicas)
        self._asking: asyncio.Future[str] | None = None
        self._one_question = asyncio.Lock()
        self._watchers: list[asyncio.Task[None]] = []

    @property
    def replicas(self) -> Sequence[Replica]:
        return self._replicas

    async def open(self) -> None:
        await super().open()
        if not self._watchers:
            self._watchers = [asyncio.create_task(self._watch(each), name=each.name) for each in self._replicas]

    async def close(self) -> None:
        for task in self._watchers:
            task.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        self._watchers = []
        for replica in self._replicas:
            await replica.database.close()
        await super().close()

    async def read(self, user_id: UUID, work: Callable[[Connection], Awaitable[T]]) -> T:
        replica = self._choose()
        if replica is not None:
            wanted = await self._position()
            try:
                async with AsyncExitStack() as stack:
                    async with asyncio.timeout(CONNECT_SECONDS):
                        connection = await stack.enter_async_context(replica.database.as_user(user_id))
                        fresh = await _has_replayed(connection, wanted)
                    if fresh:
                        answer = await work(connection)
                        READS.labels("replica").inc()
                        return answer
                replica.leave("late")
            except TimeoutError:
                replica.leave("silent")
            except StoreUnavailableError as error:
                if not isinstance(error.__cause__, REFUSED):
                    replica.leave("away")
        READS.labels("primary").inc()
        return await super().read(user_id, work)

    def _choose(self) -> Replica | None:
        return next((each for each in itertools.islice(self._order, len(self._replicas)) if each.usable), None)

    async def _position(self) -> str:
        """How far the primary has flushed its log, asked after the call."""
        if self._asking is None:
            self._asking = asyncio.ensure_future(self._ask())
        return await asyncio.shield(self._asking)

    async def _ask(self) -> str:
        async with self._one_question:
            self._asking = None  # who comes from now on needs an answer of its own
            async with self.system() as connection:
                return str(await connection.fetchval(POSITION))

    async def _watch(self, replica: Replica) -> None:
        """Look at a replica that is not used until it can be."""
        while True:
            if not replica.usable:
                with contextlib.suppress(*AWAY, asyncpg.PostgresError, StoreUnavailableError):
                    async with asyncio.timeout(2 * CONNECT_SECONDS):
                        await self._probe(replica)
            await asyncio.sleep(PROBE_SECONDS)

    async def _probe(self, replica: Replica) -> None:
        async with self.system() as connection:
            identity, wanted = await connection.fetchval(IDENTITY), await connection.fetchval(POSITION)
        async with replica.database.system() as connection:
            if await connection.fetchval(IDENTITY) != identity:
                replica.leave("another database's")
            elif await _has_replayed(connection, wanted):
                replica.use()


async def _has_replayed(connection: Connection, wanted: str) -> bool:
    deadline = time.monotonic() + CATCH_UP_SECONDS
    while not await connection.fetchval(REPLAYED, wanted):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(POLL_SECONDS)
    return True
