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
        pump = asyncio.create_task(self._pump(send), name="event-stream")
        gone = asyncio.create_task(_disconnected(receive), name="event-stream-reader")
        try:
            await asyncio.wait({pump, gone}, return_when=asyncio.FIRST_COMPLETED)
            if pump.done():
                pump.result()
        finally:
            READERS.dec()
            for task in (pump, gone):
                task.cancel()
            await asyncio.gather(pump, gone, return_exceptions=True)
            if self._admission is not None:
                await asyncio.shield(self._admission.aclose())

    async def _pump(self, send: Send) -> None:
        await _write(send, {"type": "http.response.start", "status": 200, "headers": self._head})
        source = aiter(self._source)
        while True:
            upcoming = asyncio.ensure_future(anext(source, None))
            try:
                while not upcoming.done():
                    done, _ = await asyncio.wait({upcoming}, timeout=PING_SECONDS)
                    if not done:
                        await _write(send, {"type": "http.response.body", "body": PING, "more_body": True})
            except BaseException:
                upcoming.cancel()
                raise
            batch = upcoming.result()
            if batch is None:
                break
            body = b"".join(map(self._encode, batch))
            if body:
                await _write(send, {"type": "http.response.body", "body": body, "more_body": True})
        await _write(send, {"type": "http.response.body", "body": self._tail, "more_body": False})


async def _write(send: Send, message: dict[str, object]) -> None:
    async with asyncio.timeout(SEND_SECONDS):
        await send(message)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
