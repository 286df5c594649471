"""Work that nobody was told of, told again: what makes a lost queue message cost seconds and not memories.

The outbox row, written with the message itself, is the work; the queue only carries its name. Rows that are due, and
on which nobody works, are sent again. Any number of sweepers may run: a row that one has locked is skipped by others.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

import structlog
from prometheus_client import Counter, Gauge

from memory.errors import StoreUnavailableError
from memory.postgres import Connection, Database

log = structlog.get_logger(__name__)

SENT = Counter("rapport_outbox_sent_total", "Wake-ups that a sweep sent")
REPAIRED = Counter("rapport_outbox_repaired_total", "Unlearnt conversations without an outbox row; should stay 0")
WAITING = Gauge("rapport_outbox_waiting", "Conversations that wait to be learnt from")
OLDEST = Gauge("rapport_outbox_oldest_seconds", "How long the oldest of them has been due")
QUARANTINED = Gauge("rapport_quarantined_ranges", "Stretches of conversation that could not be learnt from")

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


@dataclass(frozen=True, slots=True)
class Backlog:
    waiting: int
    oldest_seconds: float
    quarantined: int


DUE = """
UPDATE outbox SET dispatched_at = clock_timestamp()
WHERE (user_id, conversation_id) IN (
    SELECT o.user_id, o.conversation_id FROM outbox o
    LEFT JOIN conversations c ON c.user_id = o.user_id AND c.id = o.conversation_id
    WHERE o.not_before <= now() - $1 * interval '1 second'
        AND (o.dispatched_at IS NULL OR o.dispatched_at < clock_timestamp() - $2 * interval '1 second')
        AND (c.learning_until IS NULL OR c.learning_until < clock_timestamp())
    ORDER BY o.not_before LIMIT $3 FOR UPDATE OF o SKIP LOCKED
)
RETURNING user_id, conversation_id
"""
RECONCILE = """
INSERT INTO outbox (user_id, conversation_id)
SELECT c.user_id, c.id FROM conversations c
WHERE c.learnt_seq < c.next_seq - 1 AND c.deleted_at IS NULL AND c.updated_at < now() - interval '1 minute'
    AND NOT EXISTS (SELECT FROM outbox o WHERE o.user_id = c.user_id AND o.conversation_id = c.id)
ORDER BY c.updated_at LIMIT 1000
ON CONFLICT (user_id, conversation_id) DO NOTHING
RETURNING 1
"""
BACKLOG = """
SELECT (SELECT count(*) FROM outbox),
    (SELECT coalesce(extract(epoch FROM now() - min(not_before)), 0) FROM outbox WHERE not_before <= now()),
    (SELECT count(*) FROM quarantine)
"""


async def read_backlog(connection: Connection) -> Backlog:
    """How much waits to be learnt from, over all users; for health and metrics. Wants a `Database.system()` connection."""
    waiting, oldest, quarantined = await connection.fetchrow(BACKLOG)  # type: ignore[misc]  # an aggregate has a row
    return Backlog(int(waiting), float(oldest), int(quarantined))


class Sweeper:
    def __init__(self, database: Database, send: Send, config: SweeperConfig | None = None) -> None:
        self._database = database
        self._send = send
        self._config = config or SweeperConfig()

    async def sweep(self) -> int:
        """Send what is due, once; gives how many wake-ups that were."""
        config = self._config
        async with self._database.system() as connection:
            rows = await connection.fetch(DUE, config.grace, config.again, config.batch)
        # after the commit: a wake-up of work that isn't there yet would be lost
        for row in rows:
            await self._send(row["user_id"], row["conversation_id"])
        SENT.inc(len(rows))
        return len(rows)

    async def reconcile(self) -> int:
        """Look for messages beyond the watermark that no outbox row speaks of. There should never be any."""
        async with self._database.system() as connection:
            repaired = len(await connection.fetch(RECONCILE))
            backlog = await read_backlog(connection)
        WAITING.set(backlog.waiting)
        OLDEST.set(backlog.oldest_seconds)
        QUARANTINED.set(backlog.quarantined)
        if repaired:
            REPAIRED.inc(repaired)
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
