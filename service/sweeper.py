"""Work that nobody was told of, told again: what makes a lost queue message cost seconds and not memories.

The outbox row, written with the message itself, is the work; the queue only carries its name. Rows that are due, and
on which nobody works, are sent again. Any number of sweepers may run: a row that one has locked is skipped by others.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

import structlog

from memory import outbox
from memory.errors import StoreUnavailableError
from memory.postgres import Database
from service.metrics import OUTBOX_OLDEST, OUTBOX_REPAIRED, OUTBOX_SENT, OUTBOX_WAITING, QUARANTINED

log = structlog.get_logger(__name__)

Send = Callable[[UUID, UUID], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class SweeperConfig:
    interval: float = 1.0
    """Seconds between two looks."""
    grace: float = 2.0
    """How long whoever wrote the work has to send it; a sweep before that would send everything twice."""
    again: float = 10.0
    """After how long a wake-up that nobody acted on is sent again."""
    batch: int = 200
    reconcile_interval: float = 60.0


class Sweeper:
    def __init__(self, database: Database, send: Send, config: SweeperConfig | None = None) -> None:
        self._database = database
        self._send = send
        self._config = config or SweeperConfig()

    async def sweep(self) -> int:
        """Send what is due, once; gives how many wake-ups that were."""
        config = self._config
        async with self._database.system() as connection:
            due = await outbox.take_due(connection, grace=config.grace, again=config.again, limit=config.batch)
        # after the commit: a wake-up of work that isn't there yet would be lost
        for user_id, conversation_id in due:
            await self._send(user_id, conversation_id)
        OUTBOX_SENT.inc(len(due))
        return len(due)

    async def reconcile(self) -> int:
        """Look for messages beyond the watermark that no outbox row speaks of. There should never be any."""
        async with self._database.system() as connection:
            repaired = await outbox.put_back_missing(connection)
            backlog = await outbox.read_backlog(connection)
        OUTBOX_WAITING.set(backlog.waiting)
        OUTBOX_OLDEST.set(backlog.oldest_seconds)
        QUARANTINED.set(backlog.quarantined)
        if repaired:
            OUTBOX_REPAIRED.inc(repaired)
            log.error("outbox_repaired", conversations=repaired)
        return repaired

    async def run(self) -> None:
        """Sweep for ever; cancelled at shutdown. A database that is away is waited for."""
        reconciled = -self._config.reconcile_interval
        loop = asyncio.get_running_loop()
        while True:
            try:
                while await self.sweep() == self._config.batch:
                    pass
                if loop.time() - reconciled >= self._config.reconcile_interval:
                    await self.reconcile()
                    reconciled = loop.time()
            except StoreUnavailableError:
                log.warning("sweep_waits_for_database")
            except Exception:
                log.exception("sweep_failed")
            await asyncio.sleep(self._config.interval)
