"""Tokens taken back before their time: PostgreSQL knows, every instance keeps a copy a few seconds old at most."""

import asyncio
import contextlib
import logging
from datetime import UTC, datetime, timedelta
from uuid import UUID

from memory.errors import LongTermMemoryError
from memory.postgres import Database
from service.auth.metrics import REVOCATION_READS

log = logging.getLogger(__name__)

ALL = ""
"""The token_id that stands for every token issued until then."""
# Transactions commit in another order than they take their time, so each reading looks a little further back.
OVERLAP = timedelta(minutes=2)

READ = """
SELECT user_id, token_id, extract(epoch FROM revoked_at)::float8, extract(epoch FROM expires_at)::float8
FROM revocations
WHERE expires_at > now() AND revoked_at > $1
"""
REVOKE = """
INSERT INTO revocations (user_id, token_id, expires_at) VALUES ($1, $2, $3)
ON CONFLICT (user_id, token_id) DO UPDATE
SET revoked_at = clock_timestamp(), expires_at = greatest(revocations.expires_at, excluded.expires_at)
RETURNING extract(epoch FROM revoked_at)::float8
"""


async def drop_expired(database: Database) -> None:
    """Of tokens that are worth nothing any more by themselves."""
    async with database.system() as connection:
        await connection.execute("DELETE FROM revocations WHERE expires_at < now() - interval '1 day'")


class Revocations:
    """Asked on every request, so it answers from memory."""

    def __init__(self, database: Database, interval: float) -> None:
        self._database = database
        self._interval = interval
        self._tokens: dict[tuple[UUID, str], float] = {}
        self._users: dict[UUID, float] = {}
        self._read_at: datetime | None = None
        self._reader: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def covers(self, user_id: UUID, token_id: str, issued_at: float) -> bool:
        """True when the token was taken back. A user's revocation covers its own second."""
        if (user_id, token_id) in self._tokens:
            return True
        since = self._users.get(user_id)
        return since is not None and issued_at <= since

    async def open(self) -> None:
        await self.refresh()
        self._reader = asyncio.create_task(self._keep_reading())

    async def aclose(self) -> None:
        self._closing.set()
        if self._reader is not None:
            await self._reader

    async def revoke(self, user_id: UUID, token_id: str, expires_at: datetime) -> None:
        """Take one token back; with `ALL`, every token of the user issued until now."""
        async with self._database.as_user(user_id) as connection:
            revoked_at = await connection.fetchval(REVOKE, user_id, token_id, expires_at)
        self._keep(user_id, token_id, revoked_at, expires_at.timestamp())

    async def revoke_user(self, user_id: UUID) -> None:
        """Sign the user out everywhere."""
        await self.revoke(user_id, ALL, datetime.now(UTC) + timedelta(days=366))

    async def refresh(self) -> None:
        """Read what other instances took back. While PostgreSQL is away the copy stays: nothing is accepted then."""
        started = datetime.now(UTC)
        since = datetime.min.replace(tzinfo=UTC) if self._read_at is None else self._read_at - OVERLAP
        try:
            async with self._database.system() as connection:
                rows = await connection.fetch(READ, since)
        except LongTermMemoryError as error:
            REVOCATION_READS.labels("failed").inc()
            log.warning("revoked tokens could not be read: %s", type(error).__name__)
            return
        for row in rows:
            self._keep(*row)
        self._read_at = started
        self._forget_expired(started.timestamp())
        REVOCATION_READS.labels("read").inc()

    def _keep(self, user_id: UUID, token_id: str, revoked_at: float, expires_at: float) -> None:
        if token_id == ALL:
            self._users[user_id] = revoked_at
        else:
            self._tokens[user_id, token_id] = expires_at

    def _forget_expired(self, now: float) -> None:
        for key in [key for key, expires_at in self._tokens.items() if expires_at < now - 60]:
            del self._tokens[key]

    async def _keep_reading(self) -> None:
        while not self._closing.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self._interval)
                return
            await self.refresh()
