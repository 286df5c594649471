"""How many streams are open at once, for a user and for an address, over all instances."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from uuid import uuid4

import redis.asyncio

from service.limits.errors import TooManyStreamsError
from service.limits.metrics import LIMIT_FALLBACKS, OPEN_STREAMS, RATE_LIMITED
from service.limits.windows import SCRIPTS, Script
from sessions.errors import LiveStateUnavailableError
from sessions.link import RedisLink


class Permits:
    def __init__(self, link: RedisLink | None, lease: float = 45.0) -> None:
        """A dead instance's permits lapse after `lease` seconds; living ones renew theirs every third of it."""
        self._link = link
        self._lease = lease
        self._script = Script(SCRIPTS / "permits.lua")
        self._here: Counter[str] = Counter()
        self._held: dict[str, list[str]] = {}
        self._renewer: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def hold(self, holders: Sequence[tuple[str, int]]) -> AsyncIterator[None]:
        """One permit under each (holder, limit) while the block runs. Raises `TooManyStreamsError`."""
        permit = uuid4().hex
        keys = [f"streams:{{{holder}}}" for holder, _ in holders]
        # this process's own count is exact and free; Redis is asked only for what the others hold
        for key, (_, limit) in zip(keys, holders, strict=True):
            if self._here[key] >= limit:
                raise _full()
        self._here.update(keys)
        OPEN_STREAMS.inc()
        try:
            shared = await self._take(permit, keys, [limit for _, limit in holders])
            try:
                yield
            finally:
                if shared:
                    await asyncio.shield(self._give_back(permit))
        finally:
            OPEN_STREAMS.dec()
            self._here.subtract(keys)
            for key in keys:
                if self._here[key] <= 0:
                    del self._here[key]

    async def aclose(self) -> None:
        if self._renewer is not None:
            self._renewer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._renewer
        for permit in list(self._held):
            await self._give_back(permit)

    async def _take(self, permit: str, keys: list[str], limits: list[int]) -> bool:
        if self._link is None:
            return False
        calls = [([key], [permit, int(self._lease * 1000), limit]) for key, limit in zip(keys, limits, strict=True)]
        self._held[permit] = keys
        try:
            answers = await self._link.run(lambda client: self._script.run(client, calls))
        except LiveStateUnavailableError:
            # a user who can't be counted may still chat: this process's own count holds
            del self._held[permit]
            LIMIT_FALLBACKS.labels("stream", "local").inc()
            return False
        except BaseException:
            await asyncio.shield(self._give_back(permit))
            raise
        if not all(answers):
            await asyncio.shield(self._give_back(permit))
            raise _full()
        if self._renewer is None:
            self._renewer = asyncio.create_task(self._renew())
        return True

    async def _give_back(self, permit: str) -> None:
        keys = self._held.pop(permit, None)
        if keys is None or self._link is None:
            return

        async def remove(client: redis.asyncio.Redis) -> None:
            pipeline = client.pipeline(transaction=False)
            for key in keys:
                pipeline.zrem(key, permit)
            await pipeline.execute()

        with contextlib.suppress(LiveStateUnavailableError):  # it lapses by itself
            await self._link.run(remove)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._lease / 3)
            if self._link is None or not self._held:
                continue
            # a limit nobody reaches: what is open stays open, whatever Redis lost meanwhile
            lease = int(self._lease * 1000)
            calls = [([key], [permit, lease, 1_000_000]) for permit, keys in self._held.items() for key in keys]
            with contextlib.suppress(LiveStateUnavailableError):
                await self._link.run(partial(self._script.run, calls=calls))


def _full() -> TooManyStreamsError:
    RATE_LIMITED.labels("stream", "streams").inc()
    return TooManyStreamsError("Too many replies are being followed at once. Close one and try again.", retry_after=5)
