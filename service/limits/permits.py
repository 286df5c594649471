"""How many streams are open at once, for a user and for an address, over all instances."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import uuid4

from service.limits.errors import TooManyStreamsError
from service.limits.metrics import LIMIT_FALLBACKS, OPEN_STREAMS, RATE_LIMITED
from service.limits.windows import SCRIPTS
from sessions.keys import streams_key
from sessions.link import RedisLink
from sessions.servers import Call, Script


class Permits:
    def __init__(self, link: RedisLink | None, lease: float = 45.0) -> None:
        """A dead instance's permits lapse after `lease` seconds; living ones renew theirs every third of it."""
        self._link = link
        self._lease = lease
        self._script = Script((SCRIPTS / "permits.lua").read_text())
        self._here: Counter[str] = Counter()
        self._held: dict[str, list[str]] = {}
        self._renewer: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def hold(self, holders: Sequence[tuple[str, int]]) -> AsyncIterator[None]:
        """One permit under each (holder, limit) while the block runs. Raises `TooManyStreamsError`."""
        permit = uuid4().hex
        keys = [streams_key(holder) for holder, _ in holders]
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
        lease = int(self._lease * 1000)
        calls = [self._script.call([key], [permit, lease, limit]) for key, limit in zip(keys, limits, strict=True)]
        self._held[permit] = keys
        try:
            answers = await self._link.ask(calls)
        except BaseException:
            await asyncio.shield(self._give_back(permit))
            raise
        if 0 in answers:
            await asyncio.shield(self._give_back(permit))
            raise _full()
        counted = [key for key, answer in zip(keys, answers, strict=True) if answer == 1]
        if len(counted) < len(keys):
            # a user who can't be counted may still chat: this process's own count holds
            LIMIT_FALLBACKS.labels("stream", "local").inc()
        if not counted:
            del self._held[permit]
            return False
        self._held[permit] = counted
        if self._renewer is None:
            self._renewer = asyncio.create_task(self._renew())
        return True

    async def _give_back(self, permit: str) -> None:
        keys = self._held.pop(permit, None)
        if keys is None or self._link is None:
            return
        await self._link.ask([Call(key, ("ZREM", key, permit)) for key in keys])  # lost, it lapses by itself

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._lease / 3)
            if self._link is None or not self._held:
                continue
            # a limit nobody reaches: what is open stays open, whatever Redis lost meanwhile
            lease = int(self._lease * 1000)
            held = [(permit, key) for permit, keys in self._held.items() for key in keys]
            await self._link.ask([self._script.call([key], [permit, lease, 1_000_000]) for permit, key in held])


def _full() -> TooManyStreamsError:
    RATE_LIMITED.labels("stream", "streams").inc()
    return TooManyStreamsError("Too many replies are being followed at once. Close one and try again.", retry_after=5)
