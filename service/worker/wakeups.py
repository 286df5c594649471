"""Wake-ups sent through the queue: they name what there is to learn from, and may be lost."""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from uuid import UUID

import structlog
from dramatiq import Broker

from service.metrics import WAKEUPS_LOST
from service.worker.tasks import MOST_TOGETHER, Spoken, learn_message

log = structlog.get_logger(__name__)

MOST_PENDING = 1000
"""Wake-ups that wait for a slow queue. What is beyond is left to the sweep."""
GATHER_SECONDS = 0.1


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
