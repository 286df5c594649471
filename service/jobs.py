"""Telling the learner that there is something to learn: through the queue, or within this process.

A wake-up carries two ids and promises nothing: the work is the outbox row in PostgreSQL, which a sweep sends again
when a wake-up is lost.
"""

import asyncio
from contextlib import suppress
from typing import Protocol
from uuid import UUID

import structlog

from memory.ports import Embedder
from memory.postgres import Database
from service.llm.reasoner import BackendReasoner
from service.metrics import WAKEUPS_LOST
from service.settings import Settings
from service.sweeper import Sweeper
from service.worker.broker import BrokerConfig, open_broker
from service.worker.learner import learn_config, make_learner
from service.worker.tasks import Learner
from service.worker.wakeups import MOST_PENDING, DramatiqJobs

log = structlog.get_logger(__name__)


class Jobs(Protocol):
    """Work for later. Nothing here may fail or hold up the turn that asks for it."""

    async def wake_learner(self, user_id: UUID, conversation_id: UUID) -> None:
        """Say that a conversation has messages to learn from; call it after their commit. Never raises, never waits."""
        ...

    async def check(self) -> tuple[bool, str]:
        """Whether wake-ups go through, as far as the last one told, and what it means when they don't."""
        ...

    async def aclose(self) -> None: ...


class LocalJobs:
    """Learns in this process, a few conversations at a time, and sweeps for itself: no queue, no worker."""

    def __init__(self, learner: Learner, *, concurrency: int = 2) -> None:
        self._learner = learner
        self._waiting: dict[tuple[UUID, UUID], None] = {}
        self._woken = asyncio.Event()
        self._tasks = [asyncio.create_task(self._work(), name=f"learner-{n}") for n in range(concurrency)]

    def sweep_with(self, sweeper: Sweeper) -> None:
        """Take over what earlier processes left, and what goes wrong here."""
        self._tasks.append(asyncio.create_task(sweeper.run(), name="sweeper"))

    async def wake_learner(self, user_id: UUID, conversation_id: UUID) -> None:
        if len(self._waiting) >= MOST_PENDING:
            WAKEUPS_LOST.inc()
            return
        self._waiting[user_id, conversation_id] = None
        self._woken.set()

    async def _work(self) -> None:
        while True:
            await self._woken.wait()
            if not self._waiting:
                self._woken.clear()
                continue
            key = next(iter(self._waiting))
            del self._waiting[key]
            try:
                learnt = await self._learner(*key)
            except Exception:
                log.exception("learning_failed", conversation_id=str(key[1]))
                continue
            if learnt.more and key not in self._waiting:
                await self.wake_learner(*key)

    async def check(self) -> tuple[bool, str]:
        return True, "in this process"

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task


def open_jobs(settings: Settings, database: Database, embedder: Embedder, reasoner: BackendReasoner) -> Jobs:
    """The queue when there is a Redis, else this process. Call it on the event loop that will use it."""
    if settings.redis_enabled:
        return DramatiqJobs(open_broker(BrokerConfig(settings.broker_url)))
    jobs = LocalJobs(make_learner(database, embedder, reasoner.on, learn_config(settings)))
    jobs.sweep_with(Sweeper(database, jobs.wake_learner))
    return jobs
