"""A reply that is being written in this process, as its local readers see it."""

import asyncio
from collections.abc import Sequence

from sessions.replies import Event, Log


class LiveReply:
    """All events shown so far. Readers here need no Redis; if the writing moves elsewhere, they follow the log."""

    def __init__(self, log: Log, events: Sequence[Event] = ()) -> None:
        self.log = log
        self.events: list[Event] = list(events)
        self.ended = False
        """The last event is a terminal one."""
        self.abandoned = False
        """Somebody else writes on."""
        self._waiting: list[asyncio.Future[None]] = []

    def publish(self, events: Sequence[Event], *, last: bool = False) -> None:
        self.events.extend(events)
        self.ended = self.ended or last
        self._wake()

    def abandon(self) -> None:
        self.abandoned = True
        self._wake()

    async def changed(self) -> None:
        """Return at the next publication."""
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        await waiting

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.done():
                one.set_result(None)
