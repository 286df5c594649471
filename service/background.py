"""What runs for as long as its process: tasks that never end by themselves, and are noticed when one does."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import structlog

from service.metrics import TASKS_ENDED

log = structlog.get_logger(__name__)


class Background:
    """Nobody waits for these tasks: without a look at how they end, a process would go on as if all were well."""

    def __init__(self) -> None:
        self.ended: dict[str, bool] = {}
        """Names of tasks that ended by themselves, and whether no turns can be taken without them."""
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False

    def start(self, name: str, work: Coroutine[Any, Any, None], *, required: bool = False) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.append(task)
        task.add_done_callback(lambda task: self._has_ended(task, required=required))

    def _has_ended(self, task: asyncio.Task[None], *, required: bool) -> None:
        if self._closing:
            return
        name = task.get_name()
        self.ended[name] = required
        TASKS_ENDED.labels(name).set(1)
        log.error("background_task_ended", task=name, exc_info=None if task.cancelled() else task.exception())

    async def aclose(self) -> None:
        self._closing = True
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            # how a task failed that had ended before was told then
            with suppress(asyncio.CancelledError, Exception):
                await task
