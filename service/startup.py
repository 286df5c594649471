"""What is checked before the first request, so that a wrong setting is a sentence and not a night's search."""

from collections.abc import Awaitable, Callable

import asyncpg
import structlog

from memory.postgres import AWAY, Database
from service import migrate
from service.errors import RapportError
from service.llm.pool import Backends
from service.settings import Settings

log = structlog.get_logger(__name__)

LOCAL_LOCK = 7277075
"""Advisory lock that a process without Redis holds: the live state in its memory must be the only one."""


class StartError(RapportError):
    """The service can't start as it is configured; the message says what to do."""

    code = "start_refused"


async def check_database(database: Database) -> None:
    """Raises `StartError` for a database whose schema isn't this release's."""
    async with database.system() as connection:
        there = await connection.fetchval("SELECT to_regclass('alembic_version')")
        revision = await connection.fetchval("SELECT version_num FROM alembic_version") if there else None
    if revision != migrate.head():
        raise StartError(
            f"The database is at revision {revision}, this release needs {migrate.head()}: run `rapport db upgrade`."
        )


async def check_connections(database: Database, settings: Settings) -> None:
    """Say so when one instance's pool alone would not fit into the server's connections."""
    async with database.system() as connection:
        if database.pooled:
            return  # the pooler shares them out
        allowed = int(
            await connection.fetchval(
                "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
            )
        )
    wanted = settings.pool_size + settings.max_overflow
    if wanted > allowed:
        log.warning(
            "pool_larger_than_server",
            pool=wanted,
            max_connections=allowed,
            advice="lower POSTGRES_POOL_SIZE + POSTGRES_MAX_OVERFLOW",
        )


def check_routes(backends: Backends) -> None:
    """Raises `StartError` for route policies that name backends which nobody configured: a misspelt name would leave
    the route without any, and only the first message would tell."""
    if unknown := backends.unknown_backends():
        known = ", ".join(provider.name for provider in backends.providers) or "none"
        raise StartError(f"RAPPORT_ROUTES names the backends {', '.join(unknown)}; configured are: {known}.")


async def refuse_second_local_instance(dsn: str) -> Callable[[], Awaitable[None]]:
    """Hold the one place of a process without Redis; gives the function that frees it. Raises `StartError` when taken."""
    try:
        connection = await asyncpg.connect(dsn, timeout=5, statement_cache_size=0)
    except AWAY as error:
        raise StartError("REDIS_ENABLED=false needs the database at start, and it is away.") from error
    # held by a transaction that never ends, since a pooler keeps nothing else of a connection; it sees no snapshot, so
    # that it holds up no vacuum
    await connection.execute("BEGIN; SET LOCAL idle_in_transaction_session_timeout = 0")
    if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", LOCAL_LOCK):
        await connection.close()
        raise StartError(
            "REDIS_ENABLED=false keeps live state in one process's memory, and another instance uses this database. "
            "Stop it, or give both a Redis (REDIS_ENABLED=true, REDIS_URL)."
        )
    log.warning("redis_disabled", meaning="one process only; replies don't survive its restart")
    return connection.close
