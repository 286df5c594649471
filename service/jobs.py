"""Telling the learner that there is something to learn: through the queue, or within this process.

A wake-up carries two ids and promises nothing: the work is the outbox row in PostgreSQL, which a sweep sends again
when a wake-up is lost.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from typing import Protocol
from uuid import UUID

import structlog
from dramatiq import Broker

from memory.learning import LearnConfig, Learnt, catch_up
from memory.ports import Embedder, Reasoner
from memory.postgres import Database
from memory.transcript import read_route
from service.llm.reasoner import BackendReasoner
from service.metrics import WAKEUPS_LOST
from service.settings import Settings
from service.sweeper import Sweeper
from service.worker.broker import BrokerConfig, open_broker
from service.worker.tasks import MOST_TOGETHER, Spoken, learn_message

log = structlog.get_logger(__name__)

MOST_PENDING = 1000
"""Wake-ups that wait for a slow queue. What is beyond is left to the sweep."""
GATHER_SECONDS = 0.1

Learner = Callable[[UUID, UUID], Awaitable[Learnt]]


class Jobs(Protocol):
    """Work for later. Nothing here may fail or hold up the turn that asks for it."""

    async def wake_learner(self, user_id: UUID, conversation_id: UUID) -> None:
        """Say that a conversation has messages to learn from; call it after their commit. Never raises, never waits."""
        ...

    async def check(self) -> tuple[bool, str]:
        """Whether wake-ups go through, as far as the last one told, and what it means when they don't."""
        ...

    async def aclose(self) -> None: ...


class DramatiqJobs:
    """Sends from a thread of its own: `actor.send` is a blocking call of Redis, which would stop the event loop."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._sender = ThreadPoolExecutor(1, thread_name_prefix="wake-ups")
        self._pending: dict[Spoken, None] = {}
        self._sending = False
        self._closing = threading.Event()
        self._away = False
        self._lock = threading.Lock()

    async def wake_learner(self, user_id: UUID, conversation_id: UUID) -> None:
        with self._lock:
            if len(self._pending) >= MOST_PENDING:
                WAKEUPS_LOST.inc()
                return
            self._pending[user_id, conversation_id] = None
            if self._sending:
                return
            self._sending = True
        try:
            self._sender.submit(self._send_all)
        except RuntimeError:  # closed: the sweep of another process has it
            WAKEUPS_LOST.inc()

    def _send_all(self) -> None:
        """The first wake-up goes at once, those that follow it go together: each costs a millisecond, however many it names."""
        while True:
            with self._lock:
                wanted = list(islice(self._pending, MOST_TOGETHER))
                if not wanted:
                    self._sending = False
                    return
                for spoken in wanted:
                    del self._pending[spoken]
            self._send(wanted)
            if self._closing.wait(GATHER_SECONDS) and self._away:
                return

    def _send(self, wanted: Sequence[Spoken]) -> None:
        try:
            self._broker.enqueue(learn_message(wanted))
            self._away = False
        except Exception as error:  # noqa: BLE001  whatever the queue's trouble is, the sweep comes after it
            WAKEUPS_LOST.inc(len(wanted))
            if not self._away:
                log.warning("queue_away", error=type(error).__name__)
            self._away = True

    async def check(self) -> tuple[bool, str]:
        return not self._away, "learning waits in PostgreSQL until the queue is back" if self._away else ""

    async def aclose(self) -> None:
        """Send what is pending, if the queue takes it: it is swept up if not."""
        self._closing.set()
        await asyncio.to_thread(self._sender.shutdown)
        self._broker.close()


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


def make_learner(
    database: Database, embedder: Embedder, reasoner_on: Callable[[str], Reasoner], config: LearnConfig
) -> Learner:
    """Learning with the backends of the conversation's own route: nothing said there is shown to others."""

    async def learner(user_id: UUID, conversation_id: UUID) -> Learnt:
        async with database.as_user(user_id) as connection:
            route = await read_route(connection, user_id, conversation_id)
        return await catch_up(database, reasoner_on(route or "general"), embedder, user_id, conversation_id, config)

    return learner


def learn_config(settings: Settings) -> LearnConfig:
    return LearnConfig(batch=settings.learn_batch, attempts=settings.learn_attempts)
