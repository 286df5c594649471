"""A model server's stream is closed at once when its writer is halted, also as it opens: it holds a permit, and is paid for."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any, cast
from uuid import uuid4

import pytest

from memory.turns import ClaimedTurn
from service.chat.live import LiveReply
from service.chat.rhythm import Rhythm
from service.chat.writer import ReplyWriter, Tools
from service.llm.ports import Delta, Opened, Target
from sessions.logs import LocalReplyLog
from sessions.replies import Log

TARGET = Target("b", "m", scripted=True, prompt_tokens=100, reply_tokens=100, count=len)


class Upstream:
    """A stream that has begun."""

    def __init__(self) -> None:
        self.closed = False

    async def opened(self) -> Opened:
        deltas = self._deltas()
        await anext(deltas)
        return Opened(TARGET, deltas)

    async def _deltas(self) -> AsyncGenerator[Delta, None]:
        try:
            yield Delta()
            yield Delta(text="never read")
        finally:
            self.closed = True


@pytest.fixture
def writer() -> ReplyWriter:
    turn = ClaimedTurn(uuid4(), uuid4(), uuid4(), uuid4(), 1, 1, "", {}, "general", datetime.now(UTC))
    nothing = cast("Any", None)
    tools = Tools(
        database=nothing,
        replies=LocalReplyLog(),
        backends=nothing,
        leases=nothing,
        rhythm=Rhythm([], 0.0),
        lease_seconds=60.0,
        reply_tokens=100,
        reasoning="never",
    )
    log = Log(turn.user_id, turn.conversation_id, turn.turn_id)
    return ReplyWriter(turn, LiveReply(log, []), tools, nothing, nothing)


async def test_a_halt_that_comes_as_the_stream_opens_closes_it(writer: ReplyWriter) -> None:
    upstream = Upstream()
    opening: asyncio.Future[Opened] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(writer._or_halt(opening))
    await asyncio.sleep(0.01)
    opening.set_result(await upstream.opened())
    writer.halt("stop")
    with pytest.raises(Exception, match="stop"):
        await waiting
    assert upstream.closed


async def test_a_halt_before_the_first_step_of_reading_closes_it(writer: ReplyWriter) -> None:
    upstream = Upstream()
    opening: asyncio.Future[Opened] = asyncio.get_running_loop().create_future()
    opening.set_result(await upstream.opened())
    writer._opening = opening
    writer.halt("stop")
    with pytest.raises(Exception, match="stop"):
        await writer._stream_once(cast("Any", None))
    assert upstream.closed
