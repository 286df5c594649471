"""How many calls a backend takes at once; the others wait in the order in which they came."""

import asyncio
from collections import deque
from collections.abc import Callable

OnPosition = Callable[[int], None]


class QueueFullError(Exception):
    """More are waiting than it makes sense to let wait."""


class Permits:
    """A fair semaphore that tells each waiter its place: 1 is next."""

    def __init__(self, limit: int, *, max_waiting: int | None = None) -> None:
        self.limit = limit
        self.in_use = 0
        self._max_waiting = max_waiting if max_waiting is not None else max(64, limit * 16)
        self._waiting: deque[tuple[asyncio.Future[None], OnPosition | None]] = deque()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def is_free(self) -> bool:
        return self.in_use < self.limit and not self._waiting

    async def acquire(self, on_position: OnPosition | None = None) -> None:
        """Wait for a permit; `on_position` hears the place in the queue now and whenever it changes."""
        if self.is_free:
            self.in_use += 1
            return
        if len(self._waiting) >= self._max_waiting:
            raise QueueFullError(f"{len(self._waiting)} calls are waiting")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, on_position))
        if on_position is not None:
            on_position(len(self._waiting))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()
            else:
                self._forget(turn)
            raise

    def release(self) -> None:
        self.in_use -= 1
        self._admit()

    def _admit(self) -> None:
        admitted = False
        while self._waiting and self.in_use < self.limit:
            turn, _ = self._waiting.popleft()
            if not turn.done():
                self.in_use += 1
                turn.set_result(None)
                admitted = True
        if admitted:
            self._tell()

    def _forget(self, turn: asyncio.Future[None]) -> None:
        self._waiting = deque(entry for entry in self._waiting if entry[0] is not turn)
        self._tell()

    def _tell(self) -> None:
        for place, (_, on_position) in enumerate(self._waiting, 1):
            if on_position is not None:
                on_position(place)
