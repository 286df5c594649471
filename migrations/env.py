"""Alembic's entry: migrations are raw SQL, run over the service's own driver."""

import asyncio

from alembic import context
from sqlalchemy import Connection, pool
from sqlalchemy.ext.asyncio import create_async_engine


def run(connection: Connection) -> None:
    # transaction_per_migration: a long chain must not hold the locks of its first step until its last
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        # two instances that start together must not migrate together
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7277074)")
        context.run_migrations()


async def online() -> None:
    url = context.config.attributes["url"]
    # unnamed statements pass PgBouncer in transaction mode too
    unnamed = {
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
        "prepared_statement_name_func": lambda: "",
    }
    engine = create_async_engine(url, poolclass=pool.NullPool, hide_parameters=True, connect_args=unnamed)
    async with engine.connect() as connection:
        await connection.run_sync(run)
    await engine.dispose()


asyncio.run(online())
