"""What every request passes, as plain ASGI: no wrapper task, and a stream's chunks go through untouched.

service/app.py shows their order.
"""

import asyncio
import ipaddress
import re
import secrets
from collections.abc import Iterable, Mapping

import orjson
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import RapportError, TooLargeError

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
HOST = re.compile(r"([A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?", re.ASCII)

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    # what the API answers is private to one user; pages and assets say otherwise themselves
    "Cache-Control": "no-store",
}
TRANSPORT_SECURITY = "max-age=31536000; includeSubDomains"


class HostNotAllowedError(RapportError):
    status, code, title = 400, "host_not_allowed", "This service is not known by that name"


class BodyTooSlowError(RapportError):
    status, code, title = 408, "body_too_slow", "The body took too long to arrive"


async def send_problem(send: Send, error: RapportError) -> None:
    """Answer in place of the application, which did not or must not see the request."""
    body = orjson.dumps(error.problem())
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        # what is left of the body is not going to be read
        (b"connection", b"close"),
        *((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in error.headers.items()),
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class ResponseHeaders:
    """Gives each request an id (the caller's, when it is a sane one) and each response the headers that protect it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        protection = SECURITY_HEADERS
        if scope.get("scheme") == "https":
            protection = {**SECURITY_HEADERS, "Strict-Transport-Security": TRANSPORT_SECURITY}

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                for name, value in protection.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)


class TrustedHost:
    """Answers only to names that are the service's own.

    A page of another site can point its own name at this address (DNS rebinding) and would then count as same-origin;
    and a poisoned Host finds its way into links and caches (CVE-2026-48710). Bare addresses, by which health checks and
    metrics come, can't be pointed elsewhere and always pass. Without names, a development machine answers to localhost.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str] = (), *, development: bool = False) -> None:
        self._app = app
        self._names = frozenset(name.lower().rstrip(".") for name in names)
        self._development = development

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._allowed(scope):
            await send_problem(send, HostNotAllowedError("The Host header names no host of this service."))
            return
        await self._app(scope, receive, send)

    def _allowed(self, scope: Scope) -> bool:
        values = [value for name, value in scope["headers"] if name == b"host"]
        if len(values) != 1:
            return False
        match = HOST.fullmatch(values[0].decode("latin-1"))
        if match is None:
            return False
        host = match[1].lower().rstrip(".")
        if _is_address(host):
            return True
        if self._names:
            return host in self._names or any(name.startswith("*.") and host.endswith(name[1:]) for name in self._names)
        return not self._development or host == "localhost"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


class BodyCap:
    """Counts a body while it is read: no missing or lying Content-Length gets past it, nor one byte a minute."""

    def __init__(
        self, app: ASGIApp, limit: int, larger: Mapping[str, int] | None = None, least_seconds: float = 10.0
    ) -> None:
        """`larger` gives other limits, in bytes, for some paths; a body has `least_seconds`, or 30 s for each MiB."""
        self._app = app
        self._limit = limit
        self._larger = larger or {}
        self._least_seconds = least_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._larger.get(scope["path"], self._limit)
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length[:20]) > limit:
            await send_problem(send, _too_large(limit))
            return
        await self._pass(scope, receive, send, limit)

    async def _pass(self, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        read, done, started = 0, False, False
        refused: RapportError | None = None
        deadline = asyncio.get_running_loop().time() + max(self._least_seconds, 30 * limit / 2**20)

        async def receive_counted() -> Message:
            nonlocal read, done, refused
            if done:
                return await receive()  # the wait for a disconnect, which may last as long as a stream
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                refused = BodyTooSlowError("The body did not arrive in time.")
                raise refused from None
            if message["type"] != "http.request":
                done = True
                return message
            read += len(message.get("body", b""))
            done = not message.get("more_body", False)
            if read > limit:
                refused = _too_large(limit)
                raise refused
            return message

        async def send_unless_refused(message: Message) -> None:
            nonlocal started
            if refused is None or started:
                started = True
                await send(message)

        try:
            await self._app(scope, receive_counted, send_unless_refused)
        except RapportError as error:
            if error is not refused:
                raise
        if refused is not None and not started:
            await send_problem(send, refused)


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"The body is larger than {limit} bytes.", limit=limit)
