"""The processes that work for later: the queue's worker, and the scheduler.

One process with threads each. Dramatiq's own launcher forks, and takes all its children down when one dies; here a
process that dies is started again by whoever supervises it (`rapport up`, compose, Kubernetes).
"""

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import FrameType
from typing import TypeVar
from uuid import UUID

import dramatiq
import structlog
from dramatiq.asyncio import get_event_loop_thread
from dramatiq.middleware import AsyncIO, Middleware, TimeLimit

from memory.learning import Learnt, catch_up
from service.jobs import learn_config
from service.runtime import open_runtime
from service.settings import Settings
from service.worker.broker import BrokerConfig, open_broker
from service.worker.schedule import run_schedule
from service.worker.tasks import QUEUE, Learner, declare_learn

Result = TypeVar("Result")

log = structlog.get_logger(__name__)

STOP_SECONDS = 20.0
"""What a running extraction gets at SIGTERM before it is cancelled; its work is then swept up by another worker."""

OpenLearner = Callable[[], AbstractAsyncContextManager[Learner]]


class LearnerOnLoop(Middleware):
    """Builds the learner on the worker's event loop before the first message, and closes it there after the last."""

    def __init__(self, open_learner: OpenLearner) -> None:
        self._open_learner = open_learner
        self._stack = AsyncExitStack()
        self._learner: Learner | None = None
        self._running: set[asyncio.Task[object]] = set()

    async def learn(self, user_id: UUID, conversation_id: UUID) -> Learnt:
        task = asyncio.current_task()
        assert self._learner is not None  # noqa: S101  the worker has booted
        assert task is not None  # noqa: S101
        self._running.add(task)
        try:
            return await self._learner(user_id, conversation_id)
        finally:
            self._running.discard(task)

    def interrupt(self) -> None:
        """Cancel what runs; each gives its conversation back. From any thread."""
        thread = get_event_loop_thread()
        for task in list(self._running):
            if thread is not None:
                thread.loop.call_soon_threadsafe(task.cancel)

    def before_worker_boot(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        self._learner = _on_loop(self._stack.enter_async_context(self._open_learner()))

    def after_worker_shutdown(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        _on_loop(self._stack.aclose())


def _on_loop(work: Awaitable[Result]) -> Result:
    thread = get_event_loop_thread()
    assert thread is not None  # noqa: S101  AsyncIO stands before us
    return thread.run_coroutine(work)


def work(broker_config: BrokerConfig, open_learner: OpenLearner, threads: int) -> int:
    """Take wake-ups from the queue until SIGTERM or SIGINT."""
    stopped = threading.Event()
    _on_signal(stopped.set)
    learner = LearnerOnLoop(open_learner)
    middleware = [AsyncIO(), learner, TimeLimit()]
    broker = open_broker(broker_config, middleware)
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
    broker.close()
    return 0


def _on_signal(stop: Callable[[], None]) -> None:
    def handle(number: int, _frame: FrameType | None) -> None:
        stop()
        signal.signal(number, signal.SIG_DFL)  # the second one ends us at once

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


def run_worker(settings: Settings) -> int:
    """Learn from what was said, by the queue's wake-ups, until told to stop; gives the exit status."""
    if not settings.redis_enabled:
        log.error("worker_needs_redis", hint="with REDIS_ENABLED=false the API process learns by itself")
        return 2

    @asynccontextmanager
    async def open_learner() -> AsyncIterator[Learner]:
        config = learn_config(settings)
        async with open_runtime(settings, writes_replies=False) as runtime:

            async def learner(user_id: UUID, conversation_id: UUID) -> Learnt:
                return await catch_up(
                    runtime.database, runtime.reasoner, runtime.embedder, user_id, conversation_id, config
                )

            yield learner

    return work(BrokerConfig(settings.broker_url), open_learner, settings.worker_threads)


def run_scheduler(settings: Settings) -> int:
    """Sweep, expire and audit at their times until told to stop; gives the exit status."""

    async def run() -> int:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        await run_schedule(settings, stopped)
        return 0

    return asyncio.run(run())
