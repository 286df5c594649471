"""What a remembered, durable turn can't do without: one embedding, one commit, one Redis round trip, one recall.

Each is measured alone, on the stores and users of this very run, with the means that the service itself uses; their sum
is what a turn costs that does them one after another and nothing else.
"""

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from loadtests.turn.procs import RELAY_CORE
from loadtests.turn.targets import Stand
from memory.embedders import MiniLmEmbedder
from memory.postgres import Database, PoolConfig
from memory.retrieval import RecallQuery, recall
from service.auth.config import OWN_ISSUER
from service.principal import derive_user_id
from service.sealing import open_vault
from service.settings import Settings
from sessions.config import RedisConfig
from sessions.link import RedisLink
from sessions.servers import Call

ROUNDS, WARM = 60, 10
COMMIT = "UPDATE conversations SET updated_at = clock_timestamp() WHERE user_id = $1 AND id = (SELECT id FROM conversations WHERE user_id = $1 LIMIT 1)"


def measure(stand: Stand) -> dict[str, float]:
    """Medians in milliseconds, by part; `sum` is all of them."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {RELAY_CORE} & allowed or allowed)
    try:
        found = asyncio.run(_measure(stand))
    finally:
        os.sched_setaffinity(0, allowed)
    return {**found, "sum": sum(found.values())}


async def _measure(stand: Stand) -> dict[str, float]:
    settings = Settings(RAPPORT_HOME=Path(stand.service["RAPPORT_HOME"]), RAPPORT_EMBEDDED=True)
    database = Database(PoolConfig(stand.service["DATABASE_URL"], size=2, overflow=2), open_vault(settings))
    link = RedisLink(RedisConfig(stand.service["REDIS_URL"]))
    embedder = MiniLmEmbedder()
    user_id = derive_user_id(OWN_ISSUER, "bench-0")
    text = "Hello there, how was your day? #tag:g{}x0#"
    vector = (await embedder.embed([text], question=True))[0]

    async def embedding(n: int) -> None:
        await embedder.embed([text.format(n)], question=True)

    async def commit(_: int) -> None:
        async with database.as_user(user_id) as connection:
            await connection.execute(COMMIT, user_id)

    async def round_trip(_: int) -> None:
        await link.one(Call("floor", ("GET", "floor")))

    async def recalled(_: int) -> None:
        async with database.as_user(user_id) as connection:
            await recall(connection, _query(user_id, text, vector))

    try:
        return {
            "embedding": await _median(embedding),
            "commit": await _median(commit),
            "redis": await _median(round_trip),
            "recall": await _median(recalled),
        }
    finally:
        await link.aclose()
        await database.close()
        await embedder.aclose()


def _query(user_id: UUID, text: str, vector: object) -> RecallQuery:
    return RecallQuery(
        user_id=user_id,
        text=text,
        vector=vector,  # type: ignore[arg-type]
        routes=("general",),
        token_budget=800,
        limit=12,
        now=datetime.now(UTC),
        names=("Mia",),
    )


async def _median(step: Callable[[int], Awaitable[None]]) -> float:
    taken = []
    for n in range(ROUNDS + WARM):
        began = time.perf_counter()
        await step(n)
        taken.append((time.perf_counter() - began) * 1000)
    return statistics.median(taken[WARM:])
