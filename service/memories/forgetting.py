"""Forgetting everywhere: PostgreSQL in one transaction, then what other stores keep of it, then a receipt."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import structlog

from memory import erasure, reindex
from memory.erasure import Erasure
from memory.errors import EmbedderUnavailableError, TransactionConflictError
from memory.ports import Embedder
from memory.postgres import Connection, Database
from sessions.errors import SessionsError
from sessions.replies import Log, ReplyLog
from sessions.store import LiveState

log = structlog.get_logger(__name__)

ATTEMPTS = 5
DONE, AWAY = "done", "unreachable: what is kept there expires by itself"


class Forgetter:
    """Erases, and says in a receipt where it looked and what it found."""

    def __init__(
        self, database: Database, embedder: Embedder, live: LiveState, replies: ReplyLog, lease_seconds: float
    ) -> None:
        self._database = database
        self._embedder = embedder
        self._live = live
        self._replies = replies
        self._lease_seconds = lease_seconds

    async def forget(self, user_id: UUID, memory_id: UUID, *, similar: bool = False) -> dict[str, Any]:
        """One fact with its history, or one episode; with `similar` also what may say the same in other words.

        Raises `MemoryNotFoundError`.
        """
        return await self._erase(
            user_id, lambda connection: erasure.forget(connection, user_id, memory_id, similar=similar)
        )

    async def forget_all(self, user_id: UUID, *, keep_conversations: bool) -> dict[str, Any]:
        return await self._erase(
            user_id,
            lambda connection: erasure.forget_all(connection, user_id, keep_conversations=keep_conversations),
        )

    async def erase_user(self, user_id: UUID) -> dict[str, Any]:
        """Every row of the user in every table."""
        return await self._erase(user_id, lambda connection: erasure.erase_user(connection, user_id))

    async def _erase(self, user_id: UUID, work: Callable[[Connection], Awaitable[Erasure]]) -> dict[str, Any]:
        done = await self._in_postgres(user_id, work)
        with suppress(EmbedderUnavailableError):  # they are found by their words, and get their vectors later
            await reindex.add_vectors(self._database, self._embedder, user_id, done.redacted)
        await self._forget_live(done)
        if done.running:
            # a writer hears at its next renewal, after one usual lease at most (`LeaseKeeper`); then it logs nothing any more
            await asyncio.sleep(1.5 * self._lease_seconds)
        logs = await self._drop_logs(user_id, done)
        # again: a reply that was committed just before may have kept its copy of the past just after
        live = await self._forget_live(done)
        receipt = _receipt(done, live, logs)
        async with self._database.as_user(user_id) as connection:
            await erasure.keep_receipt(connection, user_id, done, receipt)
        log.info("forgotten", scope=done.scope, receipt=str(done.id), facts=done.counts["facts"])
        return receipt

    async def _in_postgres(self, user_id: UUID, work: Callable[[Connection], Awaitable[Erasure]]) -> Erasure:
        for attempt in range(ATTEMPTS):
            try:
                async with self._database.as_user(user_id) as connection:
                    done = await work(connection)
                    done.counts["episodes_rewritten"] += await reindex.make_recallable(
                        connection, user_id, done.redacted
                    )
                    return done
            except TransactionConflictError:  # a turn that was being committed holds rows in another order
                if attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError

    async def _forget_live(self, done: Erasure) -> tuple[int, str]:
        answers = [await self._live.forget(conversation_id) for conversation_id in done.conversations]
        return sum(answers), DONE if all(answers) else AWAY

    async def _drop_logs(self, user_id: UUID, done: Erasure) -> tuple[int, str]:
        dropped = 0
        for conversation_id, turn_id in done.turns:
            try:
                await self._replies.drop(Log(user_id, conversation_id, turn_id))
                dropped += 1
            except SessionsError:
                return dropped, AWAY
        return dropped, DONE


def _receipt(done: Erasure, live: tuple[int, str], logs: tuple[int, str]) -> dict[str, Any]:
    stores: list[dict[str, Any]] = [
        {"store": "postgresql", "what": what, "removed": number, "state": DONE}
        for what, number in sorted(done.counts.items())
    ]
    stores += [
        {
            "store": "redis",
            "what": "live state (session, recent messages, summary)",
            "removed": live[0],
            "state": live[1],
        },
        {"store": "redis", "what": "reply logs", "removed": logs[0], "state": logs[1]},
        {"store": "queue", "what": "jobs", "removed": 0, "state": "holds ids only, never words"},
        {"store": "logs", "what": "lines", "removed": 0, "state": "never hold words"},
    ]
    return {
        "id": str(done.id),
        "scope": done.scope,
        "at": datetime.now(UTC).isoformat(),
        "forgotten": [str(fact) for fact in done.facts],
        "similar": [{"id": str(echo.id), "layer": echo.layer, "likeness": echo.likeness} for echo in done.similar],
        "stores": stores,
    }
