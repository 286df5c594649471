"""`rapport memory reseal`: everybody's terms, digests and texts under today's keys."""

import asyncio
from collections import Counter

from rich.console import Console

from memory.errors import LongTermMemoryError
from memory.postgres import Database, PoolConfig
from memory.resealing import reseal, users
from memory.vault import KEY_SECONDS
from service.sealing import open_database
from service.settings import Settings

SETTLED = KEY_SECONDS + 5.0
"""Seconds after which no process holds a key as it was."""


async def main(settings: Settings, *, wait: float = SETTLED) -> int:
    """Gives the exit status: 0, or 2 without a master key."""
    console = Console(stderr=True)
    database = open_database(settings, PoolConfig(settings.database_url.get_secret_value(), 1, 1))
    try:
        done = await _reseal_all(database, console, wait)
    except LongTermMemoryError as error:
        console.print(f"Not done. {error}", style="red", highlight=False, markup=False)
        return 2
    finally:
        await database.close()
    shown = ", ".join(f"{number:,} {what}" for what, number in sorted(done.items())) or "nothing: all was so already"
    console.print(f"Brought under their keys: {shown}.", highlight=False)
    return 0


async def _reseal_all(database: Database, console: Console, wait: float) -> Counter[str]:
    done: Counter[str] = Counter()
    converted = []
    for user_id in await users(database):
        counts = await reseal(database, user_id)
        done += counts
        if counts["users"]:
            converted.append(user_id)
    if converted and wait:
        console.print(f"Waiting {wait:.0f} s, until no process indexes by an old key any more …", highlight=False)
        await asyncio.sleep(wait)
        for user_id in converted:
            done += await reseal(database, user_id)
    return done
