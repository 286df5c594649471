"""Sliding-window counters, in Redis for all instances and in memory for one. Both count alike."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.limits.config import Window
from sessions.errors import LiveStateUnavailableError
from sessions.keys import limit_key
from sessions.link import RedisLink
from sessions.servers import Script

SCRIPTS = Path(__file__).parent / "scripts"


@dataclass(frozen=True, slots=True)
class Count:
    """What one window says after a request."""

    window: Window
    remaining: int
    wait: float
    """Seconds until there is room for one more; 0 when there is."""


class MemoryWindows:
    """Counters of this process."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._counts: dict[tuple[str, str], tuple[int, int, int, float]] = {}
        self._swept_at = clock()

    def hit(self, holder: str, windows: Sequence[Window], share: int = 1) -> tuple[bool, list[Count]]:
        """Count a request in all windows or in none; `share` divides what each allows."""
        now = self._clock()
        self._sweep(now)
        counts, found, allowed = [], [], True
        for window in windows:
            amount = max(1, window.amount // share)
            bucket, elapsed = divmod(now, window.seconds)
            b, current, previous, _ = self._counts.get((holder, window.name), (-1, 0, 0, 0.0))
            if b != bucket:
                previous, current = (current if b == bucket - 1 else 0), 0
            used = previous * (window.seconds - elapsed) / window.seconds + current
            wait = _wait(amount, window.seconds, elapsed, current, previous) if used + 1 > amount else 0.0
            allowed = allowed and used + 1 <= amount
            found.append((int(bucket), current, previous))
            counts.append(Count(window, max(0, math.floor(amount - used)), wait))
        if not allowed:
            return False, counts
        for window, (bucket, current, previous) in zip(windows, found, strict=True):
            self._counts[holder, window.name] = (bucket, current + 1, previous, now + 2 * window.seconds)
        return True, [Count(count.window, max(0, count.remaining - 1), 0.0) for count in counts]

    def _sweep(self, now: float) -> None:
        if now - self._swept_at > 60:
            self._swept_at = now
            self._counts = {key: count for key, count in self._counts.items() if count[3] > now}


def _wait(amount: int, period: float, elapsed: float, current: int, previous: int) -> float:
    if current + 1 <= amount:
        return period - (amount - 1 - current) * period / previous - elapsed
    return 2 * period - elapsed - (amount - 1) * period / current


class RedisWindows:
    """Counters that all instances share. Raises `LiveStateUnavailableError` while Redis is away."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._script = Script((SCRIPTS / "windows.lua").read_text())

    async def hit(self, holders: Sequence[tuple[str, Sequence[Window]]]) -> tuple[bool, list[Count]]:
        """Count a request for each holder in all its windows or in none: one round trip.

        Holders live on different nodes of a cluster, so each decides for itself.
        """
        calls = [
            self._script.call(
                [limit_key(holder, window.name) for window in windows],
                [number for window in windows for number in (window.amount, window.seconds * 1000)],
            )
            for holder, windows in holders
        ]
        answers = await self._link.ask(calls)
        allowed, counts = True, []
        for (_, windows), answer in zip(holders, answers, strict=True):
            if isinstance(answer, LiveStateUnavailableError):
                raise answer
            allowed = allowed and answer[0] == 1
            counts += [Count(window, answer[2 * i + 1], answer[2 * i + 2] / 1000) for i, window in enumerate(windows)]
        return allowed, counts
