"""One connection to Redis that all of this process shares: what is asked in one turn of the event loop travels together.

redis-py opens it (address, TLS, password, Sentinels) and hiredis reads it; between them a command costs a third of what
a pooled client takes, which was a fifth of a whole turn (docs/performance.md). Answers come in the order of the
questions, so that somebody who stops waiting for theirs takes nothing from anybody else.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

KINDS = {
    "ASK": AskError,
    "CLUSTERDOWN": ClusterDownError,
    "MOVED": MovedError,
    "NOPERM": NoPermissionError,
    "NOSCRIPT": NoScriptError,
    "OOM": OutOfMemoryError,
    "READONLY": ReadOnlyError,
    "TRYAGAIN": TryAgainError,
}
"""Refusals that something is done about, by their first word; redis-py's classes for them hold the rest."""
SECOND_LOOK = 0.05
"""Seconds between finding that an answer is late and giving it up: on a busy event loop it lies in the socket, unread."""


class _Question(NamedTuple):
    commands: int
    answered: asyncio.Future[list[Any]]
    since: float


class Pipe(asyncio.Protocol):
    """Commands go in, answers come out in their order; a connection that breaks fails all that wait on it."""

    def __init__(self, connection: AbstractConnection, patience: float) -> None:
        """`connection` is connected, and nobody else's from here on. It breaks when an answer takes `patience` seconds.

        One timer for all questions: one for each was a tenth of what they cost.
        """
        writer = connection._writer  # noqa: SLF001  the library has no way of handing its socket over
        if writer is None:
            raise RedisConnectionError("not connected")
        self._connection = connection
        self._transport = writer.transport
        self._reader = hiredis.Reader(replyError=_refusal)
        self._patience = patience
        self._asked: deque[_Question] = deque()
        self._got: list[Any] = []
        self._out: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._late: _Question | None = None
        self.broken = self._transport.is_closing()
        self._transport.set_protocol(self)

    def ask(self, commands: Sequence[Sequence[Any]]) -> asyncio.Future[list[Any]]:
        """Answers in order; a refused command's is its exception. The future fails when the connection breaks, with
        `TimeoutError` when that is for want of an answer."""
        answered: asyncio.Future[list[Any]] = self._loop.create_future()
        if self.broken:
            answered.set_exception(RedisConnectionError("the connection is gone"))
            return answered
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out += [hiredis.pack_command(tuple(words)) for words in commands]
        self._asked.append(_Question(len(commands), answered, self._loop.time()))
        if self._timer is None:
            self._timer = self._loop.call_later(self._patience, self._look)
        return answered

    def close(self) -> None:
        """Break the connection now, with whatever waits on it."""
        self._break(RedisConnectionError, "the connection broke")

    def _look(self) -> None:
        self._timer = None
        if self.broken or not self._asked:
            return
        oldest = self._asked[0]
        left = oldest.since + self._patience - self._loop.time()
        if left <= 0 and self._late is oldest:
            self._break(TimeoutError, f"Redis has not answered for {self._patience:g} s")
            return
        if left <= 0:
            self._late, left = oldest, SECOND_LOOK
        self._timer = self._loop.call_later(left, self._look)

    def _break(self, kind: type[Exception], text: str) -> None:
        self._transport.abort()
        self._lost(kind, text)

    def _flush(self) -> None:
        if not self.broken:
            self._transport.write(b"".join(self._out))
        self._out.clear()

    # --- as the transport calls it

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (answer := self._reader.gets()) is not False:
                self._take(answer)
        except hiredis.ProtocolError:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's name for it
        self._lost(RedisConnectionError, "the connection broke")

    def _lost(self, kind: type[Exception], text: str) -> None:
        self.broken = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._connection._reader = self._connection._writer = None  # noqa: SLF001  or it warns that nobody closed it
        asked, self._asked = self._asked, deque()
        for question in asked:
            if not question.answered.done():
                question.answered.set_exception(kind(text))

    def _take(self, answer: Any) -> None:
        if not self._asked:
            self.close()  # it says what nobody asked for: whose answers come next can't be known
            return
        self._got.append(answer)
        if len(self._got) == self._asked[0].commands:
            answered = self._asked.popleft().answered
            got, self._got = self._got, []
            if not answered.done():
                answered.set_result(got)


def _refusal(text: str) -> Exception:
    word, _, rest = text.partition(" ")
    kind = KINDS.get(word)
    return ResponseError(text) if kind is None else kind(rest)
