"""Keep the leases of all turns that this process writes: one statement for all, each third of a lease."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Protocol
from uuid import UUID

import structlog

from memory.errors import StoreUnavailableError
from memory.gates import Gate
from memory.leases import Renewal, note_upstream, renew
from memory.postgres import Database
from service.chat.metrics import LOOP_FAILURES

log = structlog.get_logger(__name__)

CHECKPOINT_SECONDS = 1.0
"""How old the copy of a reply's text in PostgreSQL may grow; the log in Redis is the fresh one."""
MANY = 1000
"""Replies in one process from which on leases grow with them: renewing each twice a second was a third of what thousands
of slow replies cost PostgreSQL and this process, until leases ran out for want of processor time."""
LONGEST = 3.0
"""How many times the usual lease they grow to; a writer then hears of a stop, a lock or an erasure after one usual lease."""


class Leaseholder(Protocol):
    """A writer as its lease keeper sees it: the writer's module stands on this one."""

    user_id: UUID
    turn_id: UUID
    epoch: int

    def checkpoint(self) -> str | None:
        """The text shown so far, if it has changed since the last time."""
        ...

    def place(self) -> dict[str, Any] | None:
        """Where its model server can be asked for the rest of the reply, if it can."""
        ...

    def halt(self, reason: str) -> None: ...


class LeaseKeeper:
    """Renews leases, saves checkpoints, and brings back what others decided: stop, gate closed, taken over."""

    def __init__(self, database: Database, lease_seconds: float, gate: Gate) -> None:
        self._needs = gate.needs
        self._database = database
        self._usual = lease_seconds
        self._held: dict[UUID, Leaseholder] = {}
        self._checkpointed = 0.0

    def __len__(self) -> int:
        """Replies that are being written here."""
        return len(self._held)

    @property
    def lease_seconds(self) -> float:
        """How long leases are that this process takes now."""
        return self._usual * min(LONGEST, max(1.0, len(self._held) / MANY))

    def hold(self, writer: Leaseholder) -> None:
        self._held[writer.turn_id] = writer

    def drop(self, writer: Leaseholder) -> None:
        if self._held.get(writer.turn_id) is writer:
            del self._held[writer.turn_id]

    async def run(self) -> None:
        """Renew for ever; cancelled at shutdown."""
        while True:
            await asyncio.sleep(self.lease_seconds / 3)
            if self._held:
                try:
                    await self.renew_all()
                except Exception:
                    LOOP_FAILURES.labels("leases").inc()
                    log.exception("leases_not_renewed", turns=len(self._held))

    async def renew_all(self) -> None:
        writers = list(self._held.values())
        now = time.monotonic()
        due = now - self._checkpointed >= CHECKPOINT_SECONDS
        try:
            renewed = await self._renew_or_less(writers, keep=due)
        except StoreUnavailableError as error:
            # nobody else can claim either while PostgreSQL is away; if only we can't reach it, the log's fence stops us
            log.warning("leases_not_renewed", turns=len(writers), error=type(error).__name__)
            return
        if due:
            self._checkpointed = now
        for writer in writers:
            row = renewed.get(writer.turn_id)
            if self._held.get(writer.turn_id) is not writer:
                continue
            if row is None:
                writer.halt("fenced")
            elif row.gate_closed:
                writer.halt("gate")
            elif row.stop_requested:
                writer.halt("stop")

    async def _renew_or_less(self, writers: Sequence[Leaseholder], *, keep: bool) -> dict[UUID, Renewal]:
        """As `_renew`; words of one reply that can't be kept must not cost all replies their leases."""
        try:
            return await self._renew(writers, keep=keep)
        except StoreUnavailableError:
            raise
        except Exception:
            LOOP_FAILURES.labels("checkpoints").inc()
            log.exception("checkpoints_not_kept", turns=len(writers))
            return await self._renew(writers, keep=False)

    async def _renew(self, writers: Sequence[Leaseholder], *, keep: bool) -> dict[UUID, Renewal]:
        """Renew all leases, and `keep` what the replies have come to."""
        rows = [(w.user_id, w.turn_id, w.epoch, w.checkpoint() if keep else None) for w in writers]
        async with self._database.system() as connection:
            renewed = {row.turn_id: row for row in await renew(connection, rows, self.lease_seconds, self._needs)}
            for writer in writers if keep else ():
                # one whose row somebody holds would wait for it, and all leases with it
                row = renewed.get(writer.turn_id)
                if row is not None and row.written and (place := writer.place()):
                    await note_upstream(connection, writer.user_id, writer.turn_id, writer.epoch, place)
        return renewed
