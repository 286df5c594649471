"""Answers to calls that hold nothing personal, kept by the exact text that was asked."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

import orjson

from service.llm import metrics
from service.llm.ports import ChatRequest
from sessions.answers import RedisAnswers

Answer = TypeVar("Answer")


class Codec(Protocol[Answer]):
    """How an answer is written on a shelf. What can't be read is a `ValueError`, and made anew."""

    def encode(self, answer: Answer) -> bytes: ...

    def decode(self, data: bytes) -> Answer: ...


class AnswerCache(Generic[Answer]):
    """Least recently used answers go first; equal calls that run at once share one.

    Answers of other instances come from the `shelf`, and are not kept here: so none lives longer than there.
    """

    def __init__(
        self,
        *,
        entries: int = 512,
        lifetime: float = 3600.0,
        clock: Callable[[], float],
        shelf: RedisAnswers | None = None,
    ) -> None:
        self._shelf = shelf
        self._entries = entries
        self._lifetime = lifetime
        self._clock = clock
        self._answers: OrderedDict[str, tuple[float, Answer]] = OrderedDict()
        self._running: dict[str, asyncio.Lock] = {}
        self.hits = 0
        self.shared_hits = 0
        """Of the hits, those that another instance had made (or this one, before it was restarted)."""
        self.misses = 0

    def __len__(self) -> int:
        return len(self._answers)

    @property
    def hit_rate(self) -> float:
        asked = self.hits + self.misses
        return self.hits / asked if asked else 0.0

    async def get(self, key: str, make: Callable[[], Awaitable[Answer]], codec: Codec[Answer] | None = None) -> Answer:
        """Return the kept answer, or make and keep it; what raises is not kept. Without a codec nothing is shared."""
        async with self._running.setdefault(key, asyncio.Lock()):
            try:
                kept = self._answers.get(key)
                if kept is not None and self._clock() - kept[0] < self._lifetime:
                    self._answers.move_to_end(key)
                    self.hits += 1
                    metrics.CACHE.labels("hit").inc()
                    return kept[1]
                if found := await self._shared(key, codec):
                    return found[0]
                self.misses += 1
                metrics.CACHE.labels("miss").inc()
                answer = await make()
                self._answers[key] = (self._clock(), answer)
                self._answers.move_to_end(key)
            finally:
                self._running.pop(key, None)
            while len(self._answers) > self._entries:
                self._answers.popitem(last=False)
        if self._shelf is not None and codec is not None:
            await self._shelf.put(bytes.fromhex(key), codec.encode(answer))
        return answer

    async def _shared(self, key: str, codec: Codec[Answer] | None) -> tuple[Answer] | None:
        if self._shelf is None or codec is None:
            return None
        data = await self._shelf.get(bytes.fromhex(key))
        if data is None:
            return None
        try:
            answer = codec.decode(data)
        except ValueError:
            return None  # written by a release that writes otherwise
        self.hits += 1
        self.shared_hits += 1
        metrics.CACHE.labels("shared").inc()
        return (answer,)


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
