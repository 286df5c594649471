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
        pump = asyncio.create_task(self._pump(line), name="event-stream")
        gone = asyncio.create_task(_disconnected(receive), name="event-stream-reader")
        stuck = asyncio.create_task(line.watch(), name="event-stream-watch")
        tasks = (pump, gone, stuck)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if pump.done():
                pump.result()
        finally:
            READERS.dec()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._admission is not None:
                await asyncio.shield(self._admission.aclose())

    async def _pump(self, line: "_Line") -> None:
        await line.write({"type": "http.response.start", "status": 200, "headers": self._head})
        async for batch in self._source:
            if body := b"".join(map(self._encode, batch)):
                await line.write({"type": "http.response.body", "body": body, "more_body": True})
        await line.write({"type": "http.response.body", "body": self._tail, "more_body": False})


class _Line:
    """One reader's connection. Its pings and its deadline are looked after beside the writing, which they cost nothing:
    a timer for each batch took as long as the batch itself."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._clock = asyncio.get_running_loop().time
        self._since = self._clock()
        """When the current write began, or the last one ended."""
        self._writing = asyncio.Lock()

    async def write(self, message: dict[str, object]) -> None:
        async with self._writing:
            self._since = self._clock()
            await self._send(message)
            self._since = self._clock()

    async def watch(self) -> None:
        """Ping a quiet reader; return when one takes nothing any more."""
        while True:
            waited = self._clock() - self._since
            if not self._writing.locked():
                if waited >= PING_SECONDS:
                    await self.write({"type": "http.response.body", "body": PING, "more_body": True})
                    continue
                await asyncio.sleep(PING_SECONDS - waited)
            elif waited >= SEND_SECONDS:
                return
            else:
                await asyncio.sleep(SEND_SECONDS - waited)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
