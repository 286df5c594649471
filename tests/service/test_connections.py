"""Peers that neither send nor take are given up in time, and what they bind meanwhile is bounded."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from service.connections import ImpatientProtocol
from service.metrics import CONNECTIONS_DROPPED

CROWD = 50
CHUNK = b"x" * 16_384


class Quick(ImpatientProtocol):
    stalled_seconds = 0.5
    head_seconds = 0.5


class Flood:
    """Answers without end, and notes how much of it the server took and when it was told to stop."""

    def __init__(self) -> None:
        self.written = 0
        self.open = 0
        self.ended = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        self.open += 1
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            size = 4_000_000 if scope["path"] == "/endless" else 1
            while size > 0 and not gone.done():
                await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
                self.written += len(CHUNK)
                size -= len(CHUNK)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
            self.open -= 1
            if not self.open:
                self.ended.set()


async def _until_gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@pytest.fixture
def flood() -> Flood:
    return Flood()


@pytest.fixture
async def port(flood: Flood) -> AsyncIterator[int]:
    config = uvicorn.Config(flood, port=0, http=Quick, lifespan="off", log_config=None, timeout_keep_alive=1)
    server = uvicorn.Server(config)
    listening = socket.create_server(("127.0.0.1", 0))
    running = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started:  # noqa: ASYNC110  the server has no event for it
        await asyncio.sleep(0.01)
    yield listening.getsockname()[1]
    server.should_exit = True
    await running


def unread(port: int, words: bytes) -> socket.socket:
    """A connection whose owner asks and never reads."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    made.connect(("127.0.0.1", port))
    made.sendall(words)
    return made


def is_gone(peer: socket.socket) -> bool:
    """Whether the other side has given it up."""
    peer.setblocking(False)
    try:
        while peer.recv(65_536):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    return True


async def dropped(peers: list[socket.socket], seconds: float = 5.0) -> None:
    await asyncio.sleep(seconds)
    assert all(is_gone(peer) for peer in peers)
    for peer in peers:
        peer.close()


async def test_who_never_reads_is_dropped_and_binds_little(port: int, flood: Flood) -> None:
    before = CONNECTIONS_DROPPED.labels("took nothing")._value.get()
    peers = [unread(port, b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(CROWD)]
    await asyncio.sleep(0.3)
    assert flood.open == CROWD
    # what the kernel and the process took for each, whose answer has 4 MB
    assert flood.written / CROWD < 700_000
    async with asyncio.timeout(5):
        await flood.ended.wait()
    await dropped(peers, 0.2)
    assert CONNECTIONS_DROPPED.labels("took nothing")._value.get() - before == CROWD


async def test_an_answer_that_nobody_takes_holds_no_connection_that_is_closing(port: int, flood: Flood) -> None:
    peers = [unread(port, b"GET /short HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" * 1) for _ in range(5)]
    await dropped(peers, 2.5)
    assert flood.open == 0


@pytest.mark.parametrize("words", [b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_who_never_finishes_asking_is_dropped(port: int, words: bytes) -> None:
    peers = [unread(port, words) for _ in range(5)]
    await dropped(peers, 1.2)


async def test_half_a_request_after_a_whole_one_is_dropped_too(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /short HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"\r\n0\r\n\r\n")
    writer.write(b"GET /short HTT")
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(3):
            assert await reader.read() == b""
    writer.close()


async def test_who_reads_slowly_but_reads_gets_everything(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
    writer.write(b"GET /endless HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    taken, began = 0, asyncio.get_running_loop().time()
    while piece := await reader.read(131_072):
        taken += len(piece)
        await asyncio.sleep(0.02)
    assert taken > 4_000_000
    assert asyncio.get_running_loop().time() - began > Quick.stalled_seconds
    writer.close()
