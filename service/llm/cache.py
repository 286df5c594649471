"""Answers to calls that hold nothing personal, kept by the exact text that was asked."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import orjson

from service.llm import metrics
from service.llm.ports import ChatRequest

Answer = TypeVar("Answer")


class AnswerCache(Generic[Answer]):
    """Least recently used answers go first; equal calls that run at once share one."""

    def __init__(self, *, entries: int = 512, lifetime: float = 3600.0, clock: Callable[[], float]) -> None:
        self._entries = entries
        self._lifetime = lifetime
        self._clock = clock
        self._answers: OrderedDict[str, tuple[float, Answer]] = OrderedDict()
        self._running: dict[str, asyncio.Lock] = {}
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._answers)

    @property
    def hit_rate(self) -> float:
        asked = self.hits + self.misses
        return self.hits / asked if asked else 0.0

    async def get(self, key: str, make: Callable[[], Awaitable[Answer]]) -> Answer:
        """Return the kept answer, or make and keep it; what raises is not kept."""
        async with self._running.setdefault(key, asyncio.Lock()):
            kept = self._answers.get(key)
            if kept is not None and self._clock() - kept[0] < self._lifetime:
                self._answers.move_to_end(key)
                self.hits += 1
                metrics.CACHE.labels("hit").inc()
                return kept[1]
            self.misses += 1
            metrics.CACHE.labels("miss").inc()
            try:
                answer = await make()
            finally:
                self._running.pop(key, None)
            self._answers[key] = (self._clock(), answer)
            self._answers.move_to_end(key)
            while len(self._answers) > self._entries:
                self._answers.popitem(last=False)
            return answer


def key_of(request: ChatRequest, *, backend: str, route: str) -> str:
    """Return a key under which only the very same question to the same backend is found."""
    parts = [
        backend,
        route,
        [(message.role, message.content) for message in request.messages],
        request.schema,
        request.max_tokens,
        request.temperature,
        request.stop,
        request.sampling,
        request.extra,
    ]
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()
