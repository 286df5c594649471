"""Host names, request ids, protecting headers, and bodies that are too large or too slow, on a real server socket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import orjson
import pytest
import uvicorn
from fastapi import FastAPI, Request
from starlette.types import ASGIApp

from service.middleware import BodyCap, ResponseHeaders, TrustedHost

LIMIT = 2000


def make_app(least_seconds: float = 10, **host: Any) -> ASGIApp:
    app = FastAPI()

    @app.post("/echo")
    async def echo(body: dict[str, Any]) -> dict[str, int]:
        return {"keys": len(body)}

    @app.post("/raw")
    async def raw(request: Request) -> dict[str, Any]:
        return {"read": len(await request.body()), "id": request.state.request_id}

    @app.post("/large")
    async def large(request: Request) -> dict[str, int]:
        return {"read": len(await request.body())}

    @app.post("/unread")
    async def unread() -> dict[str, bool]:
        return {"ok": True}

    return ResponseHeaders(
        TrustedHost(BodyCap(app, LIMIT, {"/large": 10 * LIMIT}, least_seconds=least_seconds), **host)
    )


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(make_app()), base_url="http://testserver") as client:
        yield client


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[int]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_level="critical", ws="none"))
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  uvicorn has no event for it
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


async def exchange(port: int, raw: bytes, *, wait: float = 5) -> tuple[int, dict[str, Any]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(raw)
        await writer.drain()
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), wait)
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return int(head[9:12]), orjson.loads(await asyncio.wait_for(reader.readexactly(length), wait))
    finally:
        writer.close()


async def test_a_body_within_the_cap_passes(client: httpx.AsyncClient) -> None:
    assert (await client.post("/raw", content=b"x" * LIMIT)).json()["read"] == LIMIT
    assert (await client.post("/large", content=b"x" * 5 * LIMIT)).json()["read"] == 5 * LIMIT


@pytest.mark.parametrize("path", ["/raw", "/echo"])
async def test_a_body_beyond_the_cap_is_refused(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.post(path, content=b'{"a":"' + b"x" * LIMIT + b'"}')
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/raw", "/echo"])
async def test_a_body_without_length_is_counted_while_it_is_read(path: str) -> None:
    """Sent in chunks, as who wants past a check of Content-Length would."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\n"
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    chunk = b"1F4\r\n" + b"x" * 500 + b"\r\n"
    async with serving(make_app()) as port:
        within, _ = await exchange(port, head.encode() + chunk * 4 + b"0\r\n\r\n")
        assert within == (200 if path == "/raw" else 422)
        status, problem = await exchange(port, head.encode() + chunk * 5)  # never ended: the fifth is enough
    assert (status, problem["code"]) == (413, "too_large")


async def test_a_body_that_drips_is_given_up() -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    async with serving(make_app(least_seconds=0.3)) as port:
        status, problem = await exchange(port, head, wait=3)
    assert (status, problem["code"]) == (408, "body_too_slow")


async def test_an_answer_that_does_not_read_the_body_is_left_alone(client: httpx.AsyncClient) -> None:
    assert (await client.post("/unread", content=b"{}")).json() == {"ok": True}


async def test_a_sane_request_id_is_kept_and_another_replaced(client: httpx.AsyncClient) -> None:
    kept = await client.post("/raw", headers={"X-Request-Id": "abc-123"})
    assert kept.headers["x-request-id"] == kept.json()["id"] == "abc-123"
    for bad in ("", "a b", "x" * 65, "a;b", "é"):
        answer = await client.post("/raw", headers=[(b"X-Request-Id", bad.encode())])
        assert answer.headers["x-request-id"] == answer.json()["id"] != bad


@pytest.mark.parametrize(
    ("host", "options", "status"),
    [
        (b"chat.example", {"names": ["chat.example"]}, 200),
        (b"CHAT.example:8443", {"names": ["chat.example"]}, 200),
        (b"eu.chat.example", {"names": ["*.chat.example"]}, 200),
        (b"evilchat.example", {"names": ["*.chat.example"]}, 400),
        (b"10.0.0.7:8000", {"names": ["chat.example"]}, 200),
        (b"10.0.0.7.evil.example", {"names": ["chat.example"]}, 400),
        (b"localhost", {"names": ["chat.example"]}, 400),
        (b"evil.example", {"names": ["chat.example"]}, 400),
        (b"chat.example.evil.example", {"names": ["chat.example"]}, 400),
        (b"chat.example@evil.example", {"names": ["chat.example"]}, 400),
        (b"chat.example/../admin", {}, 400),
        (b"chat.example?x", {}, 400),
        (b"chat.example#", {}, 400),
        (b"a b", {}, 400),
        (b"", {}, 400),
        (b"chat.example:99999999", {}, 400),
        (b"anything.example", {}, 200),
        (b"rebound.example", {"development": True}, 400),
        (b"localhost:8000", {"development": True}, 200),
        (b"127.0.0.1:8000", {"development": True}, 200),
        (b"[::1]:8000", {"development": True}, 200),
        (b"192.168.1.5", {"development": True}, 200),
    ],
)
async def test_a_forged_host_reaches_nothing(host: bytes, options: dict[str, Any], status: int) -> None:
    async with serving(make_app(**options)) as port:
        found, body = await exchange(
            port, b"POST /unread HTTP/1.1\r\nHost: " + host + b"\r\nContent-Length: 2\r\n\r\n{}"
        )
    assert found == status
    assert status == 200 or body["code"] == "host_not_allowed"


async def test_two_hosts_and_no_host_are_refused() -> None:
    async with serving(make_app()) as port:
        twice = b"POST /unread HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\nContent-Length: 0\r\n\r\n"
        assert (await exchange(port, twice))[0] == 400
        assert (await exchange(port, b"POST /unread HTTP/1.0\r\nContent-Length: 0\r\n\r\n"))[0] == 400


async def test_every_answer_carries_the_protecting_headers_unless_it_has_its_own(client: httpx.AsyncClient) -> None:
    for path in ("/raw", "/absent"):
        answer = await client.post(path)
        assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert answer.headers["cache-control"] == "no-store"
        assert "strict-transport-security" not in answer.headers
    async with httpx.AsyncClient(transport=httpx.ASGITransport(make_app()), base_url="https://testserver") as secure:
        assert "max-age" in (await secure.post("/raw")).headers["strict-transport-security"]
