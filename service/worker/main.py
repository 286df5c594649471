"""The processes that work for later: the queue's worker, and the scheduler.

One process with threads each. Dramatiq's own launcher forks, and takes all its children down when one dies; here a
process that dies is started again by whoever supervises it (`rapport up`, compose, Kubernetes).
"""

import asyncio
import logging
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import FrameType
from uuid import UUID

import dramatiq
import structlog
from dramatiq.asyncio import EventLoopThread, set_event_loop_thread
from dramatiq.middleware import TimeLimit
from prometheus_client import start_http_server

from memory.learning import Learnt
from memory.ports import Embedder, Reasoner
from memory.postgres import Database, PoolConfig
from service.llm.config import backends_file
from service.llm.pool import Backends
from service.llm.reasoner import BackendReasoner
from service.openers import open_backends, open_embedders
from service.policies import load_policies
from service.sealing import open_database
from service.settings import Settings
from service.worker.broker import BrokerConfig, open_broker
from service.worker.learner import learn_config, make_learner
from service.worker.polite import PoliteReasoner
from service.worker.schedule import run_schedule
from service.worker.tasks import QUEUE, Learner, declare_learn

log = structlog.get_logger(__name__)

STOP_SECONDS = 20.0
"""What a running extraction gets at SIGTERM before it is cancelled; its work is then swept up by another worker."""

OpenLearner = Callable[[], AbstractAsyncContextManager[Learner]]


class LearnerOnLoop:
    """The learner and the event loop it lives on, beside the worker's threads.

    Dramatiq's AsyncIO middleware would start the loop too, but swallows what goes wrong while the learner is built.
    """

    def __init__(self, open_learner: OpenLearner) -> None:
        self._stack = AsyncExitStack()
        self._running: set[asyncio.Task[object]] = set()
        self._thread = EventLoopThread(logging.getLogger(__name__))
        self._thread.start(timeout=5.0)
        set_event_loop_thread(self._thread)  # where Dramatiq runs async actors
        try:
            self._learner = self._thread.run_coroutine(self._stack.enter_async_context(open_learner()))
        except BaseException:
            self._thread.stop()  # type: ignore[no-untyped-call]
            raise

    async def learn(self, user_id: UUID, conversation_id: UUID) -> Learnt:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        self._running.add(task)
        try:
            return await self._learner(user_id, conversation_id)
        finally:
            self._running.discard(task)

    def interrupt(self) -> None:
        """Cancel what runs; each gives its conversation back. From any thread."""
        for task in list(self._running):
            self._thread.loop.call_soon_threadsafe(task.cancel)

    def close(self) -> None:
        self._thread.run_coroutine(self._stack.aclose())
        self._thread.stop()  # type: ignore[no-untyped-call]
        set_event_loop_thread(None)


def work(broker_config: BrokerConfig, open_learner: OpenLearner, threads: int) -> int:
    """Take wake-ups from the queue until SIGTERM or SIGINT. Raises what stands in the learner's way before it starts."""
    stopped = threading.Event()
    _on_signal(stopped.set)
    learner = LearnerOnLoop(open_learner)
    broker = open_broker(broker_config, [TimeLimit()])
    declare_learn(broker, learner.learn)
    worker = dramatiq.Worker(broker, queues={QUEUE}, worker_threads=threads, worker_timeout=200)
    worker.start()
    log.info("worker_started", threads=threads)
    stopped.wait()
    log.info("worker_stopping")
    patience = threading.Timer(STOP_SECONDS, learner.interrupt)
    patience.start()
    worker.stop(timeout=int(STOP_SECONDS * 1000) + 5000)
    patience.cancel()
    learner.close()
    broker.close()
    return 0


def _on_signal(stop: Callable[[], None]) -> None:
    def handle(number: int, _frame: FrameType | None) -> None:
        stop()
        signal.signal(number, signal.SIG_DFL)  # the second one ends us at once

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


def _expose(settings: Settings) -> None:
    """What this process counts, for Prometheus; the API answers for itself."""
    if settings.metrics_port:
        start_http_server(settings.metrics_port, addr=settings.host)


def run_worker(settings: Settings) -> int:
    """Learn from what was said, by the queue's wake-ups, until told to stop; gives the exit status."""
    if not settings.redis_enabled:
        log.error("worker_needs_redis", hint="with REDIS_ENABLED=false the API process learns by itself")
        return 2

    if backends_file(settings.llm_backends) is not None:
        # "read your configuration anew", and the file is looked at every two seconds; without this it would end us
        signal.signal(signal.SIGHUP, lambda _number, _frame: None)
    _expose(settings)
    return work(BrokerConfig(settings.broker_url), lambda: open_learner(settings), settings.worker_threads)


@dataclass(frozen=True, slots=True)
class Learning:
    """What learning needs, and no more: a worker holds no keys that sign or admit anybody, and writes no replies."""

    database: Database
    embedder: Embedder
    reasoner_on: Callable[[str], Reasoner]
    """The model that learns on a route."""


@asynccontextmanager
async def open_learning(settings: Settings) -> AsyncIterator[Learning]:
    async with AsyncExitStack() as stack:
        threads = settings.worker_threads
        database = open_database(settings, PoolConfig(settings.database_url.get_secret_value(), threads, threads))
        stack.push_async_callback(database.close)
        _, following = open_embedders(settings, database, stack)
        follow = asyncio.create_task(following.run(), name="embedding-model")
        stack.callback(follow.cancel)
        backends = open_backends(settings, database, load_policies(settings.routes_file), stack)
        yield Learning(database, following, _reasoner_on(settings, backends, database))


@asynccontextmanager
async def open_learner(settings: Settings) -> AsyncIterator[Learner]:
    async with open_learning(settings) as learning:
        yield make_learner(learning.database, learning.embedder, learning.reasoner_on, learn_config(settings))


def run_scheduler(settings: Settings) -> int:
    """Sweep, expire and audit at their times until told to stop; gives the exit status."""

    async def run() -> int:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        _expose(settings)
        await run_schedule(settings, stopped)
        return 0

    return asyncio.run(run())


def _reasoner_on(settings: Settings, backends: Backends, database: Database) -> Callable[[str], Reasoner]:
    reasoner = BackendReasoner(backends)
    if not settings.learn_politely:
        return reasoner.on
    return lambda route: PoliteReasoner(reasoner.on(route), database)
