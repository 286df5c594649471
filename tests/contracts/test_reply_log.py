"""Every reply log keeps the same promises."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import orjson
import pytest

from memory.vault import LiveKeys, MasterKey
from sessions.config import RedisConfig
from sessions.errors import LiveStateUnavailableError, OwnerMismatchError
from sessions.keys import reply_key
from sessions.link import RedisLink
from sessions.logs import LocalReplyLog, RedisReplyLog
from sessions.replies import ANYTHING, EMPTY, Appended, Event, EventId, Log, ReplyLog, contiguous


@pytest.fixture(params=["redis", "sealed", "local"])
async def replies(request: pytest.FixtureRequest) -> AsyncIterator[ReplyLog]:
    if request.param == "local":
        yield LocalReplyLog()
        return
    link = RedisLink(RedisConfig(request.getfixturevalue("redis_url")))
    yield RedisReplyLog(link, LiveKeys([MasterKey(b"m" * 32)]) if request.param == "sealed" else None)
    await link.aclose()


@pytest.fixture
def log() -> Log:
    return Log(uuid4(), uuid4(), uuid4())


def delta(epoch: int, n: int, text: str = "x") -> Event:
    return Event(EventId(epoch, n), "reply.delta", orjson.dumps({"text": text}))


async def test_appends_in_order_and_reads_on(replies: ReplyLog, log: Log) -> None:
    assert await replies.append(log, EMPTY, [delta(1, 0, "a"), delta(1, 1, "b")]) is Appended.OK
    assert await replies.append(log, "1-1", [delta(1, 2, "c")]) is Appended.OK
    assert [str(item.id) for item in await replies.read(log)] == ["1-0", "1-1", "1-2"]
    assert [str(item.id) for item in await replies.read(log, EventId(1, 1))] == ["1-2"]
    assert await replies.read(log, EventId(1, 2)) == []


async def test_a_repeated_append_is_applied_once(replies: ReplyLog, log: Log) -> None:
    await replies.append(log, EMPTY, [delta(1, 0)])
    for _ in range(3):
        assert await replies.append(log, "1-0", [delta(1, 1), delta(1, 2)]) is Appended.OK
    assert len(await replies.read(log)) == 3


async def test_a_writer_of_an_earlier_epoch_is_fenced(replies: ReplyLog, log: Log) -> None:
    await replies.append(log, EMPTY, [delta(1, 0)])
    assert await replies.append(log, "1-0", [delta(2, 0)]) is Appended.OK
    assert await replies.append(log, "1-0", [delta(1, 1)]) is Appended.FENCED
    assert await replies.append(log, ANYTHING, [delta(1, 1)]) is Appended.FENCED
    assert [str(item.id) for item in await replies.read(log)] == ["1-0", "2-0"]


async def test_a_log_that_is_not_what_the_writer_wrote_is_lost(replies: ReplyLog, log: Log) -> None:
    await replies.append(log, EMPTY, [delta(1, 0), delta(1, 1)])
    await replies.drop(log)
    assert await replies.append(log, "1-1", [delta(1, 2)]) is Appended.LOST
    assert await replies.append(log, ANYTHING, [delta(1, 2)]) is Appended.OK
    assert await replies.append(log, EMPTY, [delta(1, 3)]) is Appended.LOST


async def test_another_users_log_is_not_read(replies: ReplyLog, log: Log) -> None:
    await replies.append(log, EMPTY, [delta(1, 0)])
    stranger = Log(uuid4(), log.conversation_id, log.turn_id)
    with pytest.raises(OwnerMismatchError):
        await replies.read(stranger)


async def test_many_logs_are_read_at_once(replies: ReplyLog, log: Log) -> None:
    other = Log(uuid4(), uuid4(), uuid4())
    await replies.append(log, EMPTY, [delta(1, 0)])
    await replies.append(other, EMPTY, [delta(1, 0), delta(1, 1)])
    found = await replies.read_many([(log, None), (other, EventId(1, 0)), (Log(uuid4(), uuid4(), uuid4()), None)])
    assert [len(events) if isinstance(events, list) else events for events in found] == [1, 1, 0]


async def test_simultaneous_appends_of_many_replies_all_arrive(replies: ReplyLog) -> None:
    logs = [Log(uuid4(), uuid4(), uuid4()) for _ in range(100)]

    async def write(log: Log) -> None:
        top = EMPTY
        for n in range(20):
            assert await replies.append(log, top, [delta(1, n)]) is Appended.OK
            top = f"1-{n}"

    await asyncio.gather(*(write(log) for log in logs))
    assert [len(await replies.read(log)) for log in logs] == [20] * 100


async def test_a_flushed_server_forgets_the_script_and_no_append(redis_url: str, log: Log) -> None:
    link = RedisLink(RedisConfig(redis_url))
    replies = RedisReplyLog(link)
    await replies.append(log, EMPTY, [delta(1, 0)])
    await link.client.script_flush()
    assert await replies.append(log, "1-0", [delta(1, 1)]) is Appended.OK
    assert len(await replies.read(log)) == 2
    await link.aclose()


async def test_a_log_expires(redis_url: str, log: Log) -> None:
    link = RedisLink(RedisConfig(redis_url))
    await RedisReplyLog(link).append(log, EMPTY, [delta(1, 0)])
    assert 3_500_000 < await link.client.pttl(reply_key(log.conversation_id, log.turn_id)) <= 3_600_000
    await link.aclose()


async def test_a_server_that_is_away_says_so_quickly() -> None:
    link = RedisLink(RedisConfig("redis://127.0.0.1:1/0", timeout=0.2))
    replies = RedisReplyLog(link)
    with pytest.raises(LiveStateUnavailableError):
        await replies.append(Log(uuid4(), uuid4(), uuid4()), EMPTY, [delta(1, 0)])
    assert link.resting
    await link.aclose()


@pytest.mark.parametrize(
    ("after", "events", "whole"),
    [
        (None, [delta(1, 0), delta(1, 1)], True),
        (None, [delta(1, 1)], False),
        (EventId(1, 1), [delta(1, 2)], True),
        (EventId(1, 1), [delta(1, 3)], False),
        (EventId(1, 1), [Event(EventId(2, 0), "turn.taken_over", b'{"after":"1-1"}'), delta(2, 1)], True),
        (EventId(1, 1), [Event(EventId(2, 0), "turn.taken_over", b'{"after":"1-4"}')], False),
        (EventId(1, 1), [delta(2, 0)], False),
        (EventId(1, 1), [Event(EventId(1, 9), "turn.rebased", b'{"text":""}'), delta(1, 10)], True),
    ],
)
def test_a_hole_is_seen(after: EventId | None, events: list[Event], whole: bool) -> None:
    assert contiguous(after, events) is whole


@pytest.mark.parametrize("text", ["", "1", "1-", "-1", "a-b", "1-1-1", "9999999999-1", "1-1\x00", "１-１"])
def test_other_ids_are_refused(text: str) -> None:
    assert EventId.parse(text) is None
