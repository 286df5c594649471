"""Where turns wait for one another when there are too many: in the order in which they came, and holding nothing."""

import asyncio

from service.chat.metrics import TURNS_WAITING


class Turnstile:
    """Lets so many through at once.

    Without it, turns that come to a full process wait at the pool of connections, whose patience ends with a refusal,
    with what they have already in their hands; and PostgreSQL is given more statements than it has processors for.
    """

    def __init__(self, place: str, at_once: int) -> None:
        self._places = asyncio.Semaphore(at_once)
        self._waiting = TURNS_WAITING.labels(place)

    async def __aenter__(self) -> None:
        if not self._places.locked():
            await self._places.acquire()
            return
        self._waiting.inc()
        try:
            await self._places.acquire()
        finally:
            self._waiting.dec()

    async def __aexit__(self, *_: object) -> None:
        self._places.release()
