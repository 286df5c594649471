"""Connections that give up on peers who neither send nor take: what uvicorn leaves to a proxy in front of it.

A response that is written to nobody stops at a full buffer, and closing such a connection waits for the buffer to empty.
So both have a deadline that ends in an abort, and what one such peer can bind is bounded, in the process and in the kernel.
"""

import asyncio
import socket
import struct
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.metrics import CONNECTIONS_DROPPED

STALLED_SECONDS = 20.0
"""Without taking a byte of what waits for it, a peer is dropped; it can come back and resume."""
HEAD_SECONDS = 20.0
"""For a request's line and headers; the body has its own deadline (service.middleware.BodyCap)."""
WRITE_BUFFER = 16_384
"""Bytes that wait in the process before writers wait too."""
SEND_BUFFER = 131_072
"""Bytes that the kernel keeps for one peer, which it doubles; left alone it goes to megabytes."""

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER's value that makes closing a reset."""


class ImpatientProtocol(HttpToolsProtocol):
    stalled_seconds = STALLED_SECONDS
    head_seconds = HEAD_SECONDS

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._stalled: asyncio.TimerHandle | None = None
        self._expected: asyncio.TimerHandle | None = None
        self.unused_since: float | None = None
        """On the loop's clock; None while a request or its answer is under way."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=WRITE_BUFFER)
        peer = transport.get_extra_info("socket")
        if peer is not None:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self.unused_since = self.loop.time()
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        _cancel(self._stalled)
        _cancel(self._expected)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._expected is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_head()
        super().data_received(data)

    def on_message_begin(self) -> None:
        self.unused_since = None
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        _cancel(self._expected)
        self._expected = None
        super().on_headers_complete()
        if self.cycle is not None and getattr(self.server_state, "leaving", False):
            self.cycle.keep_alive = False  # the answer says so, and nobody sends another request after it

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_taking()

    def resume_writing(self) -> None:
        _cancel(self._stalled)
        self._stalled = None
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._expect_taking()

    def on_response_complete(self) -> None:
        self.unused_since = self.loop.time()
        super().on_response_complete()
        if self.transport.is_closing():
            self._expect_taking()

    def _expect_taking(self) -> None:
        """For what waits now, and for closing, which waits until what is left was taken."""
        if self._stalled is None:
            self._stalled = self.loop.call_later(self.stalled_seconds, self._drop, "took nothing")

    def _expect_head(self) -> None:
        self._expected = self.loop.call_later(self.head_seconds, self._drop, "sent no request")

    def _drop(self, why: str) -> None:
        CONNECTIONS_DROPPED.labels(why).inc()
        peer = self.transport.get_extra_info("socket")
        if peer is not None:
            # a plain close would leave what the peer does not take in the kernel, for minutes
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.transport.abort()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
