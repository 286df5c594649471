"""`rapport key …`: API keys of servers, for whoever runs this service."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import typer
from rich.console import Console
from rich.table import Table

from memory.postgres import Database, PoolConfig
from service.auth.api_keys import create_api_key, list_api_keys, revoke_api_key
from service.settings import Settings

Result = TypeVar("Result")


async def _with_database(settings: Settings, action: Callable[[Database], Awaitable[Result]]) -> Result:
    database = Database(PoolConfig(settings.database_url.get_secret_value(), 1, 1))
    try:
        return await action(database)
    finally:
        await database.close()


async def create(settings: Settings, name: str, *, issuer: str, scopes: list[str], days: float | None) -> int:
    """Print the new key; its last word is the only copy there will ever be."""
    expires_at = datetime.now(UTC) + timedelta(days=days) if days is not None else None
    try:
        token, key = await _with_database(
            settings,
            lambda database: create_api_key(database, name, issuer=issuer, scopes=scopes, expires_at=expires_at),
        )
    except ValueError as error:
        Console(stderr=True).print(f"[red]{error}[/red]", highlight=False)
        return 2
    typer.echo(
        f"Key {key.id} for the users of {key.issuer!r} ({', '.join(sorted(key.scopes))}). Keep it; it is not shown again:"
    )
    typer.echo(token)
    return 0


async def show(settings: Settings) -> int:
    table = Table("id", "name", "users of", "scopes", "made", "ends", "revoked")
    for key in await _with_database(settings, list_api_keys):
        times = (key.created_at, key.expires_at, key.revoked_at)
        days = (f"{time:%Y-%m-%d}" if time is not None else "" for time in times)
        table.add_row(key.id, key.name, key.issuer, ", ".join(sorted(key.scopes)), *days)
    Console().print(table)
    return 0


async def revoke(settings: Settings, key_id: str) -> int:
    if not await _with_database(settings, lambda database: revoke_api_key(database, key_id)):
        Console(stderr=True).print(f"[red]There is no key {key_id!r} in force.[/red]", highlight=False)
        return 1
    typer.echo("Revoked; every instance refuses it within 15 seconds.")
    return 0
