"""An event for one who waits: without the queue of `asyncio.Event`, which takes more room than all else about it."""

import asyncio


class Wake:
    __slots__ = ("_is_set", "_waiter")

    def __init__(self) -> None:
        self._is_set = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        self._is_set = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def clear(self) -> None:
        self._is_set = False

    def waited(self) -> "asyncio.Future[None]":
        """Done when it is set. Whoever asks again before that gets the same one."""
        if self._waiter is None or self._waiter.done():
            self._waiter = asyncio.get_running_loop().create_future()
        if self._is_set:
            self._waiter.set_result(None)
        return self._waiter

    async def wait(self) -> None:
        if not self._is_set:
            await self.waited()
