"""Check a request against its limits: Redis counts for all instances; without it each allows its share."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from service.limits.addresses import is_loopback
from service.limits.config import CLOSED, LimitsConfig, Window
from service.limits.errors import LimitsUnavailableError, RateLimitedError
from service.limits.metrics import LIMIT_FALLBACKS, RATE_LIMITED
from service.limits.permits import Permits
from service.limits.windows import Count, MemoryWindows, RedisWindows
from service.principal import Principal
from sessions.config import RedisConfig
from sessions.errors import LiveStateUnavailableError
from sessions.link import RedisLink


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left in the tightest window, told to the caller in the RateLimit header fields."""

    window: Window
    remaining: int
    reset: int
    """Seconds until there is certainly room."""

    @property
    def headers(self) -> dict[str, str]:
        return {
            "RateLimit-Limit": str(self.window.amount),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(self.reset),
            "RateLimit-Policy": f"{self.window.amount};w={self.window.seconds}",
        }


class Limits:
    """All limits of one process. Holds a connection pool of its own, so that a slow neighbour can't make it wait."""

    def __init__(self, config: LimitsConfig, clock: Callable[[], float] = time.time) -> None:
        self._config = config
        self._local = MemoryWindows(clock)
        self._link: RedisLink | None = None
        self._shared: RedisWindows | None = None
        if config.redis_url is not None:
            redis = RedisConfig(config.redis_url, timeout=config.timeout, rest=config.rest)
            self._link = RedisLink(redis)
            self._shared = RedisWindows(self._link)
        self._permits = Permits(self._link)

    async def open(self) -> None:
        """Have a connection at hand, so that the first to sign in aren't refused for want of one."""
        if self._link is not None:
            await self._link.warm()

    async def aclose(self) -> None:
        await self._permits.aclose()
        if self._link is not None:
            await self._link.aclose()

    async def check(self, principal: Principal | None, address: str, kind: str) -> Allowance | None:
        """Count one request of this kind. At most one round trip; None when nothing limits it.

        Raises `RateLimitedError`; for what must stay closed without Redis, `LimitsUnavailableError`.
        """
        holders = self._holders(principal, address, kind)
        if not holders:
            return None
        allowed, counts = await self._count(holders, kind)
        if allowed:
            return _allowance(min(counts, key=lambda count: count.remaining / count.window.amount))
        worst = max(counts, key=lambda count: count.wait)
        RATE_LIMITED.labels(kind, worst.window.name.partition(":")[0]).inc()
        allowance = _allowance(worst)
        raise RateLimitedError(
            f"At most {worst.window.amount} of these in {_words(worst.window.seconds)}. Wait {allowance.reset} s.",
            retry_after=allowance.reset,
            headers={**allowance.headers, "RateLimit-Remaining": "0"},
        )

    async def admit(self, principal: Principal, address: str, kind: str) -> "Admission":
        """Count a request whose answer is a stream, and hold one of the caller's streams until the answer has ended.

        Raises what `check` raises, or `TooManyStreamsError`. Close it, however the request ends.
        """
        checking = asyncio.ensure_future(self.check(principal, address, kind))  # beside the permit: one round trip
        permit = self.stream(principal, address)
        admission: Admission | None = None
        try:
            await permit.__aenter__()
            admission = Admission(permit)
            admission.tell(await checking)
        except BaseException:
            checking.cancel()
            await asyncio.gather(checking, return_exceptions=True)
            if admission is not None:
                await asyncio.shield(admission.aclose())
            raise
        return admission

    def stream(self, principal: Principal, address: str) -> AbstractAsyncContextManager[None]:
        """Hold one of the user's and of the address's streams while the block runs. Raises `TooManyStreamsError`."""
        holders = [(f"user:{principal.user_id}", self._config.streams_per_user)]
        if not principal.via_server and not is_loopback(address):
            holders.append((f"address:{address}", self._config.streams_per_address))
        return self._permits.hold(holders)

    def _holders(self, principal: Principal | None, address: str, kind: str) -> list[tuple[str, list[Window]]]:
        windows = [window for window in self._config.windows[kind] if _concerns(window, principal)]
        users = [window for window in windows if window.by == "user"]
        # the one address of a server, or of a proxy on this machine that forwards nobody's, stands for all its users
        by_address = principal is None or not (principal.via_server or is_loopback(address))
        addresses = [window for window in windows if window.by == "address" and by_address]
        found = [(f"user:{principal.user_id}", users)] if principal and users else []
        return [*found, (f"address:{address}", addresses)] if addresses else found

    async def _count(self, holders: Sequence[tuple[str, list[Window]]], kind: str) -> tuple[bool, list[Count]]:
        share = 1
        if self._shared is not None:
            try:
                return await self._shared.hit(holders)
            except LiveStateUnavailableError as error:
                if kind in CLOSED:
                    LIMIT_FALLBACKS.labels(kind, "closed").inc()
                    raise LimitsUnavailableError("Not possible at the moment. Try again.", retry_after=5) from error
                LIMIT_FALLBACKS.labels(kind, "local").inc()
                share = self._config.instances
        allowed = True
        counts: list[Count] = []
        for holder, windows in holders:
            ok, found = self._local.hit(holder, windows, share)
            allowed, counts = allowed and ok, counts + found
        return allowed, counts


class Admission:
    """A stream that may begin."""

    def __init__(self, permit: AbstractAsyncContextManager[None]) -> None:
        """`permit` was entered."""
        self.headers: list[tuple[bytes, bytes]] = []
        self._permit: AbstractAsyncContextManager[None] | None = permit

    def tell(self, allowance: Allowance | None) -> None:
        """What the answer's headers say."""
        told = allowance.headers if allowance is not None else {}
        self.headers = [(name.lower().encode(), value.encode()) for name, value in told.items()]

    async def aclose(self) -> None:
        """Free the caller's stream. Closing twice is fine."""
        permit, self._permit = self._permit, None
        if permit is not None:
            await permit.__aexit__(None, None, None)


def _concerns(window: Window, principal: Principal | None) -> bool:
    if window.who == "anybody":
        return True
    return principal is not None and principal.anonymous == (window.who == "anonymous")


def _allowance(count: Count) -> Allowance:
    return Allowance(count.window, count.remaining, math.ceil(count.wait) if count.wait > 0 else count.window.seconds)


def _words(seconds: int) -> str:
    for length, name in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds % length == 0:
            return f"a {name}" if seconds == length else f"{seconds // length} {name}s"
    return f"{seconds} s"
