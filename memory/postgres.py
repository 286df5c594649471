"""Connections to PostgreSQL: short transactions, each bound to one user or openly to all."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import UUID

import asyncpg
import orjson

from memory.errors import StoreUnavailableError, TransactionConflictError
from memory.vault import KeyRing, Vault, encode, encode_bytes

if TYPE_CHECKING:
    Connection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
else:  # generic in the stubs only
    Connection = asyncpg.pool.PoolConnectionProxy

T = TypeVar("T")

# what a restart, a fail-over or a full pool looks like from here; anything else is a bug and stays visible
AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.DiskFullError,
    asyncpg.InterfaceError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TransactionTimeoutError,
    asyncpg.InternalClientError,  # what a pooled connection answers between the server's last word and its end
)
IN_THE_WAY = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.LockNotAvailableError)
"""What one of two transactions hears that stand in each other's way."""


@dataclass(frozen=True, slots=True)
class PoolConfig:
    dsn: str
    size: int = 20
    """Connections kept open."""
    overflow: int = 40
    """Connections opened beyond them under load."""
    acquire_timeout: float = 3.0
    """Seconds to wait for a free connection before the store counts as away."""
    command_timeout: float = 15.0
    prepared: bool | None = None
    """Whether statements are prepared once a connection. None: unless a pooler stands before PostgreSQL; one in
    transaction mode can't keep them (PgBouncer before 1.21)."""


# What statements here rely on. Straight to PostgreSQL it is the connection's; a pooler in transaction mode refuses or
# mixes up what belongs to a connection, so there each transaction sets it, with what it sets anyway.
SESSION = {
    # a hash-partitioned table is pruned at run time; JIT would cost more than the whole statement
    "jit": "off",
    # every statement names one user: planning recall again for each costs more than half of it
    "plan_cache_mode": "force_generic_plan",
    # a process that was stopped in the middle of a transaction must not hold its rows for ever
    "idle_in_transaction_session_timeout": "10s",
    # nor its transactions that wait come to the rows one after the other, each for as long
    "lock_timeout": "10s",
}
# Between the preparation of a statement and its execution a transaction is not idle, and no other timeout ends it.
SINCE_17 = {"transaction_timeout": "30s"}


def _session(connection: "Connection | asyncpg.Connection[asyncpg.Record]") -> dict[str, str]:
    return SESSION | (SINCE_17 if connection.get_server_version().major >= 17 else {})


class SealingConnection(asyncpg.Connection):
    """A connection that opens its user's sealed text as it arrives (memory.vault)."""

    keyring: KeyRing


async def _prepare(connection: Any, vault: Vault | None, *, pooled: bool = False) -> None:
    connection.keyring = KeyRing(vault)
    if pooled:  # a statement's two round trips must reach the same server
        await connection.execute("BEGIN")
        await _set_codecs(connection, vault)
        await connection.execute("COMMIT")
    else:
        await _set_codecs(connection, vault)


async def _set_codecs(connection: Any, vault: Vault | None) -> None:
    if vault is not None:
        await connection.set_type_codec(
            # in the text format, since types that the driver doesn't know (vectors) go by this codec too
            "text",
            schema="pg_catalog",
            encoder=encode,
            decoder=connection.keyring.decode,
            format="text",
        )
        await connection.set_type_codec(
            "bytea", schema="pg_catalog", encoder=encode_bytes, decoder=connection.keyring.decode_bytes, format="binary"
        )
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        encoder=lambda value: b"\x01" + orjson.dumps(value),
        decoder=lambda raw: orjson.loads(raw[1:]),
        format="binary",
    )
    # the driver's own UUID is a subclass that JSON encoders don't know
    await connection.set_type_codec(
        "uuid",
        schema="pg_catalog",
        encoder=lambda value: value.bytes,
        decoder=lambda raw: UUID(bytes=raw),
        format="binary",
    )


async def _ask(config: PoolConfig) -> tuple[bool, dict[str, str]]:
    """Whether a pooler stands before the server, and what its sessions are to be set to.

    A pooler makes up the number by which a connection is cancelled; PostgreSQL gives its process's.
    """
    connection = await asyncpg.connect(config.dsn, timeout=config.acquire_timeout, statement_cache_size=0)
    try:
        async with connection.transaction():
            own = await connection.fetchval("SELECT pg_backend_pid()")
            return connection.get_server_pid() != own, _session(connection)
    finally:
        await connection.close(timeout=1)


async def be_patient(connection: Connection, seconds: float) -> None:
    """Give each statement of this transaction so long to get its rows, and all of them five times as long."""
    limits = f"SET LOCAL lock_timeout = '{seconds}s'"
    if _session(connection).keys() & SINCE_17.keys():
        # a time that runs can only be ended and begun anew
        limits += f"; SET LOCAL transaction_timeout = 0; SET LOCAL transaction_timeout = '{5 * seconds}s'"
    await connection.execute(limits)


async def hold_user(connection: Connection, user_id: UUID) -> None:
    """First in a transaction that changes what is known of a user, before any lock on a conversation: learning, forgetting,
    correcting and deleting come one after the other, each seeing what the one before it did."""
    await connection.execute("SELECT FROM users WHERE user_id = $1 FOR NO KEY UPDATE", user_id)


async def _keep(_connection: object) -> None:
    """Replace asyncpg's reset query: every transaction here cleans up by ending, and it would cost a round trip."""


async def _roll_back(connection: Connection, seconds: float) -> None:
    """Leave no half transaction to the connection's next user: a connection that can't roll back is dropped."""
    try:
        if not connection.is_closed():
            await connection.execute("ROLLBACK", timeout=seconds)
    except (*AWAY, asyncpg.PostgresError):
        connection.terminate()


async def _end(transaction: AbstractAsyncContextManager[Connection]) -> None:
    # a connection that fails now is dropped; whoever asked has had the answer
    with suppress(StoreUnavailableError, TransactionConflictError):
        await transaction.__aexit__(None, None, None)


class Database:
    """A pool whose every use is one transaction. Safe for any number of tasks."""

    def __init__(self, config: PoolConfig, vault: Vault | None = None) -> None:
        """With a vault, text is sealed as it is written; without one it is only read."""
        self._config = config
        self.vault = vault
        self.pooled = False
        """Whether a pooler (PgBouncer) stands before PostgreSQL; known once open."""
        self._in_transaction = ""
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._opening = asyncio.Lock()
        self._endings: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Connect. Raises `StoreUnavailableError` when PostgreSQL can't be reached; a later use tries again."""
        async with self._opening:
            if self._pool is not None:
                return
            config = self._config
            try:
                self.pooled, session = await _ask(config)
                if self.pooled:
                    self._in_transaction = "".join(f"; SET LOCAL {name} = '{value}'" for name, value in session.items())
                prepared = not self.pooled if config.prepared is None else config.prepared
                self._pool = await asyncpg.create_pool(
                    config.dsn,
                    min_size=1,
                    max_size=config.size + config.overflow,
                    max_inactive_connection_lifetime=60,
                    timeout=config.acquire_timeout,
                    command_timeout=config.command_timeout,
                    statement_cache_size=200 if prepared else 0,
                    connection_class=SealingConnection,
                    init=partial(_prepare, vault=self.vault, pooled=self.pooled),
                    reset=_keep,
                    server_settings={"application_name": "rapport", **({} if self.pooled else session)},
                )
            except AWAY as error:
                raise StoreUnavailableError(str(error)) from error

    async def close(self) -> None:
        if self._pool is not None:
            pool, self._pool = self._pool, None
            try:
                await asyncio.wait_for(pool.close(), 5)
            except TimeoutError:
                pool.terminate()

    @property
    def has_room(self) -> bool:
        """Whether more than half of the connections there may be are free: only then work is begun that may be for nothing."""
        if self._pool is None:
            return True
        used = self._pool.get_size() - self._pool.get_idle_size()
        return used * 2 < self._pool.get_max_size()

    def as_user(self, user_id: UUID) -> AbstractAsyncContextManager[Connection]:
        """One transaction that can see and write this user's rows only."""
        # SET takes two thirds of what set_config() takes, which is planned and run as a query each time
        return self._transaction(
            f"BEGIN; SET LOCAL rapport.user_id = '{user_id}'; SET LOCAL rapport.system = ''", user_id
        )

    async def read(self, user_id: UUID, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Read this user's rows by `work`, which may run twice; a replica may serve it (memory.replicas).

        The answer is given before its transaction has ended: what reading writes by the way (a profile that was not
        there yet) can be written again.
        """
        transaction = self.as_user(user_id)
        connection = await transaction.__aenter__()
        try:
            answer = await work(connection)
        except BaseException as error:
            await transaction.__aexit__(type(error), error, error.__traceback__)
            raise
        ending = asyncio.create_task(_end(transaction), name="end-of-reading")
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)
        return answer

    async def ended(self) -> None:
        """Wait until the transactions of answers that were given have ended."""
        while self._endings:
            await asyncio.wait(self._endings)

    def system(self) -> AbstractAsyncContextManager[Connection]:
        """One transaction over all users: for sweeps, learning and operators, never on a caller's behalf."""
        return self._transaction("BEGIN; SET LOCAL rapport.user_id = ''; SET LOCAL rapport.system = 'on'")

    @asynccontextmanager
    async def _transaction(self, begin: str, user_id: UUID | None = None) -> AsyncIterator[Connection]:
        if self._pool is None:
            await self.open()
        assert self._pool is not None  # noqa: S101  open() raised otherwise
        try:
            # begin, context and commit are one round trip each: the pool's own transaction() would add one
            async with self._pool.acquire(timeout=self._config.acquire_timeout) as connection:
                try:
                    await connection.execute(begin + self._in_transaction)
                    if self.vault is not None:
                        key = None if user_id is None else await self.vault.key(connection, user_id)
                        cast("SealingConnection", connection).keyring.current = key
                    yield connection
                except BaseException:
                    await asyncio.shield(_roll_back(connection, min(2.0, self._config.acquire_timeout)))
                    raise
                await connection.execute("COMMIT")
        except IN_THE_WAY as error:
            raise TransactionConflictError(str(error)) from error
        except AWAY as error:
            raise StoreUnavailableError(str(error)) from error
