"""Server-sent events as a response: one write per batch, pings, and a deadline for readers that never read."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.chat.events import PING
from service.chat.metrics import READERS
from service.limits import Admission
from sessions.replies import Event

PING_SECONDS = 15.0
SEND_SECONDS = 20.0
"""A reader that takes nothing for so long is dropped; it can come back and resume."""
LOOK_SECONDS = 1.0
"""Between looks at who needs a ping and who is stuck."""

HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
    (b"connection", b"keep-alive"),
)


class EventStream(Response):
    """An ASGI response that writes each batch of `source` with `encode`, in one piece.

    Own code because a stream's cost per token is the service's: the usual package adds a fifth to it, and has no
    deadline for writes unless asked (docs/decisions). A reader that leaves stops reading; it never stops the writer.
    """

    def __init__(
        self,
        source: AsyncIterator[Sequence[Event]],
        encode: Callable[[Event], bytes],
        *,
        headers: Sequence[tuple[bytes, bytes]] = (),
        tail: bytes = b"",
        admission: Admission | None = None,
    ) -> None:
        """`admission` is told in the headers, and closed when the stream has ended."""
        super().__init__()
        self._source = source
        self._encode = encode
        self._head = [*HEADERS, *headers]
        self._tail = tail
        self._admission = admission
        if admission is not None:
            self._head += admission.headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  as ASGI calls it
        READERS.inc()
        line = _Line(send)
        gone = asyncio.create_task(_disconnected(receive), name="event-stream-reader")
        gone.add_done_callback(line.leave)
        _watch.add(line)
        try:
            await self._pump(line)
        except asyncio.CancelledError:
            if not line.is_left_alone():
                raise
        finally:
            READERS.dec()
            line.over = True
            _watch.discard(line)
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
            if self._admission is not None:
                await asyncio.shield(self._admission.aclose())

    async def _pump(self, line: "_Line") -> None:
        await line.write({"type": "http.response.start", "status": 200, "headers": self._head})
        async for batch in self._source:
            # in no variable of this frame: it would be kept until the next batch comes, which may take a minute
            await line.say(b"".join(map(self._encode, batch)))
        await line.write({"type": "http.response.body", "body": self._tail, "more_body": False})


class _Line:
    """One reader's connection. Its pings and its deadline are looked after beside the writing, which they cost nothing:
    a timer for each batch took as long as the batch itself."""

    def __init__(self, send: Send) -> None:
        """Made in the task that will write."""
        self._send = send
        self._clock = asyncio.get_running_loop().time
        self._writer = asyncio.current_task()
        self._since = self._clock()
        """When the current write began, or the last one ended."""
        self._writing = False
        self._pinging: asyncio.Task[None] | None = None
        self._left = False
        self.over = False
        """Nothing is written any more."""

    async def say(self, body: bytes) -> None:
        if body:
            await self.write({"type": "http.response.body", "body": body, "more_body": True})

    async def write(self, message: dict[str, object]) -> None:
        if self._pinging is not None:
            await asyncio.wait((self._pinging,))
        self._writing = True
        self._since = self._clock()
        await self._send(message)
        self._since = self._clock()
        self._writing = False

    def look(self, now: float) -> None:
        """Ping a quiet reader; leave one that takes nothing any more."""
        waited = now - self._since
        if self._pinging is not None or self._writing:
            if waited >= SEND_SECONDS:
                self.leave()
        elif waited >= PING_SECONDS:
            self._since = now
            self._pinging = asyncio.create_task(self._ping(), name="event-stream-ping")

    async def _ping(self) -> None:
        try:
            await self._send({"type": "http.response.body", "body": PING, "more_body": True})
        finally:
            self._pinging = None

    def leave(self, _gone: object = None) -> None:
        """End the writing: nobody reads."""
        if self._writer is not None and not self.over and not self._left:
            self._left = True
            self._writer.cancel()
            if self._pinging is not None:
                self._pinging.cancel()

    def is_left_alone(self) -> bool:
        """Whether the writing was cancelled by `leave`, and by nobody else."""
        return self._left and self._writer is not None and self._writer.uncancel() == 0


class _Watch:
    """One timer for all readers of a process: a task and a timer for each were a tenth of what an open stream holds."""

    def __init__(self) -> None:
        self._lines: set[_Line] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        """On which the timer runs, if it does."""

    def add(self, line: _Line) -> None:
        self._lines.add(line)
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            loop.call_later(LOOK_SECONDS, self._look, loop)

    def discard(self, line: _Line) -> None:
        self._lines.discard(line)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for line in list(self._lines):
            line.look(now)
        if self._lines and self._loop is loop:
            loop.call_later(LOOK_SECONDS, self._look, loop)
        else:
            self._loop = None


_watch = _Watch()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
