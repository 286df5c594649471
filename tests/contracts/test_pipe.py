"""The shared connection to Redis gives up on a server that is silent, and never for an event loop that is late."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import redis.asyncio

from sessions.pipe import SECOND_LOOK, Pipe

PATIENCE = 0.3


@pytest.fixture
async def pipe(redis_url: str) -> AsyncIterator[Pipe]:
    client = redis.asyncio.Redis.from_url(redis_url)
    connection = client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
    await connection.connect()
    opened = Pipe(connection, PATIENCE)
    yield opened
    opened.close()
    await client.aclose()


async def test_an_answer_that_lies_in_the_socket_is_not_late(pipe: Pipe) -> None:
    answered = pipe.ask([("PING",)])
    await asyncio.sleep(0)  # it is sent
    time.sleep(3 * PATIENCE)  # noqa: ASYNC251  the event loop is busy, and Redis has answered long since
    assert await answered == [b"PONG"]
    assert not pipe.broken


async def test_a_silent_server_is_given_up_for_all_who_wait(pipe: Pipe) -> None:
    began = time.monotonic()
    first = pipe.ask([("BLPOP", "nothing comes here", "30")])
    await asyncio.sleep(PATIENCE / 2)
    second = pipe.ask([("PING",)])
    heard = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(answer) for answer in heard] == [TimeoutError, TimeoutError]
    assert time.monotonic() - began >= PATIENCE + SECOND_LOOK - 0.01
    assert pipe.broken


async def test_a_quiet_time_between_questions_is_nobodys_fault(pipe: Pipe) -> None:
    for _ in range(3):
        assert await pipe.ask([("PING",)]) == [b"PONG"]
        await asyncio.sleep(1.5 * PATIENCE)
    assert not pipe.broken
