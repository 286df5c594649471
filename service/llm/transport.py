"""The one HTTP client of all backends, with its limits set on purpose."""

import asyncio
import errno
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace, TracebackType
from typing import Self

import aiohttp

MAX_CONNECTIONS = 4096
"""Beyond any sum of permits: concurrency is limited by permits, where the queue is fair and can be seen."""


def open_session() -> aiohttp.ClientSession:
    """Return a session for streams: no total time limit, cookies, compression or proxies of the environment."""
    connector = aiohttp.TCPConnector(limit=MAX_CONNECTIONS, limit_per_host=0, keepalive_timeout=30, ttl_dns_cache=60)
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, sock_read=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "rapport", "Accept-Encoding": "identity"},
        trust_env=False,
        trace_configs=[_reuse_told()],
    )


def _reuse_told() -> aiohttp.TraceConfig:
    """Tell a request, in the dict it brings, that it went out on a connection that was used before."""

    async def reused(_session: aiohttp.ClientSession, context: SimpleNamespace, _params: object) -> None:
        if isinstance(told := context.trace_request_ctx, dict):
            told["reused"] = True

    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(reused)
    return trace


class Watchdog:
    """Closes a response when a deadline passes; moving the deadline away costs an assignment, not a timer.

    `expired` tells afterwards that it was the watchdog and not the server that hung up.
    """

    def __init__(self, response: aiohttp.ClientResponse, deadline: float) -> None:
        self._response = response
        self._loop = asyncio.get_running_loop()
        self.deadline = deadline
        self.expired = False
        self._timer = self._loop.call_at(deadline, self._look)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()

    def move(self, deadline: float) -> None:
        """Set a new deadline; the timer itself is touched only when it would ring too late."""
        self.deadline = deadline
        if deadline < self._timer.when():
            self._timer.cancel()
            self._timer = self._loop.call_at(deadline, self._look)

    def _look(self) -> None:
        if self._loop.time() < self.deadline:
            self._timer = self._loop.call_at(self.deadline, self._look)
            return
        self.expired = True
        self._response.close()


@contextmanager
def held(response: aiohttp.ClientResponse) -> Iterator[None]:
    """Leave what arrives to the kernel while the block runs; one read then brings it all.

    At 50 tokens a second each token is a segment of its own, and waking for each costs more than all that is done with
    it (docs/performance.md).
    """
    connection = response.connection
    transport = connection.transport if connection is not None else None
    if transport is None or transport.is_closing():
        yield
        return
    transport.pause_reading()
    try:
        yield
    finally:
        if not transport.is_closing():
            transport.resume_reading()


async def read_capped(response: aiohttp.ClientResponse, *, cap: int = 1 << 22, patience: float = 30.0) -> bytes:
    """Return a body of at most `cap` bytes; what is longer or slower than `patience` seconds is cut."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(patience):
            while size < cap and (part := await response.content.readany()):
                parts.append(part)
                size += len(part)
    except TimeoutError:
        response.close()
    return b"".join(parts)[:cap]


async def drain(response: aiohttp.ClientResponse) -> None:
    """Let the last bytes of a finished stream come, so that its connection can be used again."""
    if response.content.at_eof():
        return
    try:
        async with asyncio.timeout(0.02):
            while await response.content.readany():
                pass
    except (TimeoutError, aiohttp.ClientError):
        response.close()


def reason_of(error: Exception) -> str:
    """Return in plain words why there is no connection."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        return "no secure connection: the certificate is not trusted, or the address speaks plain http"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the host's name is not known"
    if isinstance(error, aiohttp.ClientConnectorError) and error.errno in {errno.ECONNREFUSED, None}:
        return "nobody listens at that address"
    if isinstance(error, aiohttp.ServerDisconnectedError | ConnectionResetError):
        return "it hung up without an answer"
    return f"not reachable ({error.__class__.__name__})"
