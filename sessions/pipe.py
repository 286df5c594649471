"""One connection to Redis that all of this process shares: what is asked in one turn of the event loop travels together.

redis-py opens it (address, TLS, password, Sentinels) and hiredis reads it; between them a command costs a third of what
a pooled client takes, which was a fifth of a whole turn (docs/performance.md). Answers come in the order of the
questions, so that somebody who stops waiting for theirs takes nothing from anybody else.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

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


class Pipe(asyncio.Protocol):
    """Commands go in, answers come out in their order; a connection that breaks fails all that wait on it."""

    def __init__(self, connection: AbstractConnection) -> None:
        """`connection` is connected, and nobody else's from here on."""
        writer = connection._writer  # noqa: SLF001  the library has no way of handing its socket over
        if writer is None:
            raise RedisConnectionError("not connected")
        self._connection = connection
        self._transport = writer.transport
        self._reader = hiredis.Reader(replyError=_refusal)
        self._asked: deque[tuple[int, asyncio.Future[list[Any]]]] = deque()
        self._got: list[Any] = []
        self._out: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self.broken = self._transport.is_closing()
        self._transport.set_protocol(self)

    def ask(self, commands: Sequence[Sequence[Any]]) -> asyncio.Future[list[Any]]:
        """Answers in order; a refused command's is its exception. The future fails when the connection breaks."""
        answered: asyncio.Future[list[Any]] = self._loop.create_future()
        if self.broken:
            answered.set_exception(RedisConnectionError("the connection is gone"))
            return answered
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out += [hiredis.pack_command(tuple(words)) for words in commands]
        self._asked.append((len(commands), answered))
        return answered

    def close(self) -> None:
        """Break the connection now, with whatever waits on it."""
        self._transport.abort()
        self.connection_lost(None)

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
        self.broken = True
        self._connection._reader = self._connection._writer = None  # noqa: SLF001  or it warns that nobody closed it
        asked, self._asked = self._asked, deque()
        for _, answered in asked:
            if not answered.done():
                answered.set_exception(RedisConnectionError("the connection broke"))

    def _take(self, answer: Any) -> None:
        if not self._asked:
            self.close()  # it says what nobody asked for: whose answers come next can't be known
            return
        self._got.append(answer)
        count, answered = self._asked[0]
        if len(self._got) == count:
            self._asked.popleft()
            got, self._got = self._got, []
            if not answered.done():
                answered.set_result(got)


def _refusal(text: str) -> Exception:
    word, _, rest = text.partition(" ")
    kind = KINDS.get(word)
    return ResponseError(text) if kind is None else kind(rest)
