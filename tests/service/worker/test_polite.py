"""Where one small model does both, replies go before lessons."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from memory.postgres import Database, PoolConfig
from service.worker.polite import PoliteReasoner


class Instant:
    name = "instant"

    async def structured(
        self, system: str, examples: Sequence[tuple[str, str]], prompt: str, schema: dict[str, Any]
    ) -> str:
        return "{}"


INSERT = """
INSERT INTO turns (user_id, id, conversation_id, user_message_id, status, route, lock_epoch)
VALUES ($1, $2, $2, $2, 'running', 'general', 0)
"""


async def asked(database: Database, patience: float = 60) -> float:
    began = time.monotonic()
    assert await PoliteReasoner(Instant(), database, patience=patience).structured("", (), "", {}) == "{}"
    return time.monotonic() - began


async def test_learning_waits_for_the_reply_that_is_being_written(database_url: str) -> None:
    database = Database(PoolConfig(database_url))
    assert await asked(database) < 0.5
    turn = uuid4()
    async with database.system() as connection:
        await connection.execute(INSERT, uuid4(), turn)
    learning = asyncio.create_task(asked(database))
    await asyncio.sleep(1.2)
    assert not learning.done()
    async with database.system() as connection:
        await connection.execute("UPDATE turns SET status = 'completed' WHERE id = $1", turn)
    assert await learning >= 1.2
    await database.close()


async def test_but_not_for_ever(database_url: str) -> None:
    database = Database(PoolConfig(database_url))
    async with database.system() as connection:
        await connection.execute(INSERT, uuid4(), uuid4())
    assert 0.5 <= await asked(database, patience=0.5) < 5
    await database.close()
